"""What is certain about a condition before anything is measured: that it cannot hold, or implies another.

A condition is written out as *alternatives*, each a set of demands that hold together: a number lies in an
interval, a reading has one of some healths, anything else is true or false. An alternative is impossible
where two demands on one subject leave nothing. That is sound, not complete: what is not seen here may still
be impossible, and nothing that is told is wrong.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import inf, isfinite

from ..monitors.types import Health
from .expression_references import PLACES
from .expression_terms import CONDITIONS, HEALTHS, JUDGED, TOLD

MOST = 256
"""Alternatives that are written out; of a condition that has more, nothing is said."""


@dataclass(frozen=True, slots=True)
class Interval:
    """Numbers from ``low`` to ``high``; an end that is open is left out. False where it holds none."""

    low: float = -inf
    high: float = inf
    above: bool = False
    below: bool = False

    def __and__(self, other: Interval) -> Interval:
        low, above = max((self.low, self.above), (other.low, other.above))
        high, inside = min((self.high, not self.below), (other.high, not other.below))
        return Interval(low, high, above, not inside)

    def __bool__(self) -> bool:
        return self.low < self.high or (self.low == self.high and not (self.above or self.below))

    def __le__(self, other: Interval) -> bool:
        """Whether all of it lies in the other."""
        return self & other == self

    def __str__(self) -> str:
        ends = [
            f"{'above' if self.above else 'at least'} {self.low:g}" if isfinite(self.low) else "",
            f"{'below' if self.below else 'at most'} {self.high:g}" if isfinite(self.high) else "",
        ]
        return " and ".join(filter(None, ends))


Demand = Interval | frozenset[Health] | frozenset[bool]
Alternative = Mapping[str, Demand]
"""What each subject must be."""

Bounds = Callable[[str], Interval]
"""What a number can be at all, by how the condition writes it."""

_NEGATED: Mapping[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.GtE,
    ast.GtE: ast.Lt,
    ast.Gt: ast.LtE,
    ast.LtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
}
_MIRRORED: Mapping[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.Gt,
    ast.Gt: ast.Lt,
    ast.LtE: ast.GtE,
    ast.GtE: ast.LtE,
    ast.Eq: ast.Eq,
}
_TRUE: tuple[Alternative, ...] = ({},)
_FALSE: tuple[Alternative, ...] = ()


class _TooMany(Exception):
    pass


def alternatives(text: str, holds: bool = True) -> tuple[Alternative, ...] | None:
    """How a condition that was compiled can come to hold (or to fail); None if that is too much to say.

    >>> [str(each["loss.z"]) for each in alternatives("not (loss.z <= 6 and loss.z > 3)")]
    ['above 6', 'at most 3']
    """
    try:
        return _written(ast.parse(text.replace("\n", " "), mode="eval").body, holds)
    except (_TooMany, RecursionError):
        return None


def impossible(alternative: Alternative, bounds: Bounds) -> str | None:
    """Why an alternative cannot be; None where it may."""
    for subject, demand in alternative.items():
        if isinstance(demand, Interval):
            if not demand & bounds(subject):
                known = str(bounds(subject)) if demand else ""
                return f"{subject} would have to be {demand}" + (f", and it is {known}" if known else "")
        elif not demand:
            return f"{subject} would have to be two things at once"
    return None


def implies(text: str, other: str, bounds: Bounds) -> bool:
    """Whether one condition is certainly true wherever another is."""
    mine, theirs = alternatives(text), alternatives(other)
    if mine is None or theirs is None:
        return False
    possible = [each for each in mine if impossible(each, bounds) is None]
    return bool(possible) and all(any(_covers(own, its) for its in theirs) for own in possible)


def together(first: Iterable[Alternative], second: Iterable[Alternative]) -> tuple[Alternative, ...]:
    """The alternatives of two conditions that hold at once."""
    return _all([tuple(first), tuple(second)])


def _covers(own: Alternative, its: Alternative) -> bool:
    return all(subject in own and own[subject] <= demand for subject, demand in its.items())  # type: ignore[operator]


def _written(node: ast.expr, holds: bool) -> tuple[Alternative, ...]:
    match node:
        case ast.BoolOp():
            parts = [_written(value, holds) for value in node.values]
            return _all(parts) if isinstance(node.op, ast.And) is holds else _any(parts)
        case ast.UnaryOp(op=ast.Not()):
            return _written(node.operand, not holds)
        case ast.Constant(value=bool(value)):
            return _TRUE if value is holds else _FALSE
        case ast.Compare():
            sides = pairwise((node.left, *node.comparators))
            links = [_link(a, type(op), b, holds) for (a, b), op in zip(sides, node.ops, strict=True)]
            return _all(links) if holds else _any(links)
        case ast.Attribute(attr=attribute) if attribute in CONDITIONS:
            healths = HEALTHS[attribute]
            decided = frozenset(healths[1])
            fitting = frozenset(healths[0])
            return ({ast.unparse(node.value): fitting if holds else decided - fitting},)
    return ({f"'{ast.unparse(node)}'": frozenset({holds})},)


def _link(left: ast.expr, op: type[ast.cmpop], right: ast.expr, holds: bool) -> tuple[Alternative, ...]:
    """One comparison of a chain."""
    op = op if holds else _NEGATED[op]
    a, b = _constant(left), _constant(right)
    if a is not None and b is not None:
        interval = _interval(op, b)
        fits = a != b if interval is None else bool(Interval(a, a) & interval)
        return _TRUE if fits else _FALSE
    if a is not None and op in _MIRRORED:
        left, op, b = right, _MIRRORED[op], a
    interval = None if b is None else _interval(op, b)
    if interval is not None:
        return ({ast.unparse(left): interval, **_measured(left)},)
    true = op in (ast.Lt, ast.Gt, ast.Eq)
    shown = ast.unparse(ast.Compare(left, [(op if true else _NEGATED[op])()], [right]))
    return ({f"'{shown}'": frozenset({true})},)


def _measured(node: ast.expr) -> Alternative:
    """A number that is compared is known, so the reading that it is of has judged."""
    if not isinstance(node, ast.Attribute):
        return {}
    subject = ast.unparse(node.value)
    if subject.split(".")[0] in PLACES:
        return {}
    return {subject: frozenset(TOLD if node.attr == "value" else JUDGED)}


def _interval(op: type[ast.cmpop], number: float) -> Interval | None:
    if op in (ast.Lt, ast.LtE):
        return Interval(high=number, below=op is ast.Lt)
    if op in (ast.Gt, ast.GtE):
        return Interval(low=number, above=op is ast.Gt)
    return Interval(number, number) if op is ast.Eq else None


def _constant(node: ast.expr) -> float | None:
    """The value of an expression that reads nothing."""
    match node:
        case ast.Constant(value=bool()):
            return None
        case ast.Constant(value=int(value) | float(value)):
            return float(value)
        case ast.UnaryOp(op=ast.USub() | ast.UAdd()):
            inner = _constant(node.operand)
            return None if inner is None else -inner if isinstance(node.op, ast.USub) else inner
    return None


def _all(parts: list[tuple[Alternative, ...]]) -> tuple[Alternative, ...]:
    joined: tuple[Alternative, ...] = _TRUE
    for part in parts:
        if len(joined) * len(part) > MOST:
            raise _TooMany
        joined = tuple(_both(one, other) for one in joined for other in part)
    return joined


def _any(parts: list[tuple[Alternative, ...]]) -> tuple[Alternative, ...]:
    if sum(map(len, parts)) > MOST:
        raise _TooMany
    return tuple(each for part in parts for each in part)


def _both(one: Alternative, other: Alternative) -> Alternative:
    merged = dict(one)
    for subject, demand in other.items():
        merged[subject] = merged[subject] & demand if subject in merged else demand  # type: ignore[operator]
    return merged
