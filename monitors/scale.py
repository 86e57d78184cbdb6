"""Robust level and noise of a signal: what is normal, learnt from the previous values."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from math import exp, inf, log, nan
from statistics import median
from typing import Any

from .calm import BLOCK, Bounds
from .changes import Effect, Kind
from .own_code import copy_code
from .types import ParameterError
from .window import SortedWindow

LOG_SIGNALS = frozenset({"grad_norm", "update_ratio", "param_norm", "moment_lag"})
"""Signals taken in log unless told otherwise: positive, skewed, and their noise grows with their level."""

WARM_UP = 64
"""Measurements before a detector judges: quartiles of fewer are too uncertain to call anything abnormal."""

IQR = 1.349  # interquartile range of a normal distribution, in standard deviations
DIFFERENCE = 0.954  # median |difference| of two normal values, in standard deviations
CLIP = 4.0
FLOOR = 1e-3
_SETTLES = 16
"""Values after which a signal that was meant to move has a level again: its median is then known to half a
noise."""

_BLOCKS = 8  # blocks in a window: after one the quartiles are still where they were, roughly
_FEW = 4  # values whose spread says nothing
LEAST = 1e-30  # stands for zero and below in log; keeps the noise of a signal that is always 0 above 0


class RobustScale:
    """How many noises a value lies above the level of the values before it.

    Level and noise are the median m and sigma = max(IQR / 1.349, 1e-3 |m|) over the last ``window`` values.
    The floor keeps a signal that hardly moves from calling every rounding a change. What is taken in is
    winsorised to m +- 4 sigma, so an outlier counts as extreme once and never drags the level away.

    The window never reaches back over more than half of the run. A loss falls like a power of time, by as
    much in each doubling: seen over all of a young run it is mostly its own fall, which hides
    a rise (with half, a step of 4 noises at step 300 is found within 7 steps; with all, not at all).

    What is known outlives a change that was meant (``expect``). Where the signal takes another course the run
    is young again. Where it moves to a level that nobody knows, values are at first compared with each other,
    in the noise of before or their own if that is larger: what breaks is seen all the same. After 16 of them
    the window is moved to where they are.

    Args:
        window: how many previous values count at most.
        warm_up: values before the first score; all of them are taken in as they are.
        log: score the logarithm; ``level`` and ``noise`` stay in the signal's own units.

    Raises:
        ParameterError: the window is shorter than the warm-up, or that is too short.
    """

    __slots__ = (
        *("_count", "_differs", "_expected", "_room", "_settling", "_values", "_window"),
        *("level", "log", "noise", "tick", "told", "warm_up", "z", "zs"),
    )

    def __init_subclass__(cls) -> None:
        copy_code(cls, "take", "_score")

    def __init__(self, window: int, warm_up: int, log: bool) -> None:
        if warm_up < 8:
            raise ParameterError("warm_up", f"warm_up must be at least 8 measurements, got {warm_up}")
        if window < warm_up:
            raise ParameterError("window", f"window must be at least warm_up = {warm_up}, got {window}")
        self._differs = False  # whether there is a second estimate of the noise
        self._values = SortedWindow()
        self._count = 0  # of all values so far, up to where more make no difference
        self._window = window
        self._settling: list[float] | None = None  # values since a move, until they are enough
        self._room = inf  # how far they may have moved, as a share of the level
        self._expected: int | None = None  # tick of the last change that was meant
        self.warm_up = warm_up
        self.log = log
        self.level = nan
        self.noise = nan
        self.tick: int | None = None  # of the last value, and its z: told by those who share the scale
        self.z: float | None = None
        self.told: tuple[int | None, Bounds | None] | None = None  # bounds, and at which tick
        self.zs: Sequence[float] = ()  # the same of the last block

    def take(self, value: float) -> float | None:
        """Score a finite value against those before it, then take it in; None while warming up."""
        if self.log:
            value = log(max(value, LEAST))
        if self._settling is not None:
            return self._settle(value, self._settling)
        if self._count >= self.warm_up:
            return self._score((value,))[0]
        self._count += 1
        self._take_in(value)
        return None

    def take_all(self, values: Sequence[float]) -> Sequence[float]:
        """``take`` one after the other, once it is warm: their z."""
        if self._settling is not None:
            return [self.take(value) for value in values]  # type: ignore[misc]
        return self._score([log(max(value, LEAST)) for value in values] if self.log else values)

    def _score(self, values: Sequence[float]) -> list[float]:
        """Score values against those before each, and take them in."""
        zs = []
        ordered, arrived, differs, logs = self._values.ordered, self._values.arrived, self._differs, self.log
        count, window, last = self._count, self._window, len(ordered) - 1
        at, part, half = last // 4, last % 4, last // 2
        for value in values:
            # ``SortedWindow.quartiles`` and ``push`` written out, and comparisons for min() and max(): this
            # runs for every monitor at every tick, and those are calls.
            low, middle, high = ordered[at], ordered[half], ordered[last - at]
            if part:
                low += (ordered[at + 1] - low) * part / 4
                high += (ordered[last - at - 1] - high) * part / 4
                if part != 2:
                    middle = (middle + ordered[half + 1]) / 2
            floor = FLOOR if logs else FLOOR * middle if middle > 0.0 else -FLOOR * middle
            if floor < LEAST:
                floor = LEAST
            sigma = (high - low) / IQR
            size = window
            if count < 2 * window:
                size = max(count // 2, self.warm_up)
                count += 1
            if differs:
                by_difference = self._noise_by_difference(value, floor, size)
                if by_difference < sigma:
                    sigma = by_difference
            if sigma < floor:
                sigma = floor
            z = (value - middle) / sigma
            zs.append(z)
            if z > CLIP:
                value = middle + CLIP * sigma
            elif z < -CLIP:
                value = middle - CLIP * sigma
            before = last
            while last >= size - 1:
                del ordered[bisect_left(ordered, arrived.popleft())]
                last -= 1
            arrived.append(value)
            insort(ordered, value)
            last += 1
            if last != before:
                at, part, half = last // 4, last % 4, last // 2
        self._count = count
        if self.log:
            middle = exp(middle)
            sigma *= middle
        self.level = middle
        self.noise = sigma
        return zs

    @property
    def block(self) -> int:
        """Values that ``bounds`` can say something of without becoming too wide to be of use."""
        count = len(self._values) // _BLOCKS
        return count if count < BLOCK else BLOCK

    def bounds(self, pushes: int) -> Bounds | None:
        """Level and noise, in log if ``log``, at each of so many next values, whatever they are.

        None where they may be anything, or where more than one value may leave the window at a time.
        """
        values, size = self._values, self._next_size()
        if len(values) > size:
            return None
        lowest, highest = values.median_within(pushes)
        low, high = values.quartiles_within(pushes)
        return self._at_least(lowest, highest, (high - low) / IQR)

    def _next_size(self) -> int:
        """How many values the window has after the next one; -1 while it is not as ever."""
        if self._settling is not None or self._count < self.warm_up:
            return -1
        return self._window if self._count >= 2 * self._window else max(self._count // 2, self.warm_up)

    def _at_least(self, lowest: float, highest: float, noise: float) -> Bounds | None:
        """Bounds, with the floor that any level between these two puts below the noise."""
        if lowest == -inf:
            return None
        nearest = lowest if lowest > 0 else -highest if highest < 0 else 0.0
        floor = FLOOR if self.log else FLOOR * nearest
        return Bounds(lowest, highest, max(noise, floor, LEAST))

    def _noise_by_difference(self, value: float, floor: float, size: int) -> float:
        """The second estimate, from the values so far; called once with every value."""
        return inf

    def expect(self, effect: Effect) -> None:
        """Its signal is meant to change with the next value; told by each of those that share the scale."""
        if effect.tick == self._expected:
            return
        self._expected = effect.tick
        self.told = None
        if effect.kind is Kind.SCALES:
            self._scaled(effect.factor)
        elif self._count < self.warm_up:
            if effect.kind is Kind.MOVES:
                self._begin_anew()
        elif effect.kind is Kind.MOVES:
            self._room = effect.room if self._settling is None else self._room + effect.room
            self._settling = []
        else:
            self._count = min(self._count, 2 * self.warm_up)

    def _scaled(self, factor: float) -> None:
        """Have all values so far been so many times as large."""
        if self.log:
            shift = log(factor)
            self._transform(lambda value: value + shift, 1.0)
        else:
            self._transform(lambda value: value * factor, factor)

    def _settle(self, value: float, new: list[float]) -> float:
        """Score a value after a move against those that came since; once they are enough, begin with them."""
        middle, sigma = self._now()
        center = self._moved(middle, new or [value])
        # From one to the next, so that what breaks in the midst of them is not taken for their noise.
        apart = [abs(a - b) for a, b in pairwise(new)]
        spread = median(apart) / DIFFERENCE if len(apart) >= _FEW else 0.0
        stretch = max(1.0, spread / sigma)
        sigma *= stretch
        z = (value - center) / sigma
        new.append(center + sigma * max(-CLIP, min(z, CLIP)))
        if len(new) == _SETTLES:
            center = self._moved(middle, new)
            self._transform(lambda old: center + (old - middle) * stretch, stretch)
            self._settling = None
            self._count = 2 * self.warm_up
            for each in new:
                self._take_in(each)
        if self.log:
            center = exp(center)
            sigma *= center
        self.level, self.noise = center, sigma
        return z

    def _moved(self, before: float, new: Sequence[float]) -> float:
        """The level of values since a move, no further from that before than it could bring them."""
        level = median(new)
        if self._room == inf:
            return level
        room = self._room * abs(before)
        return max(before - room, min(level, before + room))

    def _now(self) -> tuple[float, float]:
        """Level and noise by the values so far, as they are scored."""
        low, middle, high = self._values.quartiles()
        return middle, max((high - low) / IQR, self._floor(middle))

    def _floor(self, level: float) -> float:
        """The least noise at a level; ``take`` has it written out."""
        return max(FLOOR if self.log else FLOOR * abs(level), LEAST)

    def _take_in(self, value: float) -> None:
        """Add a value that needs no score."""
        self._values.push(value, self.warm_up)

    def _transform(self, move: Callable[[float], float], stretch: float) -> None:
        """Have all values so far been others; distances are multiplied by ``stretch``."""
        self._values = SortedWindow(map(move, self._values.values()))

    def _begin_anew(self) -> None:
        self._count = 0
        self._values = SortedWindow()

    def values(self) -> list[float]:
        """The winsorised values that count (their logarithms), in order of arrival, the last one too."""
        return self._values.values()

    def same_as(self, other: RobustScale) -> bool:
        """Whether another scale says the same of all values to come."""
        own = (type(self), self._window, self.warm_up, self.log, self.tick, self.state_dict())
        return own == (type(other), other._window, other.warm_up, other.log, other.tick, other.state_dict())

    def state_dict(self) -> dict[str, Any]:
        """The values that count, in order of arrival; level and noise come with the next one."""
        settling = None if self._settling is None else list(self._settling)
        state = {"count": self._count, "values": self._values.values()}
        room = None if self._room == inf else self._room
        return {**state, "settling": settling, "room": room, "expected": self._expected}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state of a scale with the same arguments."""
        self._count = state["count"]
        self._values = SortedWindow(state["values"])
        self._settling = None if state["settling"] is None else list(state["settling"])
        self._room = inf if state["room"] is None else state["room"]
        self._expected = state["expected"]
        self.tick = self.told = None


def make_scale(
    signal: str, window: int, warm_up: int, log: bool | None, kind: type[RobustScale] = RobustScale
) -> RobustScale:
    """A scale for a signal; ``log=None`` goes by the signal's name."""
    return kind(window, warm_up, signal.partition("/")[0] in LOG_SIGNALS if log is None else log)
