"""What the names of an expression refer to: readings, facts of a verification, instances of a group."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

from .expression_terms import CONDITIONS, FACTS, JUDGEMENTS, NUMBERS
from .names import Signals, nearest

PLACES = {"before": "B", "target": "T"}
"""Facts that a verification may read -> the variable of the compiled code that holds them."""


@dataclass(frozen=True, slots=True)
class Scope:
    """The names that an expression may use.

    ``monitors`` says of each whether it has instances (its signal has a star), ``extra`` which numbers it
    tells that others do not, ``forecasts`` which one forecasts a signal. ``foreach`` is the monitor behind
    ``this``. ``verifies`` allows ``before.*`` and ``target.*``: only a verification has them.
    """

    monitors: Mapping[str, bool] = field(default_factory=dict)
    signals: Signals = field(default_factory=Signals)
    foreach: str | None = None
    verifies: bool = False
    extra: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    forecasts: Mapping[str, str] = field(default_factory=dict)


class Condition(NamedTuple):
    """Code that is true where a condition is known to hold, and where it is known to fail."""

    holds: str
    fails: str


class Number(NamedTuple):
    """Code of the least and the most that a number can be; they differ only for ``count``."""

    least: str
    most: str


class Mistake(Exception):
    """A mistake at a node of the expression."""

    def __init__(self, node: ast.expr, message: str) -> None:
        super().__init__(message)
        self.node = node
        self.message = message


class _Subject(NamedTuple):
    """Whose attribute is meant: its name, the code of its reading, and the code of its key in facts."""

    name: str
    reading: str
    key: str


class References:
    """Turns ``NAME.attribute`` into code, and keeps account of what was named."""

    def __init__(self, scope: Scope, words: Callable[[ast.expr], str]) -> None:
        self.monitors: set[str] = set()
        self.signals: set[str] = set()
        self.grouped: set[str] = set()
        self.places: set[str] = set()
        self.operands: dict[str, str] = {}
        self.foreach: str | None = None
        self._scope = scope
        self._words = words
        self._group: str | None = None

    @contextmanager
    def group(self, node: ast.Call) -> Iterator[str]:
        """While inside, the monitor that ``any``, ``all`` or ``count`` names means each of its instances."""
        if self._group:
            raise Mistake(node, "any(...), all(...) and count(...) cannot hold one another")
        names = {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)}
        names = {name for name in names if self._scope.monitors.get(name)}
        if len(names) != 1:
            raise Mistake(
                node, f"'{self._words(node)}' must name exactly one monitor whose signal has a star"
            )
        self._group = names.pop()
        self.grouped.add(self._group)
        try:
            yield f"R[{self._group!r}]"
        finally:
            self._group = None

    def attribute(self, node: ast.Attribute) -> Condition | Number:
        """The code of ``NAME.attribute``, ``before.NAME.attribute`` or ``target.NAME.attribute``."""
        place, subject = self._place_and_subject(node.value)
        self._check_attribute(node, subject, place)
        if place:
            code = f"fact({PLACES[place]}, {subject.key}, {node.attr!r})"
        elif node.attr in CONDITIONS:
            holds, fails = (f"({subject.reading}.health in {node.attr}_{rail})" for rail in Condition._fields)
            return Condition(holds, fails)
        elif node.attr in self._extra(subject):
            code = f"extra({subject.reading}, {node.attr!r})"
        else:
            code = f"{node.attr}({subject.reading})"
        if self._group is None:
            self.operands[self._words(node)] = code
        return Number(code, code)

    def alone(self, node: ast.expr) -> Mistake:
        """What is wrong with a monitor or signal without an attribute."""
        name = self.subject(node).name
        attribute = "value" if name in self.signals else "bad"
        words = self._words(node)
        return Mistake(node, f"'{words}' stands alone: say what of it, as in {words}.{attribute}")

    def measured(self, node: ast.expr) -> str:
        """The code of the reading behind ``NAME.value``, the only thing that can be NaN."""
        if not isinstance(node, ast.Attribute) or node.attr != "value":
            raise Mistake(node, "isnan() takes a measured value, as in isnan(loss.value)")
        place, subject = self._place_and_subject(node.value)
        if place:
            raise Mistake(node, f"'{place}' keeps finite numbers only")
        return subject.reading

    def _place_and_subject(self, node: ast.expr) -> tuple[str, _Subject]:
        """``before.loss`` is ("before", loss), as is ``before.signal("loss")``; ``loss`` is ("", loss).

        ``forecast.loss`` is the monitor that forecasts it, and ``before.forecast.loss`` what that one told.
        """
        match node:
            case ast.Attribute(value=ast.Name(id=place), attr=name) if place in PLACES:
                rest: ast.expr = ast.Name(name)
            case ast.Attribute(ast.Attribute(ast.Name(id=place), attr="forecast"), name) if place in PLACES:
                rest = ast.Attribute(ast.Name("forecast"), name)
            case ast.Call(func=ast.Attribute(value=ast.Name(id=place), attr=name)) if place in PLACES:
                rest = ast.Call(ast.Name(name), node.args, node.keywords)
            case _:
                return "", self.subject(node)
        if not self._scope.verifies:
            raise Mistake(node, f"'{place}' is known only in verify.expect")
        self.places.add(place)
        return place, self.subject(ast.copy_location(rest, node))

    def subject(self, node: ast.expr) -> _Subject:
        """What a name, ``this``, ``signal("a/b")`` or ``forecast.loss`` refers to."""
        match node:
            case ast.Attribute(value=ast.Name(id="forecast"), attr=name):
                return self._forecast(node, name)
            case ast.Call(func=ast.Name(id="signal"), args=[ast.Constant(value=str(name))], keywords=[]):
                return self._signal(node, name)
            case ast.Name(id="this"):
                return self._this(node)
            case ast.Name(id=name) if name == self._group:
                self.monitors.add(name)
                return _Subject(name, "r", f"({name + '['!r} + i + ']')")
            case ast.Name(id=name) if name in self._scope.monitors:
                return self._monitor(node, name)
            case ast.Name(id="forecast"):
                raise Mistake(node, "'forecast' goes before a signal and what of it: forecast.loss.final")
            case ast.Name(id=name):
                return self._signal(node, name)
        raise Mistake(node, f"'{self._words(node)}' has no attributes: name a monitor or a signal")

    def _this(self, node: ast.expr) -> _Subject:
        name = self._scope.foreach
        if name is None:
            raise Mistake(node, "'this' is known only in a rule with 'foreach'")
        self.foreach = name
        self.monitors.add(name)
        return _Subject(name, f"R[{name!r}][I]", f"({name + '['!r} + I + ']')")

    def _monitor(self, node: ast.expr, name: str) -> _Subject:
        if self._scope.monitors[name]:
            raise Mistake(
                node,
                f"'{name}' has one reading for each instance: write any({name}.bad), all(...) or count(...), "
                f"or this.bad in a rule with 'foreach: {name}'",
            )
        self.monitors.add(name)
        return _Subject(name, f"R[{name!r}]['']", repr(name))

    def _forecast(self, node: ast.expr, signal: str) -> _Subject:
        forecasts = self._scope.forecasts
        if signal not in forecasts:
            remedy = f": add one, as in outcome: {{type: forecast, signal: {signal}}}"
            raise Mistake(node, f"no monitor forecasts '{signal}'{nearest(signal, forecasts) or remedy}")
        return self._monitor(node, forecasts[signal])

    def _signal(self, node: ast.expr, name: str) -> _Subject:
        signals = self._scope.signals
        if name not in signals or "*" in name:
            if isinstance(node, ast.Call):
                raise Mistake(node, signals.unknown(name))
            known = (*self._scope.monitors, *signals.plain)
            raise Mistake(node, f"there is no monitor or signal '{name}'{nearest(name, known)}")
        self.signals.add(name)
        return _Subject(name, f"R[{name!r}]['']", repr(name))

    def _check_attribute(self, node: ast.Attribute, subject: _Subject, place: str) -> None:
        name = node.attr
        extra = self._extra(subject)
        known = (CONDITIONS | NUMBERS).union(extra)
        if name not in known:
            raise Mistake(node, f"'{self._words(node.value)}' has no '{name}'{nearest(name, known)}")
        if subject.name in self.signals and name in JUDGEMENTS:
            raise Mistake(
                node, f"'{name}' is for monitors, and '{subject.name}' is a signal: name one that watches it"
            )
        kept = FACTS.union(extra)
        if place and name not in kept:
            raise Mistake(node, f"'{place}' does not keep '{name}', only {', '.join(sorted(kept))}")

    def _extra(self, subject: _Subject) -> tuple[str, ...]:
        """The numbers that only this monitor tells."""
        return () if subject.name in self.signals else self._scope.extra.get(subject.name, ())
