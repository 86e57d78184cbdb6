"""Ways to spoil a policy file: each takes a text and a random generator, and gives another text.

They know what a policy is made of, since noise alone would hardly get beyond the YAML parser: characters,
tokens and lines are changed in any text, nodes and expressions in one that reads as a document.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from random import Random
from typing import Any

from midcourse.monitors.registry import MONITORS
from midcourse.policies.actions import ACTIONS
from midcourse.policies.document import Entry, Fault, Node, Place, read_document
from midcourse.policies.expression_compiler import RESERVED
from midcourse.policies.expression_terms import CONDITIONS, NUMBERS
from midcourse.policies.writing import write_document

Mutator = Callable[[str, Random], str]

_TOKEN = re.compile(r"[\w./*=-]+|[^\w\s]")
_TOKENS = (
    *"{}[]:,'\"-?#|>&*!%@`\n\t\x00\x07\x85\u2028\ufeff\ufffeé😀",
    *(
        "&a",
        "*a",
        "!!x",
        "<<: ",
        "---",
        "...",
        "%YAML 1.1",
        "- ",
        ": ",
        " #",
        "|-",
        '"\\ud800"',
        '"\\x1b"',
        "\r\n",
    ),
    *(
        "1e400",
        "-1e400",
        ".nan",
        "-.inf",
        "9" * 30,
        "9" * 400,
        "0x" + "f" * 300,
        "1_000",
        "0o17",
        "12:30",
        "0",
        "-1",
    ),
    *(
        "1.5",
        "1e-320",
        "true",
        "null",
        "~",
        "yes",
        "on",
        "x" * 5000,
        "é" * 300,
        "() " * 200,
        "[" * 60,
        "{a: " * 60,
    ),
    *("any(", ")", "this", "this.bad", "source.bad", "loss", "signal", "**", "before", "target", "__class__"),
    *ACTIONS,
    *MONITORS,
)
_KEYS = (
    *("version", "extends", "mode", "signals", "snapshots", "checkpoints", "monitors", "rules", "limits"),
    *("name", "when", "unless", "for", "foreach", "cooldown", "budget", "ladder", "verify", "remove", "type"),
    *(
        "signal",
        "acts",
        "per",
        "max",
        "within",
        "expect",
        "to",
        "source",
        "hold",
        "",
        "<",
        "a b",
        "é\n",
        "x" * 999,
    ),
)


def characters(text: str, random: Random) -> str:
    """One to three characters put in, taken out, or changed for one another."""
    for _ in range(random.randint(1, 3)):
        at = random.randrange(len(text) + 1)
        new = random.choice((*_TOKENS[:30], chr(random.randrange(0xD800)), text[at : at + 1] * 2, ""))
        text = text[:at] + new + text[at + random.randint(0, 1) :]
    return text


def tokens(text: str, random: Random) -> str:
    """A word or sign replaced by another one, of the text or of those that mean something."""
    spans = [match.span() for match in _TOKEN.finditer(text)] or [(0, 0)]
    start, end = random.choice(spans)
    other = text[slice(*random.choice(spans))]
    return text[:start] + random.choice((other, "", *_TOKENS)) + text[end:]


def lines(text: str, random: Random) -> str:
    """Lines left out, doubled, exchanged, moved in or out."""
    rows = text.split("\n")
    for _ in range(random.randint(1, 3)):
        at, other = random.randrange(len(rows)), random.randrange(len(rows))
        match random.randrange(5):
            case 0:
                del rows[at]
                rows = rows or [""]
            case 1:
                rows[other:other] = [rows[at]] * random.choice((1, 1, 200))
            case 2:
                rows[at], rows[other] = rows[other], rows[at]
            case 3:
                rows[at] = " " * random.randint(1, 4) + rows[at]
            case 4:
                rows[at] = rows[at][random.randint(1, 3) :]
    return "\n".join(rows)


def nodes(text: str, random: Random) -> str:
    """Values of another type or size, keys gone, renamed or new, lists longer or shorter."""
    document = _document(text)
    for _ in range(random.randint(1, 2)):
        document = _changed(document, random.choice(_paths(document)), lambda node: _other(node, random))
    return write_document(document)


def expressions(text: str, random: Random) -> str:
    """A condition replaced by one of the grammar, or spoiled as text."""
    document = _document(text)
    where = [path for path in _paths(document) if path and path[-1] in ("when", "unless", "expect")]
    names = [*((_keys(document, "monitors")) or ["rise"]), "loss", "this", 'signal("eval/loss")']

    def change(node: Node) -> Node:
        made = _condition(random, names, random.choice((1, 2, 3, 3, 12)))
        raw = random.choice((tokens, characters))(node.text or made, random)
        return _word(random.choice((made, made, raw, f"  {made}\n")))

    return write_document(_changed(document, random.choice(where), change) if where else document)


def raw_bytes(text: str, random: Random) -> str:
    """Bytes that are no text, told as what ``surrogateescape`` makes of them."""
    at = random.randrange(len(text) + 1)
    return (
        text[:at]
        + bytes(random.choices(range(256), k=random.randint(1, 4))).decode("utf-8", "surrogateescape")
        + text[at:]
    )


MUTATORS: Mapping[str, Mutator] = {
    "characters": characters,
    "tokens": tokens,
    "lines": lines,
    "nodes": nodes,
    "expressions": expressions,
    "bytes": raw_bytes,
}


@lru_cache(maxsize=100)  # of the texts that are spoiled again and again
def _document(text: str) -> Node:
    """What the text says, or the smallest policy where it is none."""
    faults: list[Fault] = []
    return read_document(text, faults) or Node(Place(), {"version": Entry(Place(), _word("1"))})


Path = tuple[str | int, ...]


def _paths(node: Node, path: Path = ()) -> list[Path]:
    inner: Sequence[tuple[str | int, Node]] = (
        [(key, entry.node) for key, entry in node.entries.items()]
        if node.entries is not None
        else list(enumerate(node.items or ()))
    )
    return [path, *(found for key, each in inner for found in _paths(each, (*path, key)))]


def _changed(node: Node, path: Path, change: Callable[[Node], Node]) -> Node:
    if not path:
        return change(node)
    key, rest = path[0], path[1:]
    if node.entries is not None:
        return _mapping(
            {k: _changed(e.node, rest, change) if k == key else e.node for k, e in node.entries.items()}
        )
    return Node(
        node.place, [_changed(e, rest, change) if k == key else e for k, e in enumerate(node.items or ())]
    )


def _keys(document: Node, section: str) -> list[str]:
    found = (document.entries or {}).get(section)
    return list(found.node.entries or ()) if found else []


def _mapping(values: Mapping[str, Node]) -> Node:
    return Node(Place(), {key: Entry(Place(), node) for key, node in values.items()})


def _word(text: str) -> Node:
    return Node(Place(), text, text)


def _other(node: Node, random: Random) -> Node:
    """Another node in its place: of the same kind, changed, or of any kind."""
    if random.random() < 0.4:
        return _any(random)
    if node.entries is not None:
        values: dict[str, Node] = {key: entry.node for key, entry in node.entries.items()}
        key, new = random.choice([*values, ""]), random.choice((*_KEYS, *ACTIONS))
        match random.randrange(4):
            case 0:
                values.pop(key, None)
            case 1:
                values = {new if old == key else old: value for old, value in values.items()}
            case 2:
                values[new] = _any(random)
            case 3:
                values = dict(random.sample(list(values.items()), len(values)))
        return _mapping(values)
    if node.items is not None:
        items: list[Node] = [*node.items, *random.choice(([], [_any(random)], node.items * 20))]
        return Node(node.place, random.sample(items, random.randint(0, len(items))))
    return _any(random)


def _any(random: Random) -> Node:
    if random.random() < 0.1:
        deep = _word("deep")
        for _ in range(random.choice((2, 10, 40))):
            deep = random.choice((Node(Place(), [deep]), _mapping({random.choice(_KEYS): deep})))
        return deep
    if random.random() < 0.2:
        return Node(Place(), [_any(random) for _ in range(random.choice((0, 1, 3)))])
    word: Any = random.choice((*_TOKENS, *_KEYS, "[]", "{}"))
    faults: list[Fault] = []
    read = read_document(f"- {word}", faults)  # a number, if it looks like one
    return read.items[0] if read and read.items else _word(str(word).replace("\ufffe", ""))


def _sign(random: Random, known: str, foreign: str) -> str:
    """One of the language, and now and then one that it does not have."""
    return random.choice((known if random.random() < 0.97 else foreign).split())


def _condition(random: Random, names: Sequence[str], depth: int) -> str:
    def inner() -> str:
        return _condition(random, names, depth - 1)

    def number() -> str:
        return _number(random, names, depth - 1)

    match random.randrange(7) if depth > 0 else 0:
        case 0:
            return f"{random.choice(names)}.{random.choice(sorted(CONDITIONS))}"
        case 1:
            return f"({inner()} {_sign(random, 'and or', '&& if | xor')} {inner()})"
        case 2:
            return f"not {inner()}"
        case 3 | 4:
            return f"{number()} {_sign(random, '< <= > >= == !=', 'is in = <>')} {number()}"
        case 5:
            return f"{_sign(random, 'any all', 'isnan count each')}({inner()})"
    return f"{number()} < {number()} <= {number()}"


def _number(random: Random, names: Sequence[str], depth: int) -> str:
    def inner() -> str:
        return _number(random, names, depth - 1)

    match random.randrange(6) if depth > 0 else random.randrange(2):
        case 0:
            place = random.choice(("", "", "", "", "before.", "target."))
            return f"{place}{random.choice(names)}.{random.choice(sorted(NUMBERS))}"
        case 1:
            return _sign(random, "0 3 1e308 0.1 1e-320", f"1e999 2j {'9' * 500} 'a' True None")
        case 2:
            return f"({inner()} {_sign(random, '+ - * / **', '// % @')} {inner()})"
        case 3:
            return f"-{inner()}"
        case 4:
            return f"{_sign(random, 'min max', ' '.join(sorted(RESERVED)))}({inner()}, {inner()})"
    return f"{random.choice(('abs', 'sqrt', 'log', 'exp'))}({inner()})"
