"""The run's counters, and the trail that links ticks to places in the data."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from dataclasses import dataclass
from operator import itemgetter

Key = tuple[int, int]
"""Of a place in the data: pass and batch."""


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
        self._ends: deque[tuple[int, Key]] = deque(maxlen=length)
        self.append = self._ends.append
        """Takes ``(tick, key)``: that tick ended where the next batch is ``key``."""

    def before(self, tick: int) -> Key | None:
        """The first batch that tick ``tick`` consumed; None if that is no longer known."""
        i = bisect_right(self._ends, tick - 1, key=itemgetter(0))
        return self._ends[i - 1][1] if i else None

    def state_dict(self) -> list[tuple[int, Key]]:
        """Ticks and keys."""
        return list(self._ends)

    def load_state_dict(self, state: list[tuple[int, Key]]) -> None:
        """Take over what another trail remembers."""
        self.clear()
        self._ends.extend(state)

    def back_to(self, tick: int) -> None:
        """The data was rewound to where tick ``tick`` ended: later ticks' batches lie on another branch."""
        while self._ends and self._ends[-1][0] > tick:
            self._ends.pop()

    def clear(self) -> None:
        """Forget all: another state was loaded, on another course."""
        self._ends.clear()
