"""The ``monitors:`` of a policy, checked against the constructors of their classes."""

from __future__ import annotations

import inspect
import keyword
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, NamedTuple, Union, get_args, get_origin, get_type_hints

from ..monitors.registry import MONITORS, extra_numbers
from ..monitors.types import Monitor, MonitorSpec, ParameterError
from .document import Entry, Fault, Node
from .expression_compiler import RESERVED
from .names import Signals, nearest
from .shapes import Schema


class _Plain(NamedTuple):
    accepted: tuple[type, ...]
    words: str
    json_type: str


_PLAIN: Mapping[object, _Plain] = {
    int: _Plain((int,), "a whole number", "integer"),
    float: _Plain((int, float), "a number", "number"),
    str: _Plain((str,), "text", "string"),
    bool: _Plain((bool,), "true or false", "boolean"),
    NoneType: _Plain((NoneType,), "null", "null"),
}
"""What a parameter with a plain annotation accepts; exact types, since to Python a bool is a number."""


@dataclass(frozen=True, slots=True)
class KnownMonitor:
    """What rules need to know of a monitor.

    ``spec`` is None where it has a mistake of its own; what is then unknown is so that no second mistake
    follows from it.
    """

    spec: MonitorSpec | None
    starred: bool
    before_step: bool
    extra: tuple[str, ...]


def read_monitors(node: Node | None, signals: Signals, faults: list[Fault]) -> dict[str, KnownMonitor]:
    """All monitors by name, those with mistakes too: a rule that names one of them makes none by that."""
    if node is None or node.value is None:
        return {}
    if node.entries is None:
        faults.append(Fault(node.place, f"monitors must be a mapping from names, got {node}"))
        return {}
    known = {}
    for name, entry in node.entries.items():
        own: list[Fault] = []
        known[name] = _read_monitor(name, entry, signals, own)
        faults += [Fault(place, f"monitor '{name}': {message}") for place, message in own]
    return known


def _read_monitor(name: str, entry: Entry, signals: Signals, faults: list[Fault]) -> KnownMonitor:
    wrong_name = _objection_to_name(name, signals)
    if wrong_name:
        faults.append(Fault(entry.place, wrong_name))
    entries = entry.node.entries
    if entries is None:
        faults.append(Fault(entry.node.place, f"must be a mapping with a 'type', got {entry.node}"))
        return KnownMonitor(None, starred=False, before_step=True, extra=extra_numbers(None))
    starred = "signal" in entries and "*" in entries["signal"].node.text
    kind = _type(entry.node, entries, faults)
    if kind is None:
        return KnownMonitor(None, starred, before_step=True, extra=extra_numbers(None))
    params = _parameters(kind, entry.node, entries, signals, faults)
    monitor = None if faults else _made(MONITORS[kind], params, entry.node, entries, faults)
    spec = MonitorSpec(name, kind, params) if monitor else None
    before_step = bool(getattr(monitor or MONITORS[kind], "before_step", False))
    return KnownMonitor(spec, starred, before_step, extra_numbers(kind))


def _objection_to_name(name: str, signals: Signals) -> str | None:
    if not (name.isascii() and name.isidentifier()) or keyword.iskeyword(name) or len(name) > 64:
        return "a monitor's name is a word of letters, digits and underscores"
    if name in RESERVED:
        return f"'{name}' is a word of the expression language: take another name"
    if name in signals:
        return f"'{name}' is a signal: take another name"
    return None


def _type(node: Node, entries: Mapping[str, Entry], faults: list[Fault]) -> str | None:
    if "type" not in entries:
        faults.append(Fault(node.place, "needs the key 'type'"))
        return None
    written = entries["type"].node
    if written.text not in MONITORS:
        faults.append(
            Fault(written.place, f"there is no monitor type {written}{nearest(written.text, MONITORS)}")
        )
        return None
    return written.text


def _parameters(
    kind: str, node: Node, entries: Mapping[str, Entry], signals: Signals, faults: list[Fault]
) -> dict[str, Any]:
    """The parameters as plain values, as far as their names and types are right."""
    wanted = inspect.signature(MONITORS[kind]).parameters
    hints = get_type_hints(MONITORS[kind].__init__)
    params: dict[str, Any] = {}
    for key, (place, value) in entries.items():
        if key == "type":
            continue
        if key not in wanted:
            faults.append(Fault(place, f"{kind} has no key '{key}'{nearest(key, (*wanted, 'type'))}"))
            continue
        plain = tuple(value.plain) if isinstance(value.plain, list) else value.plain
        objection = _objection_to_type(plain, hints.get(key, object))
        if objection:
            faults.append(Fault(value.place, f"{key} must be {objection}, got {value}"))
        elif key in ("signal", "signals"):
            _check_signals(value, signals, faults)
        params[key] = plain
    for key, parameter in wanted.items():
        if parameter.default is parameter.empty and key not in entries:
            faults.append(Fault(node.place, f"{kind} needs the key '{key}'"))
    return params


def _objection_to_type(value: object, hint: Any) -> str | None:
    """What a value should have been by its parameter's annotation; None if it is that."""
    options = _options(hint)
    if options is None:
        return None  # no plain value: the constructor itself judges it
    if any(type(value) in _PLAIN[option].accepted for option in options):
        return None
    return " or ".join(_PLAIN[option].words for option in options)


def _options(hint: Any) -> tuple[Any, ...] | None:
    """The plain types that an annotation allows; None if it is not of plain types only."""
    options = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    return options if all(option in _PLAIN for option in options) else None


def _check_signals(node: Node, signals: Signals, faults: list[Fault]) -> None:
    for item in node.items or [node]:
        if not isinstance(item.value, str):
            faults.append(Fault(item.place, f"a signal must be named by text, got {item}"))
        elif item.text.count("*") > 1:
            faults.append(Fault(item.place, f"a signal has at most one star, got {item}"))
        elif item.text not in signals:
            faults.append(Fault(item.place, signals.unknown(item.text)))


def _made(
    kind: type[Monitor],
    params: Mapping[str, Any],
    node: Node,
    entries: Mapping[str, Entry],
    faults: list[Fault],
) -> Monitor | None:
    """One made for trial, since only the class knows the ranges of its parameters."""
    trial = {key: value.replace("*", "any") if key == "signal" else value for key, value in params.items()}
    try:
        return kind(**trial)
    except ParameterError as error:
        at = entries[error.parameter].node if error.parameter in entries else node
        named = error.parameter in str(error)
        faults.append(Fault(at.place, str(error) if named else f"{error.parameter}: {error}"))
    except Exception as error:  # noqa: BLE001 - a check must not end in a traceback, whatever a monitor does
        faults.append(Fault(node.place, f"cannot be made: {type(error).__name__}: {error}"))
    return None


def monitors_schema() -> Schema:
    """A mapping from names to monitors; what a monitor takes beside its type follows from its constructor."""
    by_type = [
        {"if": {"properties": {"type": {"const": kind}}, "required": ["type"]}, "then": _monitor_schema(kind)}
        for kind in MONITORS
    ]
    types = {"type": {"enum": list(MONITORS), "description": "What kind of monitor it is."}}
    monitor = {"type": "object", "properties": types, "required": ["type"], "allOf": by_type}
    names = {"pattern": "^[A-Za-z_][A-Za-z0-9_]{0,63}$"}
    return {"type": ["object", "null"], "propertyNames": names, "additionalProperties": monitor}


def _monitor_schema(kind: str) -> Schema:
    """Parameters with their types, defaults, and what the docstring of the class says of them."""
    hints, told = get_type_hints(MONITORS[kind].__init__), inspect.getdoc(MONITORS[kind]) or ""
    parameters = inspect.signature(MONITORS[kind]).parameters
    shown: dict[str, Schema] = {"type": {"const": kind, "description": told.partition("\n")[0]}}
    for name, parameter in parameters.items():
        types = [_PLAIN[option].json_type for option in _options(hints.get(name, object)) or ()]
        said = re.search(rf"^    {name}: (.*(?:\n {{5,}}.*)*)", told, re.MULTILINE)
        shown[name] = {
            **({"type": types[0] if len(types) == 1 else types} if types else {}),
            **({"description": " ".join(said[1].split())} if said else {}),
            **({"default": parameter.default} if parameter.default not in (parameter.empty, None) else {}),
        }
    required = [name for name, parameter in parameters.items() if parameter.default is parameter.empty]
    return {"properties": shown, "required": ["type", *required], "additionalProperties": False}
