"""Too good: a loss that falls faster than its own trend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from .base import STALE_AFTER, ScaledMonitor
from .calm import Leeway
from .changes import Way
from .cusum import Cusum
from .scale import WARM_UP, make_scale
from .trend import FallingTrendScale
from .types import Tuned


class TooGood(ScaledMonitor):
    """Finds a loss that suddenly gets better than it should: a loader that is stuck, labels that leak.

    Before it is good news it is a reason to look: the same batch again and again is soon known by heart, an
    answer in the input is soon found. S <- max(0, S + min(-z, clip) - slack), alarm at S > threshold,
    where z says how far a value lies above the trend of those before it: without a trend, the mere fall of
    a young run's loss alarms once in each. A rise is not expected to go on, so its end is none. The onset is
    the first measurement after S was last 0: 2 too late in the median of steps and ramps of many sizes, 16
    in the 90th percentile.

    Slack, threshold and clip are what was measured on a small transformer with a stuck loader (found in 10
    and 14 steps). The window is twice the 128 of that time, so that half of it holds a burst of 50 bad
    batches without being moved by it: the end of such a burst is no sudden success.

    Args:
        signal: the signal's name.
        window: previous values that trend and noise come from.
        warm_up: measurements before it judges.
        slack: noises below the trend that count as none.
        threshold: accumulated noises that alarm.
        clip: the most that one measurement can add, so that none alarms alone.
        log: judge the logarithm; None goes by the signal's name.
        stale_after: ticks without a measurement until the reading is STALE.

    Raises:
        ParameterError: a parameter is out of range.

    >>> from random import Random
    >>> from midcourse import Sample
    >>> noise, too_good = Random(0), TooGood("loss")
    >>> for tick in range(400):
    ...     loss = noise.gauss(2, 0.1) - 0.03 * max(0, tick - 280)
    ...     reading = too_good.update(Sample(tick, tick, 0, {"loss": loss}))
    ...     if reading.bad:
    ...         break
    >>> tick, reading.onset
    (297, 284)
    """

    looks = Way.DOWN
    tuned = Tuned(stops=1.5)
    false_alarms_per_100k = 5.0
    step_noises = -6.0
    step_delay = 20
    lateness = 20
    _state: ClassVar[tuple[str, ...]] = (*ScaledMonitor._state, "_cusum")

    def __init__(
        self,
        signal: str,
        *,
        window: int = 256,
        warm_up: int = WARM_UP,
        slack: float = 1.0,
        threshold: float = 20.0,
        clip: float = 4.0,
        log: bool | None = None,
        stale_after: int = STALE_AFTER,
    ) -> None:
        self._cusum = Cusum(slack, threshold, clip)
        scale = make_scale(signal, window, warm_up, log, FallingTrendScale)
        super().__init__(signal, scale, threshold, stale_after)

    def _leeway(self) -> Leeway:
        return Leeway(slack=self._cusum.slack, fall=self._cusum.room)

    def _judge_all(self, ticks: list[int], zs: Sequence[float]) -> float:
        return self._cusum.add_all(ticks, [-z for z in zs])

    def _judge(self, tick: int, z: float) -> tuple[float, int | None]:
        score = self._cusum.add(tick, -z)
        return score, self._cusum.onset

    def _forget(self) -> None:
        self._cusum.reset()
