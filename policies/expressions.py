"""Conditions of a policy: a whitelisted subset of Python's expressions, three-valued, compiled once.

``(loss.z > 6 and grad_norm.ratio > 3) or rise.bad`` is checked against the policy's names and types when
it is loaded, and answers True, False or None (*unknown*) when it is called. What was not measured, a
monitor that is warming up, stale or broken, a division by zero: all are unknown; ``and``, ``or`` and
``not`` follow Kleene's logic, and only True fires a rule. NaN is unknown too, save to ``isnan()``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..monitors.types import Health, Reading
from .types import Facts

Readings = Mapping[str, Mapping[str, Reading]]
"""Monitor or signal -> instance -> its reading. What has no instances has the one instance ``""``."""

NO_FACTS: Facts = {}
_UNMEASURED = Reading(Health.WARMUP)


class Code(Protocol):
    """A compiled rail of an expression."""

    def __call__(self, readings: Readings, instance: str, before: Facts, target: Facts, /) -> Any: ...


@dataclass(frozen=True, slots=True)
class Expression:
    """A compiled condition (``compile_expression``), or a compiled number (``compile_number``).

    ``monitors`` and ``signals`` are the names that it reads (with the monitor behind ``this``), in the
    readings as well as in ``before.*`` and ``target.*``. ``grouped`` are the monitors that it reads only by
    ``any``, ``all`` or ``count``; ``foreach`` is the monitor behind ``this``, if it says ``this``.

    The code of ``verdict`` has two rails, each plain two-valued Python: one is true where the condition is
    known to hold, the other where it is known to fail. A comparison with NaN is false on both, and
    that is all it takes to carry *unknown* at the speed of Python's own floats.
    """

    text: str
    monitors: frozenset[str]
    signals: frozenset[str]
    grouped: frozenset[str]
    foreach: str | None
    uses_before: bool
    uses_target: bool
    verdict: Code = field(repr=False, compare=False)
    operands: Code = field(repr=False, compare=False)

    @property
    def names(self) -> frozenset[str]:
        """All monitors and signals that it reads: the keys that it needs of the readings."""
        return self.monitors | self.signals

    def __call__(
        self, readings: Readings, instance: str = "", before: Facts = NO_FACTS, target: Facts = NO_FACTS
    ) -> bool | None:
        """Judge it: True, False, or None where what was measured does not decide.

        Args:
            readings: the current readings; a name that is missing counts as not measured.
            instance: what ``this`` stands for in a ``foreach`` rule.
            before: the facts of the decision that is verified, for ``before.*``.
            target: the facts at the rollback's target, for ``target.*``.
        """
        try:
            said: bool | None = self.verdict(readings, instance, before, target)
            return said
        except KeyError:  # something has not been measured yet: rare, so the usual call does not pay for it
            return self(self._completed(readings, instance), instance, before, target)

    def number(self, readings: Readings, instance: str = "") -> float:
        """What it comes to, where it is a number (``compile_number``); NaN is unknown."""
        try:
            found: float = self.verdict(readings, instance, NO_FACTS, NO_FACTS)
            return found
        except KeyError:
            return self.number(self._completed(readings, instance), instance)

    def numbers(
        self, readings: Readings, instance: str = "", before: Facts = NO_FACTS, target: Facts = NO_FACTS
    ) -> dict[str, float]:
        """The numbers that it reads, under the words that it uses for them: ``{"loss.z": 7.2}``.

        Unknown ones are left out, and so are those inside ``any``, ``all`` and ``count``.
        """
        found = self.operands(self._completed(readings, instance), instance, before, target)
        return {name: value for name, value in found.items() if value == value}

    def _completed(self, readings: Readings, instance: str) -> Readings:
        """The readings that it needs, with an unmeasured one wherever one is missing."""
        blank: dict[str, dict[str, Reading]] = {name: {"": _UNMEASURED} for name in self.names}
        blank |= {name: {} for name in self.grouped}
        if self.foreach is not None:
            blank[self.foreach] = {instance: _UNMEASURED}
        return {name: {**missing, **readings.get(name, {})} for name, missing in blank.items()}
