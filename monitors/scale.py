"""Robust level and noise of a signal: what is normal, learnt from the previous values."""

from __future__ import annotations

from collections.abc import Mapping
from math import exp, inf, log, nan
from typing import Any, ClassVar

from .types import ParameterError
from .window import SortedWindow

LOG_SIGNALS = frozenset({"grad_norm", "update_ratio", "param_norm"})
"""Signals taken in log unless told otherwise: positive, skewed, and their noise grows with their level."""

WARM_UP = 64
"""Measurements before a detector judges: quartiles of fewer are too uncertain to call anything abnormal."""

IQR = 1.349  # interquartile range of a normal distribution, in standard deviations
_DIFFERENCE = 0.954  # median |difference| of two normal values, in standard deviations
CLIP = 4.0
FLOOR = 1e-3
LEAST = 1e-30  # stands for zero and below in log; keeps the noise of a signal that is always 0 above 0


class RobustScale:
    """How many noises a value lies above the level of the values before it.

    Level and noise are the median m and sigma = max(IQR / 1.349, 1e-3 |m|) over the last ``window`` values.
    The floor keeps a signal that hardly moves from calling every rounding a change. What is taken in is
    winsorised to m +- 4 sigma, so an outlier counts as extreme once and never drags the level away.

    The window never reaches back over more than half of the run. A loss falls like a power of time, by as
    much in each doubling: seen over all of a young run it is mostly its own fall, which hides
    a rise (with half, a step of 4 noises at step 300 is found within 7 steps; with all, not at all).

    Args:
        window: how many previous values count at most.
        warm_up: values before the first score; all of them are taken in as they are.
        log: score the logarithm; ``level`` and ``noise`` stay in the signal's own units.

    Raises:
        ParameterError: the window is shorter than the warm-up, or that is too short.
    """

    __slots__ = ("_count", "_log", "_values", "_window", "level", "noise", "tick", "warm_up", "z")
    _differs: ClassVar = False  # whether there is a second estimate of the noise

    def __init__(self, window: int, warm_up: int, log: bool) -> None:
        if warm_up < 8:
            raise ParameterError("warm_up", f"warm_up must be at least 8 measurements, got {warm_up}")
        if window < warm_up:
            raise ParameterError("window", f"window must be at least warm_up = {warm_up}, got {window}")
        self._values = SortedWindow()
        self._count = 0  # of all values so far, up to where more make no difference
        self._window = window
        self.warm_up = warm_up
        self._log = log
        self.level = nan
        self.noise = nan
        self.tick: int | None = None  # of the last value, and its z: told by those who share the scale
        self.z: float | None = None

    def take(self, value: float) -> float | None:
        """Score a finite value against those before it, then take it in; None while warming up."""
        if self._log:
            value = log(max(value, LEAST))
        count, values, size = self._count, self._values, self._window
        if count < 2 * size:
            self._count = count + 1
            size = max(count // 2, self.warm_up)
        if count < self.warm_up:
            if self._differs:
                self._noise_by_difference(value, 0.0, size)
            values.push(value, size)
            return None
        # Comparisons, not min() and max(): this runs for every monitor at every tick, and those are calls.
        low, middle, high = values.quartiles()
        floor = FLOOR if self._log else FLOOR * abs(middle)  # in log, 1e-3 is relative already
        if floor < LEAST:
            floor = LEAST
        sigma = (high - low) / IQR
        if self._differs:
            by_difference = self._noise_by_difference(value, floor, size)
            if by_difference < sigma:
                sigma = by_difference
        if sigma < floor:
            sigma = floor
        z = (value - middle) / sigma
        if z > CLIP:
            value = middle + CLIP * sigma
        elif z < -CLIP:
            value = middle - CLIP * sigma
        values.push(value, size)
        if self._log:
            middle = exp(middle)
            sigma *= middle
        self.level = middle
        self.noise = sigma
        return z

    def _noise_by_difference(self, value: float, floor: float, size: int) -> float:
        """The second estimate, from the values so far; called once with every value."""
        return inf

    def values(self) -> list[float]:
        """The winsorised values that count (their logarithms), in order of arrival, the last one too."""
        return self._values.values()

    def same_as(self, other: RobustScale) -> bool:
        """Whether another scale says the same of all values to come."""
        own = (type(self), self._window, self.warm_up, self._log, self.tick, self.state_dict())
        return own == (type(other), other._window, other.warm_up, other._log, other.tick, other.state_dict())

    def state_dict(self) -> dict[str, Any]:
        """The values that count, in order of arrival; level and noise come with the next one."""
        return {"count": self._count, "values": self._values.values()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state of a scale with the same arguments."""
        self._count = state["count"]
        self._values = SortedWindow(state["values"])
        self.tick = None


class DifferencedScale(RobustScale):
    """A scale whose noise is also measured from one value to the next, where a trend adds nothing to it.

    sigma = min(IQR / 1.349, median |x_t - x_(t-1)| / 0.954): on a curve that falls steeply, the first
    is mostly the fall itself and hides a jump.
    """

    __slots__ = ("_differences", "_last")
    _differs = True

    def __init__(self, window: int, warm_up: int, log: bool) -> None:
        super().__init__(window, warm_up, log)
        self._differences = SortedWindow()
        self._last: float | None = None

    def _noise_by_difference(self, value: float, floor: float, size: int) -> float:
        # Of the values themselves: those of winsorised ones shrink the noise, which winsorises the more.
        differences, last = self._differences, self._last
        sigma = inf if len(differences) < self.warm_up - 1 else differences.median() / _DIFFERENCE
        if last is not None:
            most = 2 * CLIP * (sigma if sigma > floor else floor)
            change = abs(value - last)
            differences.push(change if change < most else most, size)
        self._last = value
        return sigma

    def state_dict(self) -> dict[str, Any]:
        """The values that count and their differences."""
        return {**super().state_dict(), "differences": self._differences.values(), "last": self._last}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state of a scale with the same arguments."""
        super().load_state_dict(state)
        self._differences = SortedWindow(state["differences"])
        self._last = state["last"]


def make_scale(
    signal: str, window: int, warm_up: int, log: bool | None, kind: type[RobustScale] = RobustScale
) -> RobustScale:
    """A scale for a signal; ``log=None`` goes by the signal's name."""
    return kind(window, warm_up, signal.partition("/")[0] in LOG_SIGNALS if log is None else log)
