"""Stuck: a loader that gives the same batch again and again, judged before the step."""

from __future__ import annotations

from typing import ClassVar

from .base import STALE_AFTER, SignalMonitor, at_least
from .types import Health, Reading


class Stuck(SignalMonitor):
    """Finds a batch that comes again and again, as long as it does, and the first other one after it.

    Its signal is ``repeats``: 1 where all of a step's batches are the ones before them once more, 0 where
    none is. It alarms once that was so ``times`` times in a row. The score is the number of repetitions so
    far, and 0 with the first other batch, where the alarm still lasts: that is the moment to go back for what
    the loader has not given. The onset is the first repetition.

    Args:
        signal: the signal's name.
        times: repetitions in a row. Two batches of a kind a small data set may give by chance.
        stale_after: ticks without a measurement until the reading is STALE.

    Raises:
        ParameterError: a parameter is out of range.

    >>> from midcourse import Sample
    >>> stuck = Stuck("repeats")
    >>> repeats = [0, 0, 1, 1, 1, 1, 0, 0]
    >>> readings = [stuck.update(Sample(tick, tick, 0, {"repeats": r})) for tick, r in enumerate(repeats)]
    >>> [(reading.tick, reading.score, reading.onset) for reading in readings if reading.bad]
    [(3, 2.0, 2), (4, 3.0, 2), (5, 4.0, 2), (6, 0.0, 2)]
    """

    before_step = True
    false_alarms_per_100k = 0.0
    _state: ClassVar[tuple[str, ...]] = (*SignalMonitor._state, "_times", "_since")

    def __init__(self, signal: str, *, times: int = 2, stale_after: int = STALE_AFTER) -> None:
        at_least("times", 1, times)
        super().__init__(signal, stale_after)
        self.threshold = float(times)
        self._times = 0  # in a row, so far
        self._since: int | None = None

    def _take(self, tick: int, value: float) -> Reading:
        if value == 1.0:  # so for all micro-batches, on all processes
            self._since = tick if self._times == 0 else self._since
            self._times += 1
            score = float(self._times)
            if self._times < self.threshold:
                return Reading(Health.OK, tick, value, score, self.threshold)
            reason = f"the same batch {self._times + 1} times in a row"
            return Reading(Health.ALARM, tick, value, score, self.threshold, self._since, reason=reason)
        times, since = self._times, self._since
        self._forget()
        if times < self.threshold:
            return Reading(Health.OK, tick, value, 0.0, self.threshold)
        reason = f"another batch, after one that came {times + 1} times"
        return Reading(Health.ALARM, tick, value, 0.0, self.threshold, since, reason=reason)

    def _forget(self) -> None:
        self._times, self._since = 0, None

    @property
    def on_edge(self) -> bool:
        """Whether the next measurement need only be one more repetition to alarm."""
        return self._times >= self.threshold - 1
