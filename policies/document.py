"""Strict YAML with places: every value knows its line and column, and every mistake is reported there.

The YAML is 1.2's core schema: ``1e-4`` is a number, ``on`` and ``yes`` are words. What makes a policy read
otherwise than it looks is refused: repeated keys, anchors and aliases, merge keys, tags, several documents.
The tree is built from the parser's events without recursion, so that no nesting can exhaust the stack.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import yaml

MAX_CHARACTERS = 256 * 1024
"""A policy is some hundred lines; what is larger was not written as one, and would take seconds to parse."""

MAX_DEPTH = 32
"""Of nesting. The deepest policy needs seven."""

_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_BOOLEAN = {word: word.lower() == "true" for word in ("true", "True", "TRUE", "false", "False", "FALSE")}
_INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_SPECIAL = re.compile(r"([-+]?)\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_MAX_DIGITS = 30


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A line and a column of a file, both counted from 1."""

    line: int = 1
    column: int = 1


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One mistake: where, and what in words."""

    place: Place
    message: str
    source: str = "<policy>"

    def __str__(self) -> str:
        return f"{self.source}:{self.place.line}:{self.place.column}: {self.message}"


class PolicyError(ValueError):
    """A policy that cannot be used; ``problems`` are all of its mistakes, in the order of their places."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(sorted(set(problems)))
        super().__init__("\n".join(map(str, self.problems)))
