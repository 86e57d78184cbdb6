"""The ring of snapshots: whole training states in memory, thinned so that a few reach far back."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ..policies.model import Store
from .buffers import Buffer, Buffers, NoMemory, buffers_for, shapes_of
from .fingerprint import Fingerprint
from .places import Place
from .rng import RandomState
from .side_copy import Event
from .thinning import least_useful
from .training_state import SmallState

log = logging.getLogger("midcourse")


@dataclass(slots=True)
class Moment:
    """Where the run stood when a snapshot was taken; ``batch`` is what the batch at its place is known by."""

    tick: int
    step: int
    branch: int
    place: Place | None
    random_state: RandomState
    detectors: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    batch: Fingerprint | None = None


@dataclass(slots=True, eq=False)
class Snapshot:
    """One training state; ``good`` once the sample of its tick was judged and no rule was about to act.

    ``pins`` are the names of those who still need it: the decision that is verified, a writer that puts it on
    disk. ``complete`` is when its copy is, where training went on beside it.
    """

    moment: Moment
    tensors: Buffer
    small: SmallState
    good: bool = False
    pins: set[str] = field(default_factory=set)
    complete: Event | None = None

    @property
    def tick(self) -> int:
        """Optimizer steps made when it was taken."""
        return self.moment.tick

    def wait(self) -> None:
        """Let the host wait until its tensors hold what they are to hold: before the host reads them."""
        if self.complete is not None:
            self.complete.synchronize()


class Ring:
    """Up to ``keep`` snapshots whose ages grow geometrically up to about ``reach`` ticks.

    ``last_tick`` is that of the last one taken (-1: none yet): the next is due a cadence later. ``stall`` is
    how many seconds its copy held up training, ``making`` how many more its buffer, where that was not there.

    Args:
        keep: Number of snapshots.
        reach: Age in ticks that the oldest one is to have.
        every: Ticks between snapshots; None chooses ``reach / 2 ** (keep - 1)``, or more where the measured
            stall would take more than ``max_overhead`` of the run.
        max_overhead: Share of the run that taking snapshots may stall.
        clock: Seconds; injected for tests.
        buffers: The memory that they lie in; None: the host's, for tensors of the host.
        spares: Buffers besides: one for the state before an act, one for a checkpoint while it is written,
            one for the end of a trial's best arm.
    """

    def __init__(
        self,
        keep: int,
        reach: int,
        every: int | None = None,
        max_overhead: float = 0.01,
        clock: Callable[[], float] = time.perf_counter,
        buffers: Buffers | None = None,
        spares: int = 1,
    ) -> None:
        self.keep = keep
        self.spares = spares
        self.reach = reach
        self.stall = self.making = 0.0
        self._fixed = every is not None
        self.base = every or max(1, round(reach / 2 ** (keep - 1)))
        """Ticks between two snapshots at least."""
        self._max_overhead = max_overhead
        self._clock = clock
        self._snapshots: list[Snapshot] = []
        self._buffers = buffers or buffers_for(torch.device("cpu"), Store.HOST)
        self._short = False
        self._dropped: list[Snapshot] = []
        self._verified: str | None = None
        self._lock = threading.RLock()
        self._cadence = self.base
        self.beside = self._buffers.beside
        """Whether copies are made beside training, which has to ``settle`` with them."""
        self.last_tick = -1

    def __len__(self) -> int:
        return len(self._snapshots)

    @property
    def snapshots(self) -> Sequence[Snapshot]:
        """Oldest first."""
        return self._snapshots

    @property
    def bytes(self) -> int:
        """Memory that the snapshots hold, spare buffers and forgotten ones that are held included."""
        kept = [s.tensors for s in (*self._snapshots, *self._dropped)] + self._buffers.spare
        return sum(map(self._buffers.bytes_of, kept))

    def bytes_when_full(self, tensors: Iterable[torch.Tensor]) -> int:
        """Memory that ``keep`` snapshots of these tensors take, with the spare buffers."""
        return (self.keep + self.spares) * self._buffers.bytes_of(tensors) if self.keep else 0

    @property
    def cadence(self) -> int:
        """Ticks between snapshots at present."""
        return self._cadence

    def due(self, tick: int) -> bool:
        """Whether a snapshot is to be taken at this tick."""
        return self.keep > 0 and (self.last_tick < 0 or tick - self.last_tick >= self._cadence)

    def fit(self, tensors: Iterable[torch.Tensor], moments: int = 2, sharers: int = 1) -> str | None:
        """Lower ``keep`` to what free memory holds; says so, or None where all is well.

        ``moments`` is how many further tensors of a parameter's size the optimizer will make, ``sharers``
        how many processes of this run keep snapshots in the same memory.
        """
        size = self._buffers.bytes_of(tensors) * (1 + moments)
        return self._lower(self._buffers.fitting(size, sharers) - self.spares, size) if size else None

    def reserve(self, tensors: Sequence[torch.Tensor], sharers: int = 1) -> str | None:
        """Make all the buffers of a full ring now that the state's shapes are known; says where it cannot."""
        if not self.keep:
            return None
        there = sum(shapes_of(s.tensors) == shapes_of(tensors) for s in self._snapshots)
        try:
            self._buffers.reserve(tensors, self.keep + self.spares - there, sharers)
        except NoMemory:
            made = there + len(self._buffers.spare)
            return self._lower(made - self.spares, self._buffers.bytes_of(tensors))
        return None

    def take(
        self,
        tensors: Sequence[torch.Tensor],
        small: SmallState,
        moment: Moment,
        changing: Callable[[], Collection[int]] | None = None,
    ) -> Snapshot | None:
        """Copy a training state into a free buffer and keep it; the least useful snapshot makes room.

        A tick has one snapshot: a later one takes the place of an earlier. ``changing`` gives the indices of
        the tensors that may change before the next ``settle`` (None: any may); on a CUDA device the others
        are copied while training goes on. None where there is no memory for it: later ones are then fewer.
        """
        self.last_tick = moment.tick
        for older in [s for s in self._snapshots if s.tick == moment.tick]:
            self._remove(older)
        self._make_room(moment.tick)
        try:
            snapshot = self.snapshot(tensors, small, moment, changing)
        except NoMemory as error:
            self._run_short(moment.tick, error)
            return None
        self._snapshots.append(snapshot)
        return snapshot

    def snapshot(
        self,
        tensors: Sequence[torch.Tensor],
        small: SmallState,
        moment: Moment,
        changing: Callable[[], Collection[int]] | None = None,
    ) -> Snapshot:
        """One like ``take``'s that the ring does not keep; its tensors are given back by ``release``.

        Raises:
            NoMemory: there is no memory for it.
        """
        began = self._clock()
        buffer = self._lend(tensors)
        ready = self._clock()
        complete = self._buffers.copy_beside(buffer, tensors, changing)
        self.making, self.stall = ready - began, self._clock() - ready
        return Snapshot(moment, buffer, small, complete=complete)

    def settle(self) -> None:
        """Before an optimizer step: it comes after the copy of a snapshot that is still under way."""
        self._buffers.settle()

    def copy(self, tensors: Sequence[torch.Tensor]) -> Buffer:
        """A copy of the tensors, in a spare buffer of the same shapes if there is one.

        What the current stream does from now on, a restore above all, comes after it and after every
        snapshot's copy.

        Raises:
            NoMemory: there is no memory for it.
        """
        buffer = self._lend(tensors)
        self._buffers.copy(buffer, tensors)
        return buffer

    def release(self, buffer: Buffer) -> None:
        """Give a buffer back for the next copy."""
        with self._lock:
            self._buffers.release(buffer, self.keep + self.spares)

    def adapt(self, step_seconds: float) -> None:
        """Follow the measured stall with the cadence."""
        self.stall += self._buffers.waited()
        if self._fixed or step_seconds <= 0.0:
            return
        self._cadence = max(self.base, round(self.stall / (self._max_overhead * step_seconds)))

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
        self.last_tick = tick

    def clear(self) -> None:
        """Forget all snapshots: none of them is a state to return to any more."""
        for snapshot in list(self._snapshots):
            self._remove(snapshot)
        self.last_tick = -1

    def keep_only(self, ticks: Collection[int]) -> None:
        """Forget the snapshots of other ticks: some process has none of them."""
        for snapshot in [s for s in self._snapshots if s.tick not in ticks]:
            self._remove(snapshot)

    def forget_places(self) -> None:
        """Another loader trains: the snapshots' places in the data are none of its."""
        for snapshot in self._snapshots:
            snapshot.moment.place = None

    def pin(self, tick: int, decision: str) -> None:
        """Keep the snapshot of this tick until ``unpin(decision)``, or until another decision's is pinned.

        One verdict is open at a time, and not every act gets one: pins of decisions never add up. That of an
        act that did not help stays, so that a later rung can take back what it did.
        """
        with self._lock:
            if self._verified is not None:
                self.unpin(self._verified)
            self._verified = decision
            for snapshot in self._snapshots:
                if snapshot.tick == tick:
                    snapshot.pins.add(decision)

    def hold(self, snapshot: Snapshot, name: str) -> None:
        """Keep a snapshot's tensors as they are until ``unpin(name)``, even if the ring forgets it meanwhile.

        Besides the pin of a decision, whose name it must not be. Another thread may unpin it.
        """
        with self._lock:
            assert snapshot.pins or snapshot in self._snapshots, "its buffer may serve others already"
            snapshot.pins.add(name)

    def unpin(self, name: str) -> None:
        """Nothing waits any more for what was pinned or held under this name."""
        with self._lock:
            for snapshot in (*self._snapshots, *self._dropped):
                snapshot.pins.discard(name)
            for snapshot in [s for s in self._dropped if not s.pins]:
                self._dropped.remove(snapshot)
                self.release(snapshot.tensors)

    def _lower(self, fits: int, size: int) -> str | None:
        """Keep no more than fit; says so, or None where all is well."""
        if fits >= self.keep:
            return None
        before, self.keep = self.keep, max(0, fits)
        return (
            f"a snapshot takes {size / 2**20:.0f} MiB and {before} do not fit in free memory: "
            f"keeping {self.keep}" + ("" if self.keep else ", so that no rollback is possible")
        )

    def _run_short(self, tick: int, error: NoMemory) -> None:
        """There was no memory for a snapshot: those there are will do, less one whose buffer serves acts."""
        self.keep = max(1, len(self._snapshots) - 1)
        if not self._short:
            self._short = True
            log.warning("no snapshot of tick %d (%s): keeping %d from now on", tick, error, self.keep)

    def _make_room(self, now: int) -> None:
        """For one more; where all others are pinned there is one too many until they are let go."""
        with self._lock:
            while len(self._snapshots) >= max(1, self.keep):
                useless = least_useful(self._snapshots, now, self.reach)
                if useless is None:
                    return
                self._remove(useless)

    def _lend(self, tensors: Sequence[torch.Tensor]) -> Buffer:
        with self._lock:
            return self._buffers.lend(tensors)

    def _remove(self, snapshot: Snapshot) -> None:
        """Forget a snapshot; its buffer is free, or will be when nobody holds it any more."""
        with self._lock:
            self._snapshots.remove(snapshot)
            snapshot.pins.discard(self._verified or "")
            if snapshot.pins:
                self._dropped.append(snapshot)
            else:
                self.release(snapshot.tensors)
