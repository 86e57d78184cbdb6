"""When snapshots are taken, and what a pass's end does to the schedule besides."""

from __future__ import annotations

from typing import Any

from .actuators.rollback import moment_of
from .loader import Feed
from .metrics import Metrics
from .orders import Orders
from .run import Run

SNAPSHOT = 2
"""Flag in the control slot: a snapshot is to be taken at the next batch."""


class Snapshots:
    """Takes snapshots where rank 0 asks for them, on all processes at the same batch.

    Args:
        run: Whose state is taken.
        metrics: Told of each; None on ranks other than 0.
        enabled: Whether any are taken, beginning with one before the first step.
        delayed: A snapshot's own sample is judged only later, and decides then whether it is good.
    """

    def __init__(self, run: Run, metrics: Metrics | None, *, enabled: bool, delayed: bool) -> None:
        self._run = run
        self._metrics = metrics
        self._enabled = self._due = enabled
        self._delayed = delayed
        self._asked = False  # a flag that is on its way must not be raised a second time

    def flags(self, orders: Orders) -> int:
        """What rank 0 puts into the control slot, for the tick that is being made."""
        if self._asked or not self._run.ring.due(self._run.clock.tick + 1) or not orders.may_act:
            return 0
        self._asked = True
        return SNAPSHOT

    def heed(self, flags: int) -> None:
        """Take the flags that came with a reduced vector."""
        self._due = self._due or bool(flags & SNAPSHOT)

    def start_over(self) -> None:
        """The next one is the first again: another loader trains, or another state was loaded."""
        self._due = self._enabled

    def take_if_due(self, feed: Feed | None, *, healthy: bool, begun: bool) -> bool:
        """Take one if it is due, at a batch of ``feed`` (None: where there is no loader of ours)."""
        run = self._run
        if not self._due or not run.ring.keep:
            return False
        self._due = self._asked = False
        moment = moment_of(run, feed, None if feed is None else feed.last)
        snapshot = run.ring.take(run.state.tensors(), run.state.small(), moment)
        snapshot.good = healthy and not (self._delayed and begun)
        if self._metrics is not None:
            self._metrics.snapshot(len(run.ring), run.ring.bytes, run.ring.stall)
        return True


class PassEnds:
    """What epoch-end code does to the schedulers, so that a rewound pass can do the same as it crosses over.

    Args:
        run: Whose schedulers they are.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._marks: tuple[Any, ...] | None = None
        self._schedule_at: dict[int, tuple[dict[str, Any], list[dict[str, Any]]]] = {}

    def entered(self, epoch: int) -> None:
        """A pass begins: if epoch-end code has stepped a scheduler, remember what became of it."""
        if self._marks not in (None, self._run.state.schedule_marks()):
            self._schedule_at[epoch] = self._run.state.schedule()

    def left(self) -> None:
        """A pass is over: note how far the schedulers have come before epoch-end code runs."""
        self._marks = self._run.state.schedule_marks()

    def crossed(self, epoch: int) -> None:
        """A rewound pass went over into ``epoch`` without epoch-end code."""
        if epoch in self._schedule_at:
            self._run.state.restore_schedule(*self._schedule_at[epoch])
