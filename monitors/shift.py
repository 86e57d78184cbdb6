"""Shift: a two-sided CUSUM on robust z."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from .base import STALE_AFTER, ScaledMonitor
from .calm import Leeway
from .cusum import Cusum
from .scale import WARM_UP, make_scale
from .types import Tuned


class Shift(ScaledMonitor):
    """Finds a signal that has gone to another level, above or below; made for the gradient norm.

    Two sums, S+ <- max(0, S+ + min(z, clip) - slack) and S- the same of -z; alarm where one is above the
    threshold. Its score is the larger one, and the onset is the first measurement after that one was last 0:
    3 too late in the median of steps and ramps of many sizes, 25 in the 90th percentile.

    A learning rate that is far too high often lowers the gradient norm first. Slack, threshold and clip
    are those of ``SustainedRise`` for a gradient norm. The window is short: over 512 values a gradient norm
    that drifts, as it does in healthy runs, leaves its level more often (in 61 k samples of 53 healthy runs
    23 times, over 128 values 7 times), and what breaks at once is found as fast.

    Args:
        signal: the signal's name.
        window: previous values that level and noise come from.
        warm_up: measurements before it judges.
        slack: noises above or below the level that count as none.
        threshold: accumulated noises that alarm.
        clip: the most that one measurement can add, so that none alarms alone.
        log: judge the logarithm; None goes by the signal's name.
        stale_after: ticks without a measurement until the reading is STALE.

    Raises:
        ParameterError: a parameter is out of range.

    Source: E. S. Page, Continuous inspection schemes, Biometrika 41 (1954).

    >>> from random import Random
    >>> from midcourse import Sample
    >>> noise, shift = Random(0), Shift("grad_norm")
    >>> for tick in range(300):
    ...     norm = noise.lognormvariate(0, 0.1) * (0.5 if tick >= 280 else 1)
    ...     reading = shift.update(Sample(tick, tick, 0, {"grad_norm": norm}))
    ...     if reading.bad:
    ...         break
    >>> tick, reading.onset
    (282, 280)
    """

    tuned = Tuned(stops=1.5)
    false_alarms_per_100k = 15.0
    step_noises = 5.0
    step_delay = 10
    lateness = 30
    _state: ClassVar[tuple[str, ...]] = (*ScaledMonitor._state, "_above", "_below")

    def __init__(
        self,
        signal: str,
        *,
        window: int = 128,
        warm_up: int = WARM_UP,
        slack: float = 1.5,
        threshold: float = 12.0,
        clip: float = 6.0,
        log: bool | None = None,
        stale_after: int = STALE_AFTER,
    ) -> None:
        self._above = Cusum(slack, threshold, clip)
        self._below = Cusum(slack, threshold, clip)
        super().__init__(signal, make_scale(signal, window, warm_up, log), threshold, stale_after)

    def _leeway(self) -> Leeway:
        above, below = self._above, self._below
        return Leeway(slack=above.slack, rise=above.room, fall=below.room)

    def _judge_all(self, ticks: list[int], zs: Sequence[float]) -> float:
        up, down = self._above.add_all(ticks, zs), self._below.add_all(ticks, [-z for z in zs])
        return up if up >= down else down

    def _judge(self, tick: int, z: float) -> tuple[float, int | None]:
        above, below = self._above, self._below
        up, down = above.add(tick, z), below.add(tick, -z)
        further, other = (above, below) if up >= down else (below, above)
        return further.sum, other.onset if further.onset is None else further.onset

    def _forget(self) -> None:
        self._above.reset()
        self._below.reset()
