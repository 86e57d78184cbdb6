"""A scale that is not taken in by a steep fall: its noise is also measured from one value to the next."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import inf
from typing import Any

from .calm import Bounds
from .scale import CLIP, DIFFERENCE, RobustScale
from .window import SortedWindow


class DifferencedScale(RobustScale):
    """A scale whose noise is also measured from one value to the next, where a trend adds nothing to it.

    sigma = min(IQR / 1.349, median |x_t - x_(t-1)| / 0.954): on a curve that falls steeply, the first
    is mostly the fall itself and hides a jump.
    """

    __slots__ = ("_differences", "_last")

    def __init__(self, window: int, warm_up: int, log: bool) -> None:
        super().__init__(window, warm_up, log)
        self._differs = True
        self._differences = SortedWindow()
        self._last: float | None = None

    def _noise_by_difference(self, value: float, floor: float, size: int) -> float:
        # Of the values themselves: those of winsorised ones shrink the noise, which winsorises the more.
        differences, last = self._differences, self._last
        sigma = inf if len(differences) < self.warm_up - 1 else differences.median() / DIFFERENCE
        if last is not None:
            most = 2 * CLIP * (sigma if sigma > floor else floor)
            change = abs(value - last)
            differences.push(change if change < most else most, size)
        self._last = value
        return sigma

    def bounds(self, pushes: int) -> Bounds | None:
        bounds = super().bounds(pushes)
        if bounds is None or len(self._differences) > self._next_size():
            return None
        lowest, highest, noise = bounds
        by_difference = self._differences.median_within(pushes)[0] / DIFFERENCE
        return bounds if noise <= by_difference else self._at_least(lowest, highest, by_difference)

    def _now(self) -> tuple[float, float]:
        middle, sigma = super()._now()
        if len(self._differences) >= self.warm_up - 1:
            sigma = max(min(sigma, self._differences.median() / DIFFERENCE), self._floor(middle))
        return middle, sigma

    def _take_in(self, value: float) -> None:
        super()._take_in(value)
        if self._last is not None:
            self._differences.push(abs(value - self._last), self.warm_up)
        self._last = value

    def _transform(self, move: Callable[[float], float], stretch: float) -> None:
        super()._transform(move, stretch)
        self._differences = SortedWindow(each * stretch for each in self._differences.values())
        self._last = None

    def _begin_anew(self) -> None:
        super()._begin_anew()
        self._differences = SortedWindow()
        self._last = None

    def state_dict(self) -> dict[str, Any]:
        """The values that count and their differences."""
        return {**super().state_dict(), "differences": self._differences.values(), "last": self._last}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state of a scale with the same arguments."""
        super().load_state_dict(state)
        self._differences = SortedWindow(state["differences"])
        self._last = state["last"]
