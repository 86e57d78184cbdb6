"""Sustained rise: a one-sided CUSUM on robust z."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from .base import STALE_AFTER, ScaledMonitor
from .calm import Leeway
from .changes import Way
from .cusum import Cusum
from .onset import RampStart
from .scale import WARM_UP, make_scale
from .types import Tuned

_CALIBRATED = {
    "loss": (0.5, 20.0, 4.0),
    "grad_norm": (1.5, 12.0, 6.0),
    "update_ratio": (1.0, 10.0, 6.0),
    "moment_lag": (1.0, 10.0, 6.0),  # as good as any of six tried on a run that was then set aside
}


class SustainedRise(ScaledMonitor):
    """Finds a signal that stays above its level, by however little.

    S <- max(0, S + min(z, clip) - slack), alarm at S > threshold; ``Cusum`` says how it clears. The onset
    is the first measurement after S was last 0, or the first of a ramp fitted to the window, if that is
    earlier. In the median it is 4 too early on a step of 3 noises (by S alone: 0), 9 too early on one of 1.5
    (0), and 40 too late on a ramp of 2 noises in 400 measurements (132).

    A healthy loss seldom rises, so a slack of 0.5 and a threshold of 20 give no false alarm in 133 k steps of
    GPTs. The norms (grad_norm, update_ratio, moment_lag; in log) rise for long stretches of healthy runs, and
    fast when something breaks: they get more slack, and a lower threshold. So should a signal whose noise is
    correlated: at an autocorrelation of 0.6, one that no longer falls alarms once in a thousand steps.

    Args:
        signal: the signal's name.
        window: previous values that level and noise come from. Shorter is faster, with more false alarms.
        warm_up: measurements before it judges.
        slack: noises above the level that count as none; None: 0.5, grad_norm 1.5, other norms 1.
        threshold: accumulated noises that alarm; None: 20, grad_norm 12, other norms 10.
        clip: the most that one measurement can add, so that none alarms alone; None: 4, norms 6.
        log: judge the logarithm; None goes by the signal's name.
        stale_after: ticks without a measurement until the reading is STALE.

    Raises:
        ParameterError: a parameter is out of range.

    >>> from random import Random
    >>> from midcourse import Sample
    >>> noise, rise = Random(0), SustainedRise("loss")
    >>> for tick in range(300):
    ...     reading = rise.update(Sample(tick, tick, 0, {"loss": noise.gauss(2, 0.1) + 0.3 * (tick >= 280)}))
    ...     if reading.bad:
    ...         break
    >>> tick, reading.onset
    (287, 273)
    """

    looks = Way.UP
    tuned = Tuned(stops=1.5)
    false_alarms_per_100k = 5.0
    step_noises = 3.0
    step_delay = 20
    lateness = 20
    _state: ClassVar[tuple[str, ...]] = (*ScaledMonitor._state, "_cusum", "_start")

    def __init__(
        self,
        signal: str,
        *,
        window: int = 512,
        warm_up: int = WARM_UP,
        slack: float | None = None,
        threshold: float | None = None,
        clip: float | None = None,
        log: bool | None = None,
        stale_after: int = STALE_AFTER,
    ) -> None:
        calibrated = _CALIBRATED.get(signal.partition("/")[0], _CALIBRATED["loss"])
        given = zip((slack, threshold, clip), calibrated, strict=True)
        self._cusum = Cusum(*(usual if value is None else value for value, usual in given))
        self._start = RampStart(window)
        super().__init__(signal, make_scale(signal, window, warm_up, log), self._cusum.threshold, stale_after)

    def _leeway(self) -> Leeway:
        return Leeway(slack=self._cusum.slack, rise=self._cusum.room)

    def _judge_all(self, ticks: list[int], zs: Sequence[float]) -> float:
        add, cusum = self._start.add, self._cusum
        if self._start.add_all(ticks):
            return cusum.add_all(ticks, zs)
        for tick, z in zip(ticks, zs, strict=True):
            if add(tick):
                cusum.reset()
            cusum.add(tick, z)
        return cusum.sum

    def _judge(self, tick: int, z: float) -> tuple[float, int | None]:
        cusum = self._cusum
        if self._start.add(tick):
            cusum.reset()
        before = cusum.onset
        score = cusum.add(tick, z)
        if before is None and cusum.onset is not None:
            cusum.onset = self._start.earlier(cusum.onset, self._scale.values())
        return score, cusum.onset

    def _forget(self) -> None:
        self._cusum.reset()
        self._start.forget()
