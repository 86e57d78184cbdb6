"""Shapes of values: what a node of a policy must look like, and how its mistakes are told.

A shape reads a node into a value, or raises ``Invalid`` with every fault that it found. Shapes are plain
data, so that the tables that read a policy can also describe it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
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


class Shape(Protocol):
    """Reads a node; ``name`` is what messages call it."""

    def read(self, node: Node, name: str) -> Any:
        """The value of the node. Raises Invalid."""
        ...


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole number, such as a count or a duration in ticks."""

    low: int
    high: int = 10**9

    def read(self, node: Node, name: str) -> int:
        """The number."""
        if type(node.value) is not int:
            raise Invalid.at(node, f"{name} must be a whole number, got {node}")
        if not self.low <= node.value <= self.high:
            bound = f"at least {self.low}" if node.value < self.low else f"at most {self.high}"
            bound = str(self.low) if self.low == self.high else bound
            raise Invalid.at(node, f"{name} must be {bound}, got {node}")
        return node.value


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


@dataclass(frozen=True, slots=True)
class Choice:
    """One of an enum's words, read as the member, or as the word where the value is to be plain JSON."""

    options: type[Enum]
    as_word: bool = False

    def read(self, node: Node, name: str) -> Any:
        """The member, or its word."""
        words = [str(option.value) for option in self.options]
        if node.value not in words:
            listed = f"{', '.join(words[:-1])} or {words[-1]}"
            raise Invalid.at(node, f"{name} must be {listed}, got {node}{nearest(node.text, words)}")
        return node.value if self.as_word else self.options(node.value)


@dataclass(frozen=True, slots=True)
class OrNothing:
    """The shape, or null."""

    shape: Shape

    def read(self, node: Node, name: str) -> Any:
        """The value, or None."""
        return None if node.value is None else self.shape.read(node, name)


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


@dataclass(frozen=True, slots=True)
class Later:
    """Anything: it is read once more is known."""

    def read(self, node: Node, name: str) -> Node:
        """The node itself."""
        return node


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
