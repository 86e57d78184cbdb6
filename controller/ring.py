"""The ring of snapshots: whole training states in memory, thinned so that a few reach far back."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import psutil
import torch

from .loader import Place
from .rng import RandomState
from .training_state import SmallState

MEMORY_SHARE = 0.8
"""Share of the free memory that the ring may take; beyond it the run would risk the out-of-memory killer."""


@dataclass(slots=True)
class Moment:
    """Where the run stood when a snapshot was taken."""

    tick: int
    step: int
    branch: int
    place: Place | None
    random_state: RandomState
    detectors: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


@dataclass(slots=True)
class Snapshot:
    """One training state; ``good`` once the sample of its tick was judged and no rule was about to act."""

    moment: Moment
    tensors: list[torch.Tensor]
    small: SmallState
    good: bool = False
    pinned_by: str | None = None

    @property
    def tick(self) -> int:
        """Optimizer steps made when it was taken."""
        return self.moment.tick


class Ring:
    """Up to ``keep`` snapshots whose ages grow geometrically up to about ``reach`` ticks.

    Args:
        keep: Number of snapshots.
        reach: Age in ticks that the oldest one is to have.
        every: Ticks between snapshots; None chooses ``reach / 2 ** (keep - 1)``, or more where the measured
            stall would take more than ``max_overhead`` of the run.
        max_overhead: Share of the run that taking snapshots may stall.
        available: Free host memory in bytes; injected for tests.
        clock: Seconds; injected for tests.
    """

    def __init__(
        self,
        keep: int,
        reach: int,
        every: int | None = None,
        max_overhead: float = 0.01,
        available: Callable[[], int] = lambda: int(psutil.virtual_memory().available),
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.keep = keep
        self.reach = reach
        self.stall = 0.0
        self._base = every or max(1, round(reach / 2 ** (keep - 1)))
        self._fixed = every is not None
        self._max_overhead = max_overhead
        self._available = available
        self._clock = clock
        self._snapshots: list[Snapshot] = []
        self._spare: list[list[torch.Tensor]] = []
        self._cadence = self._base
        self._last = -1

    def __len__(self) -> int:
        return len(self._snapshots)

    @property
    def snapshots(self) -> Sequence[Snapshot]:
        """Oldest first."""
        return self._snapshots

    @property
    def bytes(self) -> int:
        """Memory that the snapshots hold, spare buffers included."""
        kept = [s.tensors for s in self._snapshots] + self._spare
        return sum(t.numel() * t.element_size() for tensors in kept for t in tensors)

    @property
    def cadence(self) -> int:
        """Ticks between snapshots at present."""
        return self._cadence

    def due(self, tick: int) -> bool:
        """Whether a snapshot is to be taken at this tick."""
        return self.keep > 0 and (self._last < 0 or tick - self._last >= self._cadence)

    def fit(self, tensors: Iterable[torch.Tensor], moments: int = 2, sharers: int = 1) -> str | None:
        """Lower ``keep`` to what free memory holds; says so, or None where all is well.

        ``moments`` is how many further tensors of a parameter's size the optimizer will make, ``sharers``
        how many processes of this run keep snapshots in the same memory.
        """
        size = sum(t.numel() * t.element_size() for t in tensors) * (1 + moments)
        fits = int(MEMORY_SHARE * self._available() / sharers / size) - 1 if size else self.keep
        if fits >= self.keep:
            return None
        before, self.keep = self.keep, max(0, fits)
        return (
            f"a snapshot takes {size / 2**20:.0f} MiB and {before} do not fit in free memory: "
            f"keeping {self.keep}" + ("" if self.keep else ", so that no rollback is possible")
        )

    def take(self, tensors: Sequence[torch.Tensor], small: SmallState, moment: Moment) -> Snapshot:
        """Copy a training state into a free buffer and keep it; the least useful snapshot makes room.

        A tick has one snapshot: a later one takes the place of an earlier.
        """
        began = self._clock()
        for older in [s for s in self._snapshots if s.tick == moment.tick]:
            self._remove(older)
        if len(self._snapshots) >= self.keep:
            self._evict(moment.tick)
        snapshot = Snapshot(moment, self.copy(tensors), small)
        self._snapshots.append(snapshot)
        self._last = moment.tick
        self.stall = self._clock() - began
        return snapshot

    def copy(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """A copy of the tensors in host memory, in a spare buffer of the same shapes if there is one."""
        buffer = self._buffer_like(tensors)
        with torch.no_grad():
            torch._foreach_copy_(buffer, list(tensors), non_blocking=True)
        return buffer

    def release(self, buffer: list[torch.Tensor]) -> None:
        """Give a buffer back for the next copy."""
        self._spare = [buffer]

    def adapt(self, step_seconds: float) -> None:
        """Follow the measured stall with the cadence."""
        if self._fixed or step_seconds <= 0.0:
            return
        self._cadence = max(self._base, round(self.stall / (self._max_overhead * step_seconds)))

    def judged(self, tick: int, healthy: bool) -> None:
        """All samples through ``tick`` have been judged: a snapshot of that tick is good if all was well."""
        for snapshot in reversed(self._snapshots):
            if snapshot.tick < tick:
                return  # all others are older still
            if snapshot.tick == tick:
                snapshot.good = healthy

    def at_or_before(self, tick: int) -> Snapshot | None:
        """The newest good snapshot of a tick not after this one."""
        for snapshot in reversed(self._snapshots):
            if snapshot.good and snapshot.tick <= tick:
                return snapshot
        return None

    def drop_after(self, snapshot: Snapshot, tick: int) -> None:
        """Forget the snapshots of the branch that a rollback to ``snapshot`` at ``tick`` abandons."""
        for newer in [s for s in self._snapshots if s.tick > snapshot.tick]:
            self._remove(newer)
        self._last = tick

    def clear(self) -> None:
        """Forget all snapshots: none of them is a state to return to any more."""
        for snapshot in list(self._snapshots):
            self._remove(snapshot)
        self._last = -1

    def forget_places(self) -> None:
        """Another loader trains: the snapshots' places in the data are none of its."""
        for snapshot in self._snapshots:
            snapshot.moment.place = None

    def pin(self, tick: int, decision: str) -> None:
        """Keep the snapshot of this tick until ``unpin(decision)``, or until another decision's is pinned.

        One act is on trial at a time, and not every act gets a verdict: pins never add up.
        """
        for snapshot in self._snapshots:
            snapshot.pinned_by = decision if snapshot.tick == tick else None

    def unpin(self, decision: str) -> None:
        """Nothing waits for the snapshot that a decision had pinned."""
        for snapshot in self._snapshots:
            if snapshot.pinned_by == decision:
                snapshot.pinned_by = None

    def _evict(self, now: int) -> None:
        self._remove(least_useful(self._snapshots, now, self.reach))

    def _remove(self, snapshot: Snapshot) -> None:
        self._snapshots.remove(snapshot)
        self.release(snapshot.tensors)

    def _buffer_like(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        if self._spare:
            buffer = self._spare.pop()
            if [(t.shape, t.dtype) for t in buffer] == [(t.shape, t.dtype) for t in tensors]:
                return buffer
        return [
            torch.empty(t.shape, dtype=t.dtype, pin_memory=t.device.type == "cuda") for t in tensors
        ]


def least_useful(snapshots: Sequence[Snapshot], now: int, reach: int) -> Snapshot:
    """The snapshot whose loss leaves the smallest hole, in ratios of age.

    The newest one always stays, and so does the oldest until it is beyond reach and the next one covers
    half of it: in between, the one is dropped whose neighbours' ages are nearest to each other.
    """
    free = [s for s in snapshots[:-1] if s.pinned_by is None]
    if not free:
        return snapshots[0]
    if len(free) > 1 and now - free[0].tick > reach and now - free[1].tick >= reach / 2:
        return free[0]

    def hole(snapshot: Snapshot) -> float:
        i = snapshots.index(snapshot)
        if i == 0:
            return float("inf")
        older, newer = now - snapshots[i - 1].tick, now - snapshots[i + 1].tick
        return older / max(newer, 1)

    return min(free, key=hole)
