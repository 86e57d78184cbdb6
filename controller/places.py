"""Places in the data: where a batch comes from, which ones are left out, how a pass went."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from . import rng

PASSES = 64
"""Passes whose randomness is remembered: more than a ring of snapshots reaches over."""


@dataclass(frozen=True, slots=True)
class Place:
    """A place in the data: ``batch`` batches of pass ``epoch`` have been served.

    ``origin`` is the random state at the pass's start, from which its order is drawn again; ``iteration``
    is the loader's own number of the pass: a loop that breaks off or skips ahead does not count it up;
    ``stream`` is the state that an iterable data set had at the pass's start.
    """

    epoch: int
    batch: int
    origin: rng.RandomState
    iteration: int
    stream: Any = None

    @property
    def key(self) -> tuple[int, int]:
        """What orders places."""
        return (self.epoch, self.batch)


@dataclass(frozen=True, slots=True)
class Window:
    """Batches ``start`` to ``stop`` (excluded), as (pass, batch), that a decision leaves out."""

    decision: str
    start: tuple[int, int]
    stop: tuple[int, int]

    def holds(self, key: tuple[int, int]) -> bool:
        """Whether the batch is left out."""
        return self.start <= key < self.stop


@dataclass(slots=True)
class Pass:
    """How a pass went: where it began, the random state at its end, the batch where a loop broke off."""

    first: Place
    end: rng.RandomState | None = None
    broken_off: int | None = None
