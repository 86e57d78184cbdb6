"""Sustained rise: a one-sided CUSUM on robust z."""

from __future__ import annotations

from typing import ClassVar

from .base import STALE_AFTER, ScaledMonitor, above_zero, at_least
from .scale import WARM_UP, make_scale


class SustainedRise(ScaledMonitor):
    """Finds a signal that stays above its level, by however little.

    S <- max(0, S + min(z, clip) - slack), alarm at S > threshold. The onset is the first measurement after S
    was last 0. The alarm clears when S has come down to half the threshold; S is bounded at one and
    a half thresholds, so that this takes tens of measurements after however long a rise.

    Args:
        signal: the signal's name.
        window: previous values that level and noise come from. Shorter is faster, with more false alarms.
        warm_up: measurements before it judges.
        slack: noises above the level that count as none (half the shift that is worth finding).
        threshold: accumulated noises that alarm. 20 gave no false alarm in 130 k healthy steps of GPTs.
        clip: the most that one measurement can add: no single batch alarms.
        log: judge the logarithm; None goes by the signal's name.
        stale_after: ticks without a measurement until the reading is STALE.

    Raises:
        ParameterError: a parameter is out of range.

    Source: E. S. Page, Continuous inspection schemes, Biometrika 41 (1954).

    >>> from random import Random
    >>> from midcourse import Sample
    >>> noise, rise = Random(0), SustainedRise("loss")
    >>> for tick in range(300):
    ...     reading = rise.update(Sample(tick, tick, 0, {"loss": noise.gauss(2, 0.1) + 0.3 * (tick >= 280)}))
    ...     if reading.bad:
    ...         break
    >>> tick, reading.onset
    (288, 274)
    """

    false_alarms_per_100k: ClassVar[float] = 10.0
    step_delay: ClassVar[int] = 20
    _state: ClassVar[tuple[str, ...]] = (*ScaledMonitor._state, "_sum", "_rising_since")

    def __init__(
        self,
        signal: str,
        *,
        window: int = 512,
        warm_up: int = WARM_UP,
        slack: float = 0.5,
        threshold: float = 20.0,
        clip: float = 4.0,
        log: bool | None = None,
        stale_after: int = STALE_AFTER,
    ) -> None:
        at_least("slack", 0, slack)
        above_zero("threshold", threshold)
        at_least("clip", slack, clip)
        super().__init__(signal, make_scale(signal, window, warm_up, log), threshold, stale_after)
        self.warm_up = warm_up
        self._slack = slack
        self._clip = clip
        self._most = 1.5 * threshold
        self._sum = 0.0
        self._rising_since = 0

    def _judge(self, tick: int, z: float) -> float:
        before = self._sum
        total = before + (z if z < self._clip else self._clip) - self._slack
        if total <= 0.0:
            total = 0.0
        elif total > self._most:
            total = self._most
        if before == 0.0:
            self._rising_since = tick
        self._sum = total
        if self._onset is None:
            if total > self._threshold:
                self._onset = self._rising_since
        elif total <= 0.5 * self._threshold:
            self._onset = None
        return total

    def _forget(self) -> None:
        super()._forget()
        self._sum = 0.0

    def _why(self, score: float) -> str:
        level, since = self._scale.level, self._onset
        return f"{self._signal} above {level:.4g} since tick {since}: {score:.3g} noises in sum"
