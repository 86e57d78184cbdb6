"""Stalled: a loss that no longer falls as its own past says it should."""

from __future__ import annotations

from dataclasses import replace
from math import log, sqrt
from statistics import fmean, median
from typing import ClassVar

from .base import STALE_AFTER, SignalMonitor, at_least
from .calm import BLOCK, Calm
from .changes import Effect, Way
from .cusum import Cusum
from .types import Health, Reading, Tuned

_LEAST_BLOCKS = 8  # before the first fit: a line through fewer has no noise to speak of
_CLIP = 4.0
_FLOOR = 1e-3  # of the level: the least noise of one measurement, as in ``RobustScale``
_LEAST = 1e-30


class Stalled(SignalMonitor):
    """Finds progress that has stopped, or that goes back too slowly to be seen from one step to the next.

    Measurements are taken in blocks; each block's 10 %-trimmed mean is compared with a robust line
    (Theil-Sen) in log t through the ``blocks`` before it: z = residual / (sigma sqrt(1 + leverage)), and a
    CUSUM of those z alarms. Over such a stretch a healthy loss is as good as straight; one that stops falling
    rises above the line. ``level`` and ``noise`` are what the line says of a block, and how surely.

    Args:
        signal: the signal's name.
        block: measurements in a block. Shorter is faster, and blinder.
        blocks: blocks before that make the line (8 are enough to begin).
        slack: what of each z counts as none; 1.5 covers the curvature of the log and correlated noise.
        threshold: accumulated z that alarm.
        stale_after: ticks without a measurement until the reading is STALE.

    Raises:
        ParameterError: a parameter is out of range.

    >>> from random import Random
    >>> from midcourse import Sample
    >>> noise, stalled = Random(0), Stalled("loss")
    >>> for tick in range(4000):
    ...     loss = 2 + 20 * (min(tick, 2000) + 10) ** -0.3 + noise.gauss(0, 0.1)
    ...     reading = stalled.update(Sample(tick, tick, 0, {"loss": loss}))
    ...     if reading.bad:
    ...         break
    >>> tick, reading.onset
    (2399, 2050)
    """

    looks = Way.UP
    tuned = Tuned(stops=1.5)
    false_alarms_per_100k = 5.0
    step_noises = 3.0
    step_delay = 200
    _state: ClassVar[tuple[str, ...]] = (
        *(*SignalMonitor._state, "_cusum", "_since", "_block", "_finished", "_means", "_line"),
    )

    def __init__(
        self,
        signal: str,
        *,
        block: int = 50,
        blocks: int = 20,
        slack: float = 1.5,
        threshold: float = 6.0,
        stale_after: int = STALE_AFTER,
    ) -> None:
        at_least("block", 10, block)
        at_least("blocks", _LEAST_BLOCKS, blocks)
        super().__init__(signal, stale_after)
        self.lateness = block
        self.warm_up = block * (_LEAST_BLOCKS + 1) - 1
        self._size = block
        self._most = blocks
        self._cusum = Cusum(slack, threshold, _CLIP)
        self.threshold = threshold
        self._since = 0  # the tick at which the current block began
        self._block: list[float] = []
        self._finished = 0  # blocks so far
        self._means: list[float] = []  # of the newest of them
        self._line: list[float] | None = None  # what it says of the last block: level and noise

    def calm(self) -> Calm | None:
        """Until the block is complete it says the same, whatever that is and whatever is measured."""
        left = self._size - len(self._block) - 1
        same = self._reading.health is self._says and self._patient
        return Calm(min(left, BLOCK)) if left > 0 and same else None

    @property
    def _says(self) -> Health:
        if self._line is None:
            return Health.WARMUP
        return Health.OK if self._cusum.onset is None else Health.ALARM

    def _take_all(self, ticks: list[int], values: list[float]) -> Reading:
        if not self._block:
            self._since = ticks[0]
        self._block += values
        return replace(self._reading, tick=ticks[-1], value=values[-1])

    def _take(self, tick: int, value: float) -> Reading:
        block = self._block
        if not block:
            self._since = tick
        block.append(value)
        if len(block) == self._size:
            self._finish_block()
        if self._line is None:
            return Reading(Health.WARMUP, tick, value)
        (level, noise), cusum = self._line, self._cusum
        if cusum.onset is None:
            return Reading(Health.OK, tick, value, cusum.sum, cusum.threshold, None, level, noise)
        mean = self._means[-1]
        reason = f"{self._signal} stays at {mean:.4g} where {level:.4g} +- {noise:.2g} was to be expected"
        onset = cusum.onset
        return Reading(Health.ALARM, tick, value, cusum.sum, cusum.threshold, onset, level, noise, reason)

    def _finish_block(self) -> None:
        cut = self._size // 10
        mean = fmean(sorted(self._block)[cut : self._size - cut])
        self._block = []
        means = self._means
        if len(means) >= _LEAST_BLOCKS:
            level, noise = self._next_mean()
            z = (mean - level) / noise
            self._cusum.add(self._since, z)
            self._line = [level, noise]
            mean = level + noise * max(-_CLIP, min(z, _CLIP))  # winsorised, as everywhere
        self._means = [*means[len(means) >= self._most :], mean]
        self._finished += 1

    def _next_mean(self) -> tuple[float, float]:
        """Level and noise of the next block's mean, by the line through those before it."""
        y = self._means
        n = len(y)
        first = self._finished - n
        x = [log(first + index + 0.5) for index in range(n + 1)]
        slope = median((y[j] - y[i]) / (x[j] - x[i]) for i in range(n) for j in range(i + 1, n))
        at_zero = median(y[i] - slope * x[i] for i in range(n))
        level = at_zero + slope * x[n]
        spread = 1.4826 * median(abs(y[i] - at_zero - slope * x[i]) for i in range(n)) * sqrt(n / (n - 2))
        middle = fmean(x[:n])
        leverage = 1 / n + (x[n] - middle) ** 2 / sum((at - middle) ** 2 for at in x[:n])
        floor = max(_FLOOR * abs(level) / sqrt(self._size), _LEAST)
        return level, max(spread, floor) * sqrt(1 + leverage)

    def _expect(self, effect: Effect) -> None:
        """Whichever way it is meant to go, no line through what was before leads on to it."""
        self._forget()
        self._means, self._line = [], None

    def _forget(self) -> None:
        self._cusum.reset()
        self._block = []
