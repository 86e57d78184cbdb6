"""Guard: what is wrong with a step before it is taken, without any statistics."""

from __future__ import annotations

from typing import ClassVar

from .base import LARGEST, STALE_AFTER, BaseMonitor, at_least
from .calm import LOOK_EVERY, Calm
from .scale import LEAST
from .types import Health, ParameterError, Reading, Sample


class Guard(BaseMonitor):
    """Finds a loss or gradient that is not finite, at once, and gradients that are exactly zero.

    It is judged before ``optimizer.step()``, so that a rule can still skip the step. NONFINITE lasts as
    long as the values are not finite. A gradient norm of exactly 0, ``zeros`` measurements in a row, is a
    WARNING: nothing is being learnt (one alone can be a batch without targets).

    Args:
        signals: the names of the signals. Zero is looked for in those that begin with ``grad_norm``.
        zeros: measurements of exactly 0 in a row that warn.
        stale_after: ticks without a measurement until the reading is STALE.

    Raises:
        ParameterError: a parameter is out of range.

    >>> from math import inf
    >>> from midcourse import Sample
    >>> Guard().update(Sample(0, 0, 0, {"loss": 2.0, "grad_norm": inf})).reason
    'grad_norm is inf'
    """

    before_step = True
    _state: ClassVar[tuple[str, ...]] = (*BaseMonitor._state, "_since", "_zeros_in_a_row")

    def __init__(
        self,
        *,
        signals: tuple[str, ...] = ("loss", "grad_norm"),
        zeros: int = 5,
        stale_after: int = STALE_AFTER,
    ) -> None:
        if not isinstance(signals, (tuple, list)) or not signals or any("*" in name for name in signals):
            raise ParameterError("signals", f"signals must be a list of names without a star, got {signals}")
        at_least("zeros", 1, zeros)
        super().__init__(tuple(signals), stale_after)
        self._zeros = zeros
        self._zeros_in_a_row = 0
        self._since: int | None = None  # the tick at which what it now says began

    def update(self, sample: Sample) -> Reading:
        """Take one sample and say whether the step is fit to be taken."""
        signals = sample.signals
        measured: float | None = None
        for name in self.signals:
            value = signals.get(name)
            if value is None:
                continue
            if not -LARGEST < value < LARGEST:
                self._reading = self._bad(sample.tick, name, value)
                return self._reading
            if (value == 0.0 or self._zeros_in_a_row) and name.startswith("grad_norm"):
                self._count_zero(value, sample.tick)
            if measured is None:
                measured = value
        if measured is None:
            return self._miss(sample.tick)
        self._reading = self._fit(sample.tick, measured)
        return self._reading

    def calm(self) -> Calm | None:
        """Nothing is wrong with what is above 0."""
        fit = self._reading.health is Health.OK and not self._zeros_in_a_row
        return Calm(low=LEAST) if fit and self._stale_after >= LOOK_EVERY else None

    def settle(self, ticks: list[int], values: list[float]) -> Reading:
        """Take what ``calm`` has let pass: of each tick the first of its signals that was measured."""
        self._reading = Reading(Health.OK, ticks[-1], values[-1])
        return self._reading

    def _bad(self, tick: int, name: str, value: float) -> Reading:
        if self._reading.health is not Health.NONFINITE:
            self._since = tick
        self._zeros_in_a_row = 0
        return Reading(Health.NONFINITE, tick, value, onset=self._since, reason=f"{name} is {value}")

    def _count_zero(self, value: float, tick: int) -> None:
        if value != 0.0:
            self._zeros_in_a_row = 0
            return
        if self._zeros_in_a_row == 0:
            self._since = tick
        self._zeros_in_a_row += 1

    def _fit(self, tick: int, value: float) -> Reading:
        if self._zeros_in_a_row < self._zeros:
            return Reading(Health.OK, tick, value)
        reason = f"the gradient norm is exactly 0 for {self._zeros_in_a_row} measurements: nothing is learnt"
        return Reading(Health.WARNING, tick, value, onset=self._since, reason=reason)
