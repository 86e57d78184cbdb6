"""Divergence: measurements far outside of the noise, more than one at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from .base import STALE_AFTER, ScaledMonitor, above_zero
from .calm import Leeway
from .changes import Way
from .differenced import DifferencedScale
from .scale import WARM_UP, make_scale
from .types import Tuned


class Divergence(ScaledMonitor):
    """Finds a signal that shoots up: two of the last three measurements above ``threshold`` noises.

    A healthy run has single batches at 17-29 noises; two of three it does not have. The onset is the
    first of them. The alarm clears when three measurements in a row are back below.

    Args:
        signal: the signal's name.
        window: previous values that level and noise come from.
        warm_up: measurements before it judges.
        threshold: noises above the level, where noise is also taken from one value to the next.
        log: judge the logarithm; None goes by the signal's name.
        stale_after: ticks without a measurement until the reading is STALE.

    Raises:
        ParameterError: a parameter is out of range.

    >>> from random import Random
    >>> from midcourse import Sample
    >>> noise, blowup = Random(0), Divergence("loss")
    >>> for tick in range(300):
    ...     reading = blowup.update(Sample(tick, tick, 0, {"loss": noise.gauss(2, 0.1) + 2 * (tick >= 280)}))
    ...     if reading.bad:
    ...         break
    >>> tick, reading.onset
    (281, 280)
    """

    looks = Way.UP
    tuned = Tuned(times=2, of=3, power=True)
    false_alarms_per_100k = 5.0
    step_noises = 15.0
    step_delay = 3
    lateness = 5
    _state: ClassVar[tuple[str, ...]] = (*ScaledMonitor._state, "_last_high", "_high_before", "_onset")

    def __init__(
        self,
        signal: str,
        *,
        window: int = 128,
        warm_up: int = WARM_UP,
        threshold: float = 10.0,
        log: bool | None = None,
        stale_after: int = STALE_AFTER,
    ) -> None:
        above_zero("threshold", threshold)
        scale = make_scale(signal, window, warm_up, log, DifferencedScale)
        super().__init__(signal, scale, threshold, stale_after)
        self._last_high: int | None = None  # tick of the measurement before this one, if it was high
        self._high_before: int | None = None  # and of the one before that
        self._onset: int | None = None

    def _leeway(self) -> Leeway | None:
        return Leeway(high=self.threshold) if self._last_high is self._high_before is None else None

    def _judge_all(self, ticks: list[int], zs: Sequence[float]) -> float:
        return zs[-1]

    def _judge(self, tick: int, z: float) -> tuple[float, int | None]:
        high = tick if z > self.threshold else None
        before, last = self._high_before, self._last_high
        first = last if before is None else before
        if high is None and first is None:
            self._onset = None
        elif high is not None and self._onset is None:
            self._onset = first
        self._high_before, self._last_high = last, high
        return z, self._onset

    def _forget(self) -> None:
        self._onset = self._last_high = self._high_before = None
