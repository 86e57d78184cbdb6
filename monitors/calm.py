"""When a measurement need not be judged at once: bounds within which no health can change.

A healthy run's measurements say little, one by one: what matters is that none of them is anything to act on.
So a monitor says ahead what it would take to change its health, and as long as that does not come, the bank
only keeps what is measured; later the monitor takes all of it at once (``settle``), which leaves exactly the
state and the reading that one by one would have left. The bounds are proofs: where one is too narrow, time is
lost and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, inf
from typing import NamedTuple, Protocol, runtime_checkable

from .types import Reading

BLOCK = 16
"""Measurements that are kept at most: with more the bounds become wide, and what is shown becomes old."""

LOOK_EVERY = 64
"""Ticks after which every monitor is asked, whatever was measured: some may be STALE."""

FEWEST = 4
"""Measurements that are worth keeping: for fewer a block costs as much as it saves."""

LEAST_ROOM = 1e-3
"""Noises that a sum must be below its threshold: far more than what rounding can add up to."""

_MARGIN = 1 - 1e-6  # for rounding, which is 1e-11 noises at most: no noise is below 1e-3 of the level
_FAR = 9e99  # within what counts as finite
_FAR_LOG = 230.0  # the same, in log


@dataclass(slots=True)
class Calm:
    """What may be measured without any health changing.

    Each of the next ``count`` values must lie in ``[low, high]``; what they are above ``above`` may add up to
    ``rise``, and what they are below ``below`` to ``fall``.
    """

    count: int = BLOCK
    low: float = -_FAR
    high: float = _FAR
    above: float = inf
    rise: float = inf
    below: float = -inf
    fall: float = inf

    def meet(self, other: Calm) -> None:
        """Have what another monitor of the signal says hold too."""
        # Comparisons, not min() and max(): there are dozens of monitors, and those are calls.
        if other.count < self.count:
            self.count = other.count
        if other.low > self.low:
            self.low = other.low
        if other.high < self.high:
            self.high = other.high
        if other.above < self.above:
            self.above = other.above
        if other.rise < self.rise:
            self.rise = other.rise
        if other.below > self.below:
            self.below = other.below
        if other.fall < self.fall:
            self.fall = other.fall


class Bounds(NamedTuple):
    """Where the level lies at each of the next measurements, whatever they are, and the least noise then."""

    lowest: float
    highest: float
    noise: float


@dataclass(slots=True)
class Leeway:
    """What a monitor of robust z can bear, in noises.

    No z may leave ``[low, high]``; what they are above ``slack`` may add up to ``rise``, and what they are
    below ``-slack`` to ``fall``.
    """

    low: float = -inf
    high: float = inf
    slack: float = 0.0
    rise: float = inf
    fall: float = inf

    def within(self, bounds: Bounds, count: int, log: bool) -> Calm | None:
        """The same in the signal's own units, by bounds that hold for so many measurements.

        In log, x - r is at most r (x / r - 1), and r - x at most r - x over the lowest x that is let pass.
        """
        lowest, highest, noise = bounds
        sure = noise * _MARGIN
        calm = Calm(count)
        far = _FAR_LOG if log else _FAR
        low, high = highest + self.low * sure, lowest + self.high * sure
        above, below = lowest + self.slack * noise, highest - self.slack * noise
        if log and self.fall < inf:  # one value may use up a quarter of it
            low = max(low, below - self.fall * noise / 4)
        low, high = max(low, -far), min(high, far)
        if log:
            low, high = exp(low), exp(high)
        calm.low, calm.high = low, high
        if self.rise < inf:
            if self.rise < LEAST_ROOM:
                return None
            calm.above = exp(min(above, far)) if log else above
            calm.rise = self.rise * sure * (calm.above if log else 1.0)
        if self.fall < inf:
            if self.fall < LEAST_ROOM:
                return None
            calm.below = exp(min(below, far)) if log else below
            calm.fall = self.fall * sure * (low if log else 1.0)
        return calm


ANYTHING = Leeway()
"""Nothing is too much."""


@runtime_checkable
class Calming(Protocol):
    """A monitor whose measurements need not be judged at once."""

    def calm(self) -> Calm | None:
        """What may be measured next without its health changing, nor ``on_edge``; None: nothing.

        What is announced without an effect on its signal (``Change.effect_on``) changes nothing either.
        """
        ...

    def settle(self, ticks: list[int], values: list[float]) -> Reading:
        """Take what was measured at these ticks, all of it within what ``calm`` said; returns the reading.

        ``update`` with one after the other leaves the very same state and reading.
        """
        ...
