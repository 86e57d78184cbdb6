"""What a signal that falls or rises would be by now: a robust line through its last values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import exp
from typing import Any, ClassVar

from .calm import Bounds
from .scale import CLIP, FLOOR, IQR, LEAST, RobustScale
from .window import SortedWindow


class TrendScale(RobustScale):
    """A scale whose level goes on with the trend, so that its z is blind to a steady fall or rise.

    The window has two halves, and their medians make a line, m = m2 + (m2 - m1) / 2. The noise comes from
    what the values missed it by when they came, max(-q25, q75) / 0.674: what the line does not foretell
    counts as noise, a bend as well. A training loss falls ever more slowly, so the line lies below it: who
    looks for values that are too low is on the safe side; who looks for a rise should take ``RobustScale``.

    What is taken in is winsorised to m +- 4 sigma; the window reaches back over half of the run at most.

    Source: the line is Tukey's (resistant line, Exploratory Data Analysis, 1977) with two groups for three.
    """

    __slots__ = ("_missed_by", "_older")
    _follows_rises: ClassVar = True

    def __init__(self, window: int, warm_up: int, log: bool) -> None:
        super().__init__(window, warm_up, log)
        self._older = SortedWindow()  # and ``_values`` are the newer half
        self._missed_by = SortedWindow()

    def _score(self, values: Sequence[float]) -> list[float]:
        """Score values against the line through those before each, and take them in."""
        zs = []
        newer, older, missed = self._values, self._older, self._missed_by
        count = self._count
        for value in values:
            size = self._window
            if count < 2 * size:
                size = max(count // 2, self.warm_up)
                count += 1
            half = size // 2
            middle = newer.median()
            rise = self._rise(middle)
            level = middle + rise / 2  # the value comes half of a half later
            if count == self.warm_up + 1:
                self._look_back(middle, rise / half)
                missed = self._missed_by
            low, _, high = missed.quartiles()
            sigma = (high if high > -low else -low) * 2 / IQR
            floor = FLOOR if self.log else FLOOR * abs(level)  # in log, 1e-3 is relative already
            if sigma < floor:
                sigma = floor
            if sigma < LEAST:
                sigma = LEAST
            missed_by = value - level
            z = missed_by / sigma
            zs.append(z)
            if z > CLIP:
                missed_by = CLIP * sigma
            elif z < -CLIP:
                missed_by = -CLIP * sigma
            missed.push(missed_by, size)
            while len(newer) >= half:
                older.push(newer.pop(), half)
            newer.push(level + missed_by, half)
        self._count = count
        if self.log:
            level = exp(level)
            sigma *= level
        self.level = level
        self.noise = sigma
        return zs

    def bounds(self, pushes: int) -> Bounds | None:
        """As of any scale; the line goes on from both halves, wherever they may lie by then."""
        size = self._next_size()
        if self._count <= self.warm_up or len(self._missed_by) > size:
            return None
        if max(len(self._values), len(self._older)) > size // 2:
            return None
        lowest, highest = self._values.median_within(pushes)
        least, most = self._older.median_within(pushes)
        lowest += self._follow(lowest - most) / 2
        highest += self._follow(highest - least) / 2
        low, high = self._missed_by.quartiles_within(pushes)
        return self._at_least(lowest, highest, (high if high > -low else -low) * 2 / IQR)

    def _rise(self, middle: float) -> float:
        """From half to half of the window, where ``middle`` is the median of the newer one."""
        return self._follow(middle - self._older.median())

    def _follow(self, rise: float) -> float:
        """What of a rise is expected to go on."""
        return 0.0 if rise > 0.0 and not self._follows_rises else rise

    def _now(self) -> tuple[float, float]:
        middle = self._values.median()
        if not len(self._missed_by):  # it is meant to move just when the first score was due
            self._look_back(middle, self._rise(middle) / (self.warm_up // 2))
        low, _, high = self._missed_by.quartiles()
        return middle, max(max(-low, high) * 2 / IQR, self._floor(middle))

    def _take_in(self, value: float) -> None:
        half = self.warm_up // 2
        while len(self._values) >= half:
            self._older.push(self._values.pop(), half)
        self._values.push(value, half)

    def _transform(self, move: Callable[[float], float], stretch: float) -> None:
        super()._transform(move, stretch)
        self._older = SortedWindow(map(move, self._older.values()))
        self._missed_by = SortedWindow(each * stretch for each in self._missed_by.values())

    def _begin_anew(self) -> None:
        super()._begin_anew()
        self._older, self._missed_by = SortedWindow(), SortedWindow()

    def _look_back(self, middle: float, slope: float) -> None:
        """At the first score nothing was foretold yet: what the values lie off the line stands in for it."""
        values = [*self._older.values(), *self._values.values()]
        at = len(values) - (len(self._values) + 1) / 2
        self._missed_by = SortedWindow(v - middle - slope * (i - at) for i, v in enumerate(values))

    def state_dict(self) -> dict[str, Any]:
        """Both halves in order of arrival, and what was missed."""
        older, missed_by = self._older.values(), self._missed_by.values()
        return {**super().state_dict(), "older": older, "missed_by": missed_by}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state of a scale with the same arguments."""
        super().load_state_dict(state)
        self._older = SortedWindow(state["older"])
        self._missed_by = SortedWindow(state["missed_by"])


class FallingTrendScale(TrendScale):
    """The same where a signal falls; a rise is not expected to go on, so that its end is no sudden fall."""

    __slots__ = ()
    _follows_rises = False
