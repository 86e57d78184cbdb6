"""The ``regulators:`` of a policy: laws with their own keys, and what two of them must not share."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from .document import Entry, Fault, Node
from .names import Signals, nearest
from .regulators.law import MIX, Law, RegulatorSpec
from .regulators.registry import LAWS
from .shapes import Field, Name, Real, Record, Schema, Text, Whole

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_ACTUATOR = Name(re.compile(r"lr|weight/(?!\*$)\S.*").fullmatch, "lr or weight/NAME")
_ALWAYS = {"law": Field(Text()), "signal": Field(Text()), "every": Field(Whole(1), 20)}
_OF_SHARES = {
    "floor": Field(Real(0, 1), 0.01),
    "ceiling": Field(Real(0, 1, is_open=True), 1.0),
    "rate": Field(Real(0, 1, is_open=True), 0.1),
}
# As far up as scale_lr goes: more is a slip of the pen.
_OF_A_FACTOR = {
    "actuator": Field(_ACTUATOR),
    "floor": Field(Real(0, 10, is_open=True), 0.1),
    "ceiling": Field(Real(0, 10, is_open=True), 1.0),
    "rate": Field(Real(0, 10, is_open=True), 0.1),
}


def read_regulators(node: Node | None, signals: Signals, faults: list[Fault]) -> tuple[RegulatorSpec, ...]:
    """The regulators in order; those with mistakes are left out and their faults told."""
    if node is None or node.value is None:
        return ()
    if node.entries is None:
        faults.append(Fault(node.place, f"regulators must be a mapping from names, got {node}"))
        return ()
    specs: list[RegulatorSpec] = []
    for name, entry in node.entries.items():
        own: list[Fault] = []
        spec = _read_regulator(name, entry, signals, own)
        if spec is not None:
            _check_apart(spec, specs, entry, node.entries, own)
            specs.append(spec)
        faults += [Fault(place, f"regulator '{name}': {message}") for place, message in own]
    return tuple(specs)


def _read_regulator(name: str, entry: Entry, signals: Signals, faults: list[Fault]) -> RegulatorSpec | None:
    if not _NAME.fullmatch(name):
        faults.append(Fault(entry.place, "its name must be a word of letters, digits, '-' and '_'"))
    entries = entry.node.entries
    if entries is None:
        faults.append(Fault(entry.node.place, f"must be a mapping with a 'law', got {entry.node}"))
        return None
    law = _law(entry.node, entries, faults)
    if "signal" in entries:
        _check_signal(entries["signal"].node, law, signals, faults)
    if law is None:
        return None
    values, wrong = _record(law).collect(entry.node, entries["law"].node.text)
    faults += wrong
    if faults:
        return None
    params = {key: values.pop(key) for key in law.keys}
    return RegulatorSpec(name=name, params=params, **{"actuator": MIX, **values})


def _record(law: type[Law]) -> Record:
    bounds = _OF_SHARES if law.sets_shares else _OF_A_FACTOR
    return Record({**_ALWAYS, **bounds, **law.keys}, check=_objection)


def regulators_schema() -> Schema:
    """A mapping from names to regulators; what one takes follows from its law."""
    shown = []
    for name, law in LAWS.items():
        schema = _record(law).schema()
        schema["properties"]["law"] = {"const": name}
        shown.append(schema)
    names = {"pattern": f"^{_NAME.pattern}$"}
    return {"type": ["object", "null"], "propertyNames": names, "additionalProperties": {"anyOf": shown}}


def _objection(values: Mapping[str, Any]) -> str | None:
    if values["floor"] > values["ceiling"]:
        return f"floor {values['floor']:g} is above ceiling {values['ceiling']:g}"
    return None


def _law(node: Node, entries: Mapping[str, Entry], faults: list[Fault]) -> type[Law] | None:
    if "law" not in entries:
        faults.append(Fault(node.place, "needs the key 'law'"))
        return None
    written = entries["law"].node
    if not isinstance(written.value, str) or written.value not in LAWS:
        faults.append(Fault(written.place, f"there is no law {written}{nearest(written.text, LAWS)}"))
        return None
    return LAWS[written.text]


def _check_signal(node: Node, law: type[Law] | None, signals: Signals, faults: list[Fault]) -> None:
    if not isinstance(node.value, str):
        return  # the record tells it
    if node.text.count("*") > 1:
        faults.append(Fault(node.place, f"a signal has at most one star, got {node}"))
    elif node.text not in signals:
        faults.append(Fault(node.place, signals.unknown(node.text)))
    elif law is not None and law.sets_shares and "*" not in node.text:
        message = f"its law compares sources, so its signal needs a star, as in 'loss/source=*', got {node}"
        faults.append(Fault(node.place, message))
    elif law is not None and not law.sets_shares and "*" in node.text:
        faults.append(Fault(node.place, f"its law holds one signal, so it must have no star, got {node}"))


def _check_apart(
    spec: RegulatorSpec,
    others: list[RegulatorSpec],
    entry: Entry,
    entries: Mapping[str, Entry],
    faults: list[Fault],
) -> None:
    """Two regulators on one target would pull at it from two sides."""
    for other in others:
        weights = all(each.actuator.startswith("weight/") for each in (spec, other))
        if spec.actuator == other.actuator or (weights and MIX in (spec.actuator, other.actuator)):
            what = "the learning rate" if spec.actuator == "lr" else "the weights of sources"
            if spec.actuator == other.actuator != MIX and weights:
                what = f"the weight of {spec.actuator.partition('/')[2]}"
            line = entries[other.name].place.line
            message = f"'{other.name}' in line {line} regulates {what} already"
            faults.append(Fault(entry.place, message))
