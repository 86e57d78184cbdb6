"""How a policy is laid over the one that it extends. Works on documents, so every value keeps its place.

- Mappings are merged key by key, and so are those inside them: ``snapshots: {keep: 3}`` changes nothing else.
- Of ``monitors`` and ``regulators``, one of another ``type`` replaces that of the base as a whole, and
  ``NAME: null`` takes it away.
- ``signals`` are added to those of the base.
- ``rules`` go by their ``name``: of one that the base has, the keys that are written here are replaced, each
  as a whole (a ladder is never mixed of two), and ``KEY: null`` takes one away. The rule itself goes with
  ``{name: NAME, remove: true}``. New ones come after those of the base, which stay in their order.
- All else is replaced. Where nothing is written behind ``monitors:`` or ``rules:``, nothing changes.

To change or to take away what the base does not have is a mistake. The language's own checks come later and
see one document, so nothing here judges more than whether the two fit together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from .document import Entry, Fault, Node
from .names import nearest

Merge = Callable[[Node, Node, list[Fault]], Node]


def merge(base: Node, own: Node, faults: list[Fault]) -> Node:
    """A document laid over the one that it extends. What does not fit goes to ``faults``, and is left out."""
    if base.entries is None or own.entries is None:
        return own
    merged = {**base.entries}
    for key, (place, node) in own.entries.items():
        how = _SECTIONS.get(key, _deep)
        merged[key] = Entry(place, how(merged[key].node, node, faults) if key in merged else node)
    return Node(own.place, {key: entry for key, entry in merged.items() if key != "extends"})


def _deep(base: Node, own: Node, faults: list[Fault]) -> Node:
    """Mappings key by key, all else replaced."""
    if base.entries is None or own.entries is None:
        return own
    merged = {**base.entries}
    for key, (place, node) in own.entries.items():
        merged[key] = Entry(place, _deep(merged[key].node, node, faults) if key in merged else node)
    return Node(own.place, merged)


def _added(base: Node, own: Node, faults: list[Fault]) -> Node:
    """The items of both lists, each once."""
    if base.items is None or own.items is None:
        return base if own.value is None else own
    there = {item.text for item in base.items}
    return Node(own.place, [*base.items, *(item for item in own.items if item.text not in there)])


def _named(kind: str) -> Merge:
    """Merges mappings from names: of monitors, of regulators."""

    def merged_names(base: Node, own: Node, faults: list[Fault]) -> Node:
        if base.entries is None or own.entries is None:
            return base if own.value is None else own
        merged = {**base.entries}
        for name, (place, node) in own.entries.items():
            changes = node.value is None or (node.entries is not None and "type" not in node.entries)
            if changes and name not in base.entries:
                faults.append(Fault(place, _lacking(kind, name, base.entries)))
            elif node.value is None:
                del merged[name]
            elif name in base.entries and _type(node) in (None, _type(base.entries[name].node)):
                merged[name] = Entry(place, _deep(base.entries[name].node, node, faults))
            else:
                merged[name] = Entry(place, node)
        return Node(own.place, merged)

    return merged_names


def _rules(base: Node, own: Node, faults: list[Fault]) -> Node:
    """Rules by their names; what is none, or has none, is left for the schema to judge."""
    if base.items is None or own.items is None:
        return base if own.value is None else own
    there = {_name(rule): rule for rule in reversed(base.items) if _name(rule)}
    changed: dict[str, Node | None] = {}
    new: list[Node] = []
    for rule in own.items:
        name, entries = _name(rule), rule.entries or {}
        if not name or name in changed or (name not in there and {"when", "ladder"} <= entries.keys()):
            new.append(rule)
        elif name not in there:
            faults.append(Fault(entries["name"].node.place, _lacking("rule", name, there)))
        elif "remove" in entries:
            changed[name] = None
            faults += _objections_to_removal(name, entries)
        else:
            keys = {**(there[name].entries or {}), **entries}
            left = {key: entry for key, entry in keys.items() if entry.node.value is not None}
            changed[name] = Node(rule.place, left)
    kept = (changed.get(_name(rule), rule) if rule is there.get(_name(rule)) else rule for rule in base.items)
    return Node(own.place, [*(rule for rule in kept if rule is not None), *new])


def _objections_to_removal(name: str, entries: Mapping[str, Entry]) -> Iterable[Fault]:
    if entries["remove"].node.value is not True:
        yield Fault(entries["remove"].node.place, f"rule '{name}': remove can only be true")
    for key, (place, _) in entries.items():
        if key not in ("name", "remove"):
            yield Fault(place, f"rule '{name}': of a rule that is removed nothing else is said")


def _lacking(kind: str, name: str, there: Iterable[str]) -> str:
    return f"what this policy extends has no {kind} '{name}' to change or remove{nearest(name, there)}"


def _name(rule: Node) -> str:
    name = (rule.entries or {}).get("name")
    return name.node.text if name and isinstance(name.node.value, str) else ""


def _type(node: Node) -> str | None:
    kind = (node.entries or {}).get("type")
    return None if kind is None else kind.node.text


_SECTIONS: Mapping[str, Merge] = {
    "monitors": _named("monitor"),
    "regulators": _named("regulator"),
    "signals": _added,
    "rules": _rules,
}
"""Keys of a policy that are not simply merged key by key."""
