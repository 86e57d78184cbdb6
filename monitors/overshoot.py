"""Overshoot: a rate that had begun to fall and then goes far beyond what it has ever been."""

from __future__ import annotations

from typing import ClassVar

from .base import STALE_AFTER, SignalMonitor
from .calm import Calm
from .changes import Effect, Way
from .types import Health, ParameterError, Reading

_FAR = 1e90  # of which the factor still makes a number
_FALLEN = 0.9  # of its highest: it has begun to fall


class Overshoot(SignalMonitor):
    """Finds a learning rate that nobody can have meant: higher than ever, long after its peak.

    Schedules rise, then fall; restarts come back to where they have been. One that has fallen below nine
    tenths of its highest value and then exceeds ``factor`` times that is a slip in the schedule, or two
    overrides that meet: a fault until it is announced (``expect_change("lr")``, after which the next value
    counts as known). Nothing is estimated, so there is no warm-up, and no loss has to suffer first. The alarm
    ends when the signal is below again. The onset is where it began to rise, from the lowest since its peak.

    Args:
        signal: the signal's name.
        factor: times the highest value so far.
        stale_after: ticks without a measurement until the reading is STALE.

    Raises:
        ParameterError: a parameter is out of range.

    >>> from midcourse import Sample
    >>> overshoot = Overshoot("lr")
    >>> rates = [1.0, 2.0, 1.5, 1.0, 2.0, 3.0, 3.1, 2.0]
    >>> readings = [overshoot.update(Sample(tick, tick, 0, {"lr": rate})) for tick, rate in enumerate(rates)]
    >>> [(reading.tick, reading.score, reading.onset) for reading in readings if reading.bad]
    [(5, 1.5, 4), (6, 1.55, 4)]
    """

    looks = Way.UP
    false_alarms_per_100k = 0.0
    _state: ClassVar[tuple[str, ...]] = (
        *SignalMonitor._state,
        *("_highest", "_fallen", "_lowest", "_lowest_at", "_known"),
    )

    def __init__(self, signal: str, *, factor: float = 1.25, stale_after: int = STALE_AFTER) -> None:
        if not 1 < factor < 1e6:
            raise ParameterError("factor", f"factor must be above 1, got {factor}")
        super().__init__(signal, stale_after)
        self.threshold = factor
        self._highest = 0.0
        self._fallen = False
        self._lowest = 0.0  # since it has fallen, and when
        self._lowest_at = 0
        self._known = False  # whether the next value was announced

    def _expect(self, effect: Effect) -> None:
        self._known = True

    def _take(self, tick: int, value: float) -> Reading:
        if self._known or not self._fallen:
            self._highest = max(self._highest, value)
            self._known = False
        if value < _FALLEN * self._highest and not self._fallen:
            self._fallen, self._lowest, self._lowest_at = True, value, tick
        elif self._fallen and value <= self._lowest:
            self._lowest, self._lowest_at = value, tick
        highest, factor = self._highest, self.threshold
        score = value / highest if highest > 0 else 0.0
        if not (self._fallen and score > factor):
            return Reading(Health.OK, tick, value, score, factor)
        onset = self._lowest_at + 1
        reason = f"{self._signal} {value:.4g}, {score:.3g} times its highest, risen since tick {onset}"
        return Reading(Health.ALARM, tick, value, score, factor, onset, reason=reason)

    def calm(self) -> Calm | None:
        """Its highest value does not get less, so that it can bear ``factor`` times that."""
        if self._known or not 0 < self._highest < _FAR or not self._at_ease:
            return None
        return Calm(high=self._highest * self.threshold * (1 - 1e-9))

    def _forget(self) -> None:
        """It gathers no evidence."""
