"""Shapes of what is less regular: names that are not known beforehand, one thing or another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .document import Fault, Node
from .shapes import Invalid, Schema, Shape


@dataclass(frozen=True, slots=True)
class ByName:
    """A mapping from names that are not known beforehand, of exactly ``count`` of them where that is said.

    ``objection`` says what is wrong with a name.
    """

    shape: Shape
    objection: Callable[[str], str | None] = lambda name: None
    count: int | None = None

    def read(self, node: Node, name: str) -> dict[str, Any]:
        """The values by their names."""
        if node.entries is None:
            raise Invalid.at(node, f"{name} must be a mapping, got {node}")
        if self.count is not None and len(node.entries) != self.count:
            raise Invalid.at(node, f"{name} must be a mapping with {self.count} key, got {len(node.entries)}")
        values: dict[str, Any] = {}
        faults: list[Fault] = []
        for key, (place, value) in node.entries.items():
            if wrong := self.objection(key):
                faults.append(Fault(place, f"{name}: {wrong}"))
            try:
                values[key] = self.shape.read(value, key)
            except Invalid as invalid:
                faults += invalid.faults
        if faults:
            raise Invalid(faults)
        return values

    def schema(self) -> Schema:
        """An object with any keys."""
        count = {} if self.count is None else {"minProperties": self.count, "maxProperties": self.count}
        return {"type": "object", "additionalProperties": self.shape.schema(), **count}


@dataclass(frozen=True, slots=True)
class Either:
    """A mapping of one shape, or else a value of another."""

    plain: Shape
    mapping: Shape

    def read(self, node: Node, name: str) -> Any:
        """The value of the one or the other."""
        return (self.plain if node.entries is None else self.mapping).read(node, name)

    def schema(self) -> Schema:
        """Both."""
        return {"anyOf": [self.plain.schema(), self.mapping.schema()]}


@dataclass(frozen=True, slots=True)
class Anything:
    """Any value, as ``json`` would give it."""

    def read(self, node: Node, name: str) -> object:
        """The value."""
        return node.plain

    def schema(self) -> Schema:
        """Anything."""
        return {}
