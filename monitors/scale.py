"""Robust level and noise of a signal: what is normal, learnt from the previous values."""

from __future__ import annotations

from collections.abc import Mapping
from math import exp, log, nan
from typing import Any

from .types import ParameterError
from .window import SortedWindow

LOG_SIGNALS = frozenset({"grad_norm", "update_ratio", "param_norm"})
"""Signals taken in log unless told otherwise: positive, skewed, and their noise grows with their level."""

WARM_UP = 64
"""Measurements before a detector judges: quartiles of fewer are too uncertain to call anything abnormal."""

_IQR = 1.349  # interquartile range of a normal distribution, in standard deviations
_DIFFERENCE = 0.954  # median |difference| of two normal values, in standard deviations
_CLIP = 4.0
_FLOOR = 1e-3
_LEAST = 1e-30  # log of zero and below; also keeps the noise of a signal that is always 0 above 0


class RobustScale:
    """How many noises a value lies above the level of the values before it.

    Level and noise are the median m and sigma = max(IQR / 1.349, 1e-3 |m|) over the last ``window`` values.
    The floor keeps a signal that hardly moves from calling every rounding a change. What is taken in is
    winsorised to m +- 4 sigma, so an outlier counts as extreme once and never drags the level away.

    Args:
        window: how many previous values count.
        warm_up: values before the first score; all of them are taken in as they are.
        log: score the logarithm; ``level`` and ``noise`` stay in the signal's own units.
    """

    __slots__ = ("_log", "_values", "_warm_up", "level", "noise")

    def __init__(self, window: int, warm_up: int, log: bool) -> None:
        if warm_up < 8:
            raise ParameterError("warm_up", f"warm_up must be at least 8 measurements, got {warm_up}")
        if window < warm_up:
            raise ParameterError("window", f"window must be at least warm_up = {warm_up}, got {window}")
        self._values = SortedWindow(window)
        self._warm_up = warm_up
        self._log = log
        self.level = nan
        self.noise = nan

    def take(self, value: float) -> float | None:
        """Score a finite value against those before it, then take it in; None while warming up."""
        if self._log:
            value = log(max(value, _LEAST))
        values = self._values
        if len(values) < self._warm_up:
            self._push(value)
            return None
        low, middle, high = values.quartiles()
        floor = _FLOOR if self._log else max(_FLOOR * abs(middle), _LEAST)  # in log, 1e-3 is relative already
        sigma = max(self._spread((high - low) / _IQR), floor)
        z = (value - middle) / sigma
        if z > _CLIP:
            value = middle + _CLIP * sigma
        elif z < -_CLIP:
            value = middle - _CLIP * sigma
        self._push(value)
        if self._log:
            self.level = exp(middle)
            self.noise = self.level * sigma
        else:
            self.level = middle
            self.noise = sigma
        return z

    def _push(self, value: float) -> None:
        self._values.push(value)

    def _spread(self, sigma: float) -> float:
        return sigma

    def state_dict(self) -> dict[str, Any]:
        """The values that count, in order of arrival; level and noise come with the next one."""
        return {"values": self._values.values()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state; of more values than fit, the newest."""
        self._values.replace(state["values"])


class DifferencedScale(RobustScale):
    """A scale whose noise is also measured from one value to the next, where a trend adds nothing to it.

    sigma = min(IQR / 1.349, median |x_t - x_(t-1)| / 0.954): on a curve that falls steeply, the first
    is mostly the fall itself and hides a jump.
    """

    __slots__ = ("_differences", "_last")

    def __init__(self, window: int, warm_up: int, log: bool) -> None:
        super().__init__(window, warm_up, log)
        self._differences = SortedWindow(window)
        self._last: float | None = None

    def _push(self, value: float) -> None:
        super()._push(value)
        if self._last is not None:
            self._differences.push(abs(value - self._last))
        self._last = value

    def _spread(self, sigma: float) -> float:
        return min(sigma, self._differences.median() / _DIFFERENCE)

    def state_dict(self) -> dict[str, Any]:
        """The values and their differences."""
        return {**super().state_dict(), "differences": self._differences.values(), "last": self._last}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state; of more values than fit, the newest."""
        super().load_state_dict(state)
        self._differences.replace(state["differences"])
        self._last = state["last"]


def make_scale(
    signal: str, window: int, warm_up: int, log: bool | None, kind: type[RobustScale] = RobustScale
) -> RobustScale:
    """A scale for a signal; ``log=None`` goes by the signal's name."""
    return kind(window, warm_up, signal.partition("/")[0] in LOG_SIGNALS if log is None else log)
