"""When the state is kept: in memory, on disk, and on disk once more before the process has to end."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from .durable.checkpoints import automatic_name
from .durable.taking import take
from .feed import Feed
from .metrics import Metrics
from .orders import Orders
from .places import Place
from .run import Run
from .snapshots import Snapshots
from .termination import Termination

LEAVE, LEAVE_ELSEWHERE = 8, 32
"""Flags in the control slot: rank 0, or any other process (their sum may be more), was asked to end."""


class Keeping:
    """Keeps the state where it is due, on all processes at the same batch.

    Args:
        run: Whose state it is.
        snapshots: Those in memory.
        orders: Know whether all is well.
        termination: Whether this process is asked to end.
        leave: Ends it, once the state is on disk.
        arrive: Has all samples judged that are still on their way from the device.
        metrics: Told of the time that it takes; None on ranks other than 0.
        clock: Seconds.
    """

    def __init__(
        self,
        run: Run,
        snapshots: Snapshots,
        orders: Orders,
        termination: Termination,
        *,
        leave: Callable[[], object],
        arrive: Callable[[], object],
        metrics: Metrics | None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._run = run
        self._snapshots = snapshots
        self._orders = orders
        self._termination = termination
        self._leave = leave
        self._arrive = arrive
        self._metrics = metrics
        self._clock = clock
        self._leaving = False
        self.left = False
        """Whether the process ends with all on disk: what was decided and not done yet waits there."""

    @property
    def flags(self) -> int:
        """What this process puts into the control slot."""
        run = self._run
        flags = self._snapshots.flags(self._orders)
        if self._termination.asked:
            flags |= LEAVE if run.ranks.main else LEAVE_ELSEWHERE
        return flags

    @property
    def leaving(self) -> bool:
        """Whether the run is to be saved, and the process to end."""
        return self._leaving

    def heed(self, flags: int) -> None:
        """Take the flags that came with a reduced vector, summed over the processes."""
        self._leaving = self._leaving or bool(flags & LEAVE) or flags >= LEAVE_ELSEWHERE
        self._snapshots.heed(flags)

    def start_over(self) -> None:
        """The next snapshot is the first again."""
        self._snapshots.start_over()

    def reserve(self, *, told: bool) -> None:
        """After the first update, once: make the buffers that a full ring needs."""
        self._snapshots.reserve(told=told)

    def if_due(self, feed: Feed | None, *, begun: bool) -> None:
        """Take a snapshot, and put the state on disk, where either is due, at the batch pulled last."""
        checkpoints = self._run.checkpoints
        on_disk = checkpoints.plan.every is not None or checkpoints.pending is not None
        if not (self._snapshots.due or on_disk or self._leaving) or self._orders.trying:
            return  # most ticks
        began = self._clock()
        if self._snapshots.take_if_due(feed, healthy=self._orders.healthy, begun=begun):
            self._account("snapshots", began)
        self.save_if_due(feed, None if feed is None else feed.last)

    def save_if_due(self, feed: Feed | None, place: Place | None) -> None:
        """Begin a durable checkpoint if one is due; a process that was asked to end does so after it."""
        checkpoints, tick = self._run.checkpoints, self._run.clock.tick
        checkpoints.poll()
        if not tick or self._orders.trying or not (self._leaving or checkpoints.due(tick)):
            return
        began = self._clock()
        self._arrive()
        take(self._run, automatic_name(tick), feed, place, good=self._orders.healthy)
        self._account("checkpoints", began)
        if self._leaving:
            checkpoints.settle()
            self.left = True
            self._leave()

    def state_dict(self) -> dict[str, Any]:
        """Which snapshot comes next."""
        return self._snapshots.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with another's cadence."""
        self._snapshots.load_state_dict(state)

    def _account(self, part: str, began: float) -> None:
        if self._metrics is not None:
            self._metrics.overhead(part, self._clock() - began)
