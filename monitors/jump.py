"""Jump: a signal that never jumps has done so."""

from __future__ import annotations

from typing import ClassVar

from .base import STALE_AFTER, ScaledMonitor, above_zero
from .calm import Leeway
from .scale import WARM_UP
from .trend import TrendScale
from .types import ParameterError, Tuned

_STRAY = 3.0  # noises from the level that a healthy signal seldom is


class Jump(ScaledMonitor):
    """Finds a signal that is suddenly elsewhere, in one measurement; for those that move slowly or hardly.

    The norm of all parameters is one: a flipped bit in memory, or a checkpoint loaded in part, shows in it at
    once, and in the loss perhaps never. So is the size of the update relative to them: an optimizer that has
    lost its state shows there for some ten steps. Either direction counts, and so does a schedule that
    changes the learning rate all at once. A loss or a gradient norm is too noisy for it.

    It alarms where abs(z) > threshold, and clears at half of that, or when the window has got used to the
    new level. z is how many noises a value lies off the trend of those before it, so that a steady growth
    counts for nothing, and one that runs away within some measurements does. Not in log: a learning rate
    that goes to 0 in a straight line has no bend there. The onset is the tick after the measurement
    at which abs(z) was last below 3: where it is measured seldom, it may have been then.

    In a small transformer a flipped bit made 58 noises at once and a lost optimizer state 14; neither norm
    went beyond 5 in its healthy runs. These are few: a reason to look, no reason to act alone.

    Args:
        signal: the signal's name.
        window: previous values that trend and noise come from.
        warm_up: measurements before it judges.
        threshold: noises off the trend: 12.
        log: judge the logarithm.
        stale_after: ticks without a measurement until the reading is STALE.

    Raises:
        ParameterError: a parameter is out of range.

    >>> from midcourse import Sample
    >>> jump = Jump("param_norm")
    >>> norms = [55 + 0.01 * tick + 30 * (tick >= 280) for tick in range(300)]
    >>> readings = [jump.update(Sample(tick, tick, 0, {"param_norm": norms[tick]})) for tick in range(300)]
    >>> [reading.tick for reading in readings if reading.bad][:2], readings[-1].onset
    ([280, 281], 280)
    """

    tuned = Tuned(power=True)
    false_alarms_per_100k = 5.0
    step_noises = 30.0
    step_delay = 0
    _state: ClassVar[tuple[str, ...]] = (*ScaledMonitor._state, "_well", "_left", "_onset")

    def __init__(
        self,
        signal: str,
        *,
        window: int = 128,
        warm_up: int = WARM_UP,
        threshold: float = 12.0,
        log: bool = False,
        stale_after: int = STALE_AFTER,
    ) -> None:
        above_zero("threshold", threshold)
        if threshold <= _STRAY:
            raise ParameterError("threshold", f"threshold must be above {_STRAY:g}, got {threshold}")
        super().__init__(signal, TrendScale(window, warm_up, log), threshold, stale_after)
        self._well: int | None = None  # the last tick at which it was at its level
        self._left: int | None = None  # the tick from which on it may have left it
        self._onset: int | None = None  # the same, while it alarms

    def _leeway(self) -> Leeway:
        return Leeway(low=-self.threshold, high=self.threshold)

    def _judge(self, tick: int, z: float) -> tuple[float, int | None]:
        distance = abs(z)
        if distance < _STRAY:
            self._well, self._left = tick, None
        elif self._left is None:  # where it is measured seldom, it may have been right after the last time
            self._left = tick if self._well is None else self._well + 1
        if distance > self.threshold:
            self._onset = self._left if self._onset is None else self._onset
        elif distance <= self.threshold / 2:
            self._onset = None
        return distance, self._onset

    def _forget(self) -> None:
        self._left = self._onset = None
