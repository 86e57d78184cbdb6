"""When snapshots are taken, and what a pass's end does to the schedule besides."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping
from typing import Any

from .actuators.rollback import moment_of
from .feed import Feed
from .metrics import Metrics
from .orders import Orders
from .places import PASSES
from .run import Run

log = logging.getLogger("midcourse")

SNAPSHOT = 2
"""Flag in the control slot: a snapshot is to be taken at the next batch."""


class Snapshots:
    """Takes snapshots where rank 0 asks for them, on all processes at the same batch.

    Args:
        run: Whose state is taken.
        metrics: Told of each; None on ranks other than 0.
        enabled: Whether any are taken, beginning with one before the first step.
        delayed: A snapshot's own sample is judged only later, and decides then whether it is good.
        notices: What is to be said at start.
    """

    def __init__(
        self, run: Run, metrics: Metrics | None, *, enabled: bool, delayed: bool, notices: list[str]
    ) -> None:
        self._run = run
        self._metrics = metrics
        self._enabled = self.due = enabled  # due: at the next batch
        self._delayed = delayed
        self._notices = notices
        self._failed = False
        self._asked = False  # a flag that is on its way must not be raised a second time

    def state_dict(self) -> dict[str, Any]:
        """Which snapshot comes next."""
        return {"due": self.due, "asked": self._asked, "last_tick": self._run.ring.last_tick}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with another's cadence."""
        self.due, self._asked = state["due"], state["asked"]
        self._run.ring.last_tick = state["last_tick"]

    def flags(self, orders: Orders) -> int:
        """What rank 0 puts into the control slot, for the tick that is being made."""
        run = self._run
        run.ring.adapt(run.step_seconds)
        if self._asked or not run.ring.due(run.clock.tick + 1) or not orders.may_act:
            return 0
        self._asked = True
        return SNAPSHOT

    def heed(self, flags: int) -> None:
        """Take the flags that came with a reduced vector."""
        self.due = self.due or bool(flags & SNAPSHOT)

    def reserve(self, *, told: bool) -> None:
        """After the first update the optimizer has its moments: make the buffers that a full ring needs.

        ``told``: the notices of the start have been given already, because its first steps were skipped.
        """
        if not self._enabled:
            return
        run = self._run
        notice = fit_alike(run, lambda sharers: run.ring.reserve(run.state.tensors(), sharers))
        if notice and told:
            log.warning(notice)
        elif notice:
            self._notices.append(notice)

    def start_over(self) -> None:
        """The next one is the first again: another loader trains, or another state was loaded."""
        self.due = self._enabled

    def take_if_due(self, feed: Feed | None, *, healthy: bool, begun: bool) -> bool:
        """Take one if it is due, at a batch of ``feed`` (None: where there is no loader of ours).

        Where that fails the run goes on with those it has; what one process lacks, none goes back to.
        """
        if not self.due or not self._run.ring.keep:
            return False
        self.due = self._asked = False
        try:
            return self._take(feed, healthy, begun)
        except Exception:
            if not self._failed:
                log.exception("a snapshot could not be taken; later failures are only counted")
            self._failed = True
            if self._metrics is not None:
                self._metrics.error("controller")
            return False

    def _take(self, feed: Feed | None, healthy: bool, begun: bool) -> bool:
        run = self._run
        moment = moment_of(run, feed, None if feed is None else feed.last)
        snapshot = run.ring.take(run.state.tensors(), run.state.small(), moment, run.state.changing)
        if snapshot is None:
            return False
        snapshot.good = healthy and not (self._delayed and begun)
        if self._metrics is not None:
            self._metrics.snapshot(len(run.ring), run.ring.bytes, run.ring.making + run.ring.stall)
        return True


def fit_alike(run: Run, fit: Callable[[int], str | None]) -> str | None:
    """Fit the ring into memory, alike on all processes: they must have the same snapshots to go back to.

    ``fit`` is told how many processes share this machine's memory; it says where it kept fewer, and so do we.
    """
    notice = fit(run.ranks.on_this_host())
    fits = run.ranks.gather(run.ring.keep)
    if min(fits) < run.ring.keep:
        run.ring.keep = min(fits)
        poorest = fits.index(run.ring.keep)
        notice = f"process {poorest} has memory for {run.ring.keep} snapshots only: all keep as many"
    return notice


class PassEnds:
    """What epoch-end code does to the schedulers, so that a rewound pass can do the same as it crosses over.

    Args:
        run: Whose schedulers they are.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._marks: tuple[Any, ...] | None = None
        self._schedule_at: dict[int, tuple[dict[str, Any], list[dict[str, Any]]]] = {}

    def state_dict(self) -> dict[str, Any]:
        """What epoch-end code has done so far."""
        return {"marks": self._marks, "schedule_at": copy.copy(self._schedule_at)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take that over."""
        self._marks, self._schedule_at = state["marks"], dict(state["schedule_at"])

    def entered(self, epoch: int) -> None:
        """A pass begins: if epoch-end code has stepped a scheduler, remember what became of it."""
        self._schedule_at.pop(epoch - PASSES, None)
        if self._marks not in (None, self._run.state.schedule_marks()):
            self._schedule_at[epoch] = self._run.state.schedule()

    def left(self) -> None:
        """A pass is over: note how far the schedulers have come before epoch-end code runs."""
        self._marks = self._run.state.schedule_marks()

    def crossed(self, epoch: int) -> None:
        """A rewound pass went over into ``epoch`` without epoch-end code."""
        if epoch in self._schedule_at:
            self._run.state.restore_schedule(*self._schedule_at[epoch])
