"""Stuck: a loader that gives the same batches again and again, judged before the step."""

from __future__ import annotations

from typing import ClassVar

from .base import STALE_AFTER, SignalMonitor, at_least
from .calm import Calm
from .scale import WARM_UP
from .types import Health, Reading


class Stuck(SignalMonitor):
    """Finds batches that have just been there, as long as they come, and the first other one after them.

    Its signal is ``repeats``: 1 where all of a step's batches have just been there, 0 where none has. It
    alarms once that was so ``times`` times in a row. The score is the number of repetitions so far, and 0
    with the first other batch, where the alarm still lasts: that is the moment to go back for what the loader
    has not given. The onset is the first repetition.

    It judges only after ``warm_up`` batches that were new: where a few batches are all the data there is, the
    same ones come from the beginning, and nothing is wrong.

    Args:
        signal: the signal's name.
        times: repetitions in a row. One may come by chance.
        warm_up: new batches before it judges.
        stale_after: ticks without a measurement until the reading is STALE.

    Raises:
        ParameterError: a parameter is out of range.

    >>> from midcourse import Sample
    >>> stuck = Stuck("repeats", warm_up=2)
    >>> repeats = [0, 0, 1, 1, 1, 1, 0, 0]
    >>> readings = [stuck.update(Sample(tick, tick, 0, {"repeats": r})) for tick, r in enumerate(repeats)]
    >>> [(reading.tick, reading.score, reading.onset) for reading in readings if reading.bad]
    [(3, 2.0, 2), (4, 3.0, 2), (5, 4.0, 2), (6, 0.0, 2)]
    """

    before_step = True
    false_alarms_per_100k = 0.0
    _state: ClassVar[tuple[str, ...]] = (*SignalMonitor._state, "_new", "_times", "_since")

    def __init__(
        self, signal: str, *, times: int = 2, warm_up: int = WARM_UP, stale_after: int = STALE_AFTER
    ) -> None:
        at_least("times", 1, times)
        at_least("warm_up", 0, warm_up)
        super().__init__(signal, stale_after)
        self.threshold = float(times)
        self.warm_up = warm_up
        self._new = 0  # batches, as far as it matters
        self._times = 0  # in a row, so far
        self._since: int | None = None

    def _take(self, tick: int, value: float) -> Reading:
        threshold = self.threshold
        if self._new < self.warm_up:
            self._new = self._new + 1 if value != 1.0 else 0
            return Reading(Health.WARMUP, tick, value)
        if value == 1.0:  # so for all micro-batches, on all processes
            self._since = tick if self._times == 0 else self._since
            self._times += 1
            score = float(self._times)
            if score < threshold:
                return Reading(Health.OK, tick, value, score, threshold)
            reason = f"{self._times} batches in a row that had just been there"
            return Reading(Health.ALARM, tick, value, score, threshold, self._since, reason=reason)
        times, since = self._times, self._since
        self._forget()
        if times < threshold:
            return Reading(Health.OK, tick, value, 0.0, threshold)
        reason = f"a new batch, after {times} that had just been there"
        return Reading(Health.ALARM, tick, value, 0.0, threshold, since, reason=reason)

    def calm(self) -> Calm | None:
        """Nothing that is less than 1 repeats anything."""
        if self._times or not self._at_ease:
            return None
        return Calm(high=1 - 1e-9)

    def _take_all(self, ticks: list[int], values: list[float]) -> Reading:
        return Reading(Health.OK, ticks[-1], values[-1], 0.0, self.threshold)

    def _forget(self) -> None:
        self._times, self._since = 0, None

    @property
    def on_edge(self) -> bool:
        """Whether the next measurement need only be one more repetition to alarm."""
        return self._times >= self.threshold - 1
