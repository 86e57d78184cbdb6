"""When a slow rise began: looked for once, when it is found."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

_LEAST = 16  # values before a rise: fewer tell no level

_GAP = 32  # usual distances between two measurements: a longer one is none of them

_LONGEST = 3
"""Times as long as a cumulative sum took to alarm, that a ramp may have lasted. One that rises by s noises a
measurement exceeds a slack k after k / s, and a threshold h after another sqrt(2 h / s): together less than 3
times the latter for s of 0.002 and more. A longer line is the drift of a signal that then jumped: without the
bound, the onset of a gradient norm lay 75 measurements too early in the median of recorded divergences.
"""


def on_ramp(values: Sequence[float], longest: int) -> int:
    """How many of the newest values lie on a ramp that rises from the level of those before it.

    Of all hinges (a level, and from some value on a straight line upwards) it is the one with the least
    squares. A cumulative sum dates a ramp too late, by the time in which it does not yet exceed the slack; a
    step it dates better than this.

    Args:
        values: winsorised, in order of arrival, ``[n]``; 0 if they are few, or none of the lines rises.
        longest: how many of them may lie on it.

    Source: D. V. Hinkley, Inference in two-phase regression, Journal of the American Statistical Association
    66 (1971).

    >>> on_ramp([0.0, 1.0, 0.0, 1.0] * 10 + [0.5, 1.5, 2.0, 3.0, 4.5, 5.0], longest=20)
    5
    """
    count = len(values)
    mean = sum(values) / count if count else 0.0
    best, found = 0.0, 0
    # Of the newest n centred values, from one that is 1 up the ramp on: sum of value times height.
    products = accumulate(accumulate(value - mean for value in reversed(values)))
    for length, product in zip(range(1, min(longest, count - _LEAST) + 1), products, strict=False):
        heights = length * (length + 1) / 2
        squares = heights * (2 * length + 1) / 3 - heights * heights / count
        if product > 0.0 and product * product > best * squares:
            best, found = product * product / squares, length
    return found


class RampStart:
    """Dates a rise back to where a ramp begins, if that is earlier than what the detector says.

    No ramp goes over a gap: a source that was left out for a while has not become worse all the while.

    Args:
        window: measurements that it looks back over at most; it keeps their ticks.
    """

    __slots__ = ("_ticks",)

    def __init__(self, window: int) -> None:
        self._ticks: deque[int] = deque(maxlen=window)

    def add(self, tick: int) -> bool:
        """Take in the tick of a measurement; whether it came after a gap."""
        ticks = self._ticks
        last = ticks[-1] if len(ticks) > 1 else tick
        if tick - last > _GAP and (tick - last) * (len(ticks) - 1) > _GAP * (last - ticks[0]):
            ticks.clear()
        ticks.append(tick)
        return len(ticks) == 1

    def add_all(self, ticks: list[int]) -> bool:
        """Take in many, unless there may be a gap; whether it was done."""
        own = self._ticks
        if not own or ticks[-1] - own[-1] > _GAP:
            return False
        own += ticks
        return True

    def forget(self) -> None:
        """What was measured so far lies too long back."""
        self._ticks.clear()

    def earlier(self, onset: int, values: Sequence[float]) -> int:
        """The onset, or the tick at which a ramp in the values begins; the last one is of the last tick."""
        ticks = list(self._ticks)
        longest = _LONGEST * (len(ticks) - bisect_left(ticks, onset))
        length = on_ramp(values[-len(ticks) :], longest)
        return min(onset, ticks[-length]) if length else onset

    def state_dict(self) -> dict[str, Any]:
        """All of its state."""
        return {"ticks": [*self._ticks]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state."""
        self._ticks = deque(state["ticks"], self._ticks.maxlen)
