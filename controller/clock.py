"""The run's counters, and the trail that links ticks to places in the data."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from dataclasses import dataclass


@dataclass(slots=True)
class Clock:
    """``tick`` counts updates for good, ``step`` rewinds with the data, ``branch`` counts rollbacks."""

    tick: int = 0
    step: int = 0
    branch: int = 0


class Trail:
    """Where in the data each recent tick ended, to tell which batches an interval of ticks consumed.

    Args:
        length: Ticks remembered: the reach of the ring and as much again for late detection.
    """

    def __init__(self, length: int) -> None:
        self._ticks: deque[int] = deque(maxlen=length)
        self._keys: deque[tuple[int, int]] = deque(maxlen=length)

    def append(self, tick: int, key: tuple[int, int]) -> None:
        """Tick ``tick`` ended where the next batch is ``key`` = (pass, batch)."""
        self._ticks.append(tick)
        self._keys.append(key)

    def before(self, tick: int) -> tuple[int, int] | None:
        """The first batch that tick ``tick`` consumed; None if that is no longer known."""
        i = bisect_right(self._ticks, tick - 1)
        return self._keys[i - 1] if i else None

    def state_dict(self) -> list[tuple[int, tuple[int, int]]]:
        """Ticks and keys."""
        return list(zip(self._ticks, self._keys, strict=True))

    def load_state_dict(self, state: list[tuple[int, tuple[int, int]]]) -> None:
        """Take over what another trail remembers."""
        self.clear()
        for tick, key in state:
            self.append(tick, key)

    def back_to(self, tick: int) -> None:
        """The data was rewound to where tick ``tick`` ended: later ticks' batches lie on another branch."""
        while self._ticks and self._ticks[-1] > tick:
            self._ticks.pop()
            self._keys.pop()

    def clear(self) -> None:
        """Forget all: another state was loaded, on another course."""
        self._ticks.clear()
        self._keys.clear()
