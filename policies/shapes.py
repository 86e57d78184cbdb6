"""Shapes of values: what a node of a policy must look like, and how its mistakes are told.

A shape reads a node into a value, or raises ``Invalid`` with every fault that it found. Shapes are plain
data, so that the tables that read a policy can also describe it: ``schema()`` is the JSON Schema of what a
shape reads. It allows all that the shape does, and more where JSON Schema cannot say it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, is_dataclass
from enum import Enum
from typing import Any, Protocol

from .document import Fault, Node
from .names import nearest


class Invalid(Exception):
    """A node that does not have its shape."""

    def __init__(self, faults: list[Fault]) -> None:
        super().__init__(faults)
        self.faults = faults

    @classmethod
    def at(cls, node: Node, message: str) -> Invalid:
        """One fault, at the node."""
        return cls([Fault(node.place, message)])


Schema = dict[str, Any]
"""A JSON Schema (draft 2020-12)."""


class Shape(Protocol):
    """Reads a node; ``name`` is what messages call it."""

    def read(self, node: Node, name: str) -> Any:
        """The value of the node. Raises Invalid."""
        ...

    def schema(self) -> Schema:
        """What it reads, as JSON Schema."""
        ...


_NO_BOUND = 10**9


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole number, such as a count or a duration in ticks."""

    low: int
    high: int = _NO_BOUND

    def read(self, node: Node, name: str) -> int:
        """The number."""
        if type(node.value) is not int:
            raise Invalid.at(node, f"{name} must be a whole number, got {node}")
        if not self.low <= node.value <= self.high:
            bound = f"at least {self.low}" if node.value < self.low else f"at most {self.high}"
            bound = str(self.low) if self.low == self.high else bound
            raise Invalid.at(node, f"{name} must be {bound}, got {node}")
        return node.value

    def schema(self) -> Schema:
        """An integer in its range; the largest is meant as no bound, and not told."""
        high = {} if self.high == _NO_BOUND else {"maximum": self.high}
        return {"type": "integer", "minimum": self.low, **high}


@dataclass(frozen=True, slots=True)
class Real:
    """A finite number of at least ``low`` (or above it, where that end is open) and at most ``high``."""

    low: float = 0.0
    high: float = math.inf
    is_open: bool = False

    def read(self, node: Node, name: str) -> float:
        """The number."""
        if isinstance(node.value, bool) or not isinstance(node.value, int | float):
            raise Invalid.at(node, f"{name} must be a number, got {node}")
        value = float(node.value)
        above = value > self.low if self.is_open else value >= self.low
        if not (above and value <= self.high and math.isfinite(value)):
            raise Invalid.at(node, f"{name} must be {self._range()}, got {node}")
        return value

    def schema(self) -> Schema:
        """A number in its range."""
        low = {"exclusiveMinimum" if self.is_open else "minimum": self.low}
        return {"type": "number", **low, **({} if math.isinf(self.high) else {"maximum": self.high})}

    def _range(self) -> str:
        if math.isinf(self.high):
            return f"{'above' if self.is_open else 'at least'} {self.low:g}"
        return f"in {'(' if self.is_open else '['}{self.low:g}, {self.high:g}]"


@dataclass(frozen=True, slots=True)
class Text:
    """Text that is not empty."""

    def read(self, node: Node, name: str) -> str:
        """The text."""
        if not isinstance(node.value, str) or not node.value:
            raise Invalid.at(node, f"{name} must be text, got {node}")
        return node.value

    def schema(self) -> Schema:
        """A string."""
        return {"type": "string", "minLength": 1}


@dataclass(frozen=True, slots=True)
class Name:
    """Text of a given form, which ``form`` matches and ``words`` describe."""

    form: Callable[[str], object]
    words: str

    def read(self, node: Node, name: str) -> str:
        """The name."""
        if not isinstance(node.value, str) or not self.form(node.value):
            raise Invalid.at(node, f"{name} must be {self.words}, got {node}")
        return node.value

    def schema(self) -> Schema:
        """A string; its pattern too, where the form is a regular expression's ``fullmatch``."""
        pattern = getattr(getattr(self.form, "__self__", None), "pattern", None)
        return {"type": "string", **({"pattern": pattern_of(pattern)} if pattern else {})}


def pattern_of(expression: str) -> str:
    """A pattern for a whole text, in the dialect that Python and ECMAScript share.

    To Python a letter of any alphabet is one of a word; to ECMAScript it is none, so they are added.
    """
    return f"^(?:{expression.replace(_WORD, _WORD + _BEYOND_ASCII)})$"


_WORD, _BEYOND_ASCII = r"\w", "\x80-\uffff"


@dataclass(frozen=True, slots=True)
class OneOf:
    """One of these words."""

    words: Collection[str]

    def read(self, node: Node, name: str) -> str:
        """The word."""
        words = list(self.words)
        if not isinstance(node.value, str) or node.value not in words:
            listed = f"{', '.join(words[:-1])} or {words[-1]}" if words[1:] else words[0]
            raise Invalid.at(node, f"{name} must be {listed}, got {node}{nearest(node.text, words)}")
        return node.value

    def schema(self) -> Schema:
        """An enumeration."""
        return {"enum": list(self.words)}


@dataclass(frozen=True, slots=True)
class Choice:
    """One of an enum's words, read as the member, or as the word where the value is to be plain JSON."""

    options: type[Enum]
    as_word: bool = False

    def read(self, node: Node, name: str) -> Any:
        """The member, or its word."""
        word = self._words.read(node, name)
        return word if self.as_word else self.options(word)

    def schema(self) -> Schema:
        """An enumeration."""
        return self._words.schema()

    @property
    def _words(self) -> OneOf:
        return OneOf([str(option.value) for option in self.options])


@dataclass(frozen=True, slots=True)
class OrNothing:
    """The shape, or null."""

    shape: Shape

    def read(self, node: Node, name: str) -> Any:
        """The value, or None."""
        return None if node.value is None else self.shape.read(node, name)

    def schema(self) -> Schema:
        """The shape's, or null."""
        inner = self.shape.schema()
        if isinstance(inner.get("type"), str) and "enum" not in inner:
            return {**inner, "type": [inner["type"], "null"]}
        return {"anyOf": [inner, {"type": "null"}]}


@dataclass(frozen=True, slots=True)
class Many:
    """A list of values of one shape."""

    shape: Shape
    least: int = 0

    def read(self, node: Node, name: str) -> tuple[Any, ...]:
        """The values, in order."""
        if node.items is None:
            raise Invalid.at(node, f"{name} must be a list, got {node}")
        if len(node.items) < self.least:
            raise Invalid.at(node, f"{name} must not be empty")
        values: list[Any] = []
        faults: list[Fault] = []
        for item in node.items:
            try:
                values.append(self.shape.read(item, name))
            except Invalid as invalid:
                faults += invalid.faults
        if faults:
            raise Invalid(faults)
        return tuple(values)

    def schema(self) -> Schema:
        """An array."""
        return {
            "type": "array",
            "items": self.shape.schema(),
            **({"minItems": self.least} if self.least else {}),
        }


@dataclass(frozen=True, slots=True)
class Later:
    """Anything: it is read once more is known. ``kind`` names what describes it in the schema's ``$defs``."""

    kind: str = ""

    def read(self, node: Node, name: str) -> Node:
        """The node itself."""
        return node

    def schema(self) -> Schema:
        """A reference to what describes it. Raises LookupError for one that nobody described."""
        if not self.kind:
            raise LookupError("a key that is read later needs a kind, described in policies/json_schema.py")
        return {"$ref": f"#/$defs/{self.kind}"}


_REQUIRED: Any = object()


@dataclass(frozen=True, slots=True)
class Field:
    """A key of a record: the shape of its value, and what holds where the key is missing."""

    shape: Shape
    default: Any = _REQUIRED

    @property
    def required(self) -> bool:
        """Whether the key must be there."""
        return self.default is _REQUIRED


def _no_objection(values: Mapping[str, Any]) -> str | None:
    return None


@dataclass(frozen=True, slots=True)
class Record:
    """A mapping with known keys, made into a value by ``make``.

    ``check`` looks at all values together and returns what is wrong, or None. ``prefix`` goes before the
    names of its keys in messages.
    """

    fields: Mapping[str, Field]
    make: Callable[..., Any] = dict
    check: Callable[[Mapping[str, Any]], str | None] = _no_objection
    prefix: str = ""

    def read(self, node: Node, name: str) -> Any:
        """What ``make`` makes of the values."""
        values, faults = self.collect(node, name)
        if faults:
            raise Invalid(faults)
        return self.make(**values)

    def collect(self, node: Node, name: str) -> tuple[dict[str, Any], list[Fault]]:
        """The values that are right (or default), and the faults of the others."""
        entries = node.entries
        if entries is None:
            return {}, [Fault(node.place, f"{name} must be a mapping, got {node}")]
        faults = [
            Fault(entry.place, f"{name} has no key '{key}'{nearest(key, self.fields)}")
            for key, entry in entries.items()
            if key not in self.fields
        ]
        values: dict[str, Any] = {}
        for key, wanted in self.fields.items():
            if key in entries:
                try:
                    values[key] = wanted.shape.read(entries[key].node, self.prefix + key)
                except Invalid as invalid:
                    faults += invalid.faults
            elif wanted.required:
                faults.append(Fault(node.place, f"{name} needs the key '{key}'"))
            else:
                values[key] = wanted.default
        objection = None if faults else self.check(values)
        if objection:
            faults.append(Fault(node.place, objection))
        return values, faults

    def schema(self) -> Schema:
        """An object with these keys and no others; what ``check`` objects to is not told."""
        required = [key for key, field in self.fields.items() if field.required]
        return {
            "type": "object",
            "properties": {key: _with_default(field) for key, field in self.fields.items()},
            **({"required": required} if required else {}),
            "additionalProperties": False,
        }


def _with_default(field: Field) -> Schema:
    """A default of None is no value of the policy language, only that the key may be missing."""
    shown = field.shape.schema()
    if field.required or field.default is None:
        return shown
    return {**shown, "default": _plain(field.default)}


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if is_dataclass(value) and not isinstance(value, type):
        return {key: _plain(item) for key, item in asdict(value).items() if item is not None}
    return list(value) if isinstance(value, tuple) else value
