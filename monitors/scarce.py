"""Scarce: a supply that falls below its level and stays there."""

from __future__ import annotations

from typing import ClassVar

from .base import STALE_AFTER, ScaledMonitor
from .changes import Way
from .cusum import Cusum
from .scale import WARM_UP, make_scale
from .types import Tuned


class Scarce(ScaledMonitor):
    """Finds a signal that stays below its level: a source of which next to nothing comes any more.

    ``sustained_rise`` the other way: S <- max(0, S + min(-z, clip) - slack), alarm at S > threshold. The
    onset is the first measurement after S was last 0. Slack is what a share in small batches needs, whose
    noise is that of counting. A source's loss rises where it is scarce, for it is forgotten: what to do about
    that is the contrary of what helps against bad data.

    Args:
        signal: the signal's name.
        window: previous values that level and noise come from.
        warm_up: measurements before it judges.
        slack: noises below the level that count as none.
        threshold: accumulated noises that alarm.
        clip: the most that one measurement can add, so that none alarms alone.
        log: judge the logarithm; None goes by the signal's name.
        stale_after: ticks without a measurement until the reading is STALE.

    Raises:
        ParameterError: a parameter is out of range.

    >>> from random import Random
    >>> from midcourse import Sample
    >>> noise, scarce = Random(0), Scarce("supply/source=code")
    >>> for tick in range(400):
    ...     supply = sum(noise.random() < (0.3 if tick < 300 else 0.02) for _ in range(16)) / 4.8
    ...     reading = scarce.update(Sample(tick, tick, 0, {"supply/source=code": supply}))
    ...     if reading.bad:
    ...         break
    >>> tick, reading.onset
    (308, 299)
    """

    looks = Way.DOWN
    tuned = Tuned(stops=1.5)
    false_alarms_per_100k = 5.0
    step_noises = -3.0
    step_delay = 20
    lateness = 5
    _state: ClassVar[tuple[str, ...]] = (*ScaledMonitor._state, "_cusum")

    def __init__(
        self,
        signal: str,
        *,
        window: int = 256,
        warm_up: int = WARM_UP,
        slack: float = 0.75,
        threshold: float = 12.0,
        clip: float = 4.0,
        log: bool | None = None,
        stale_after: int = STALE_AFTER,
    ) -> None:
        self._cusum = Cusum(slack, threshold, clip)
        super().__init__(signal, make_scale(signal, window, warm_up, log), threshold, stale_after)

    def _judge(self, tick: int, z: float) -> tuple[float, int | None]:
        score = self._cusum.add(tick, -z)
        return score, self._cusum.onset

    def _forget(self) -> None:
        self._cusum.reset()
