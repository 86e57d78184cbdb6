"""A run's durable checkpoints: when one is due, who writes it, which are kept, which can be returned to."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ...policies.model import CheckpointPlan
from ..clock import Clock
from ..ranks import Ranks
from ..ring import Snapshot
from .files import load, put_manifest, write
from .manifest import FOLDER, DamagedCheckpoint, Manifest, manifest_name, read_manifest

log = logging.getLogger("midcourse")

Told = Callable[[str, int, Mapping[str, Any]], None]
"""Told of an event: its kind, its tick, its details."""

AUTOMATIC = "tick-"
"""Names of checkpoints that make room for newer ones begin so; all others are kept for good."""


@dataclass(slots=True)
class Entry:
    """A complete checkpoint of this run's course."""

    name: str
    tick: int
    step: int
    good: bool

    @property
    def automatic(self) -> bool:
        """Whether it may make room for newer ones."""
        return self.name.startswith(AUTOMATIC)


@dataclass(frozen=True, slots=True)
class Parcel:
    """What is written: a training state with a label for each of its tensors, and what goes on besides.

    ``done`` is called in the training thread once nothing is read from the snapshot any more. ``beside``
    names the folder in which Accelerate keeps the tensors, if it does: the snapshot then has none.
    """

    snapshot: Snapshot
    labels: list[str]
    own: Mapping[str, Any]
    done: Callable[[], None] = lambda: None
    beside: str | None = None
    stamp: str = ""


@dataclass(slots=True)
class _Pending:
    """What is being written; ``failure`` is known once it was waited for."""

    entry: Entry
    written: Future[Manifest]
    done: Callable[[], None]
    failure: str | None = None


class Checkpoints:
    """Writes checkpoints in the background, one at a time, and knows those that are complete.

    A checkpoint is complete when every process has written its part. The processes tell each other when
    the next one is begun, so that they always know the same ones; nothing older goes before that.

    Args:
        directory: The run's folder.
        plan: Cadence and number kept.
        ranks: The run's processes.
        told: Told of what was written and of what failed.
    """

    def __init__(self, directory: Path, plan: CheckpointPlan, ranks: Ranks, told: Told) -> None:
        self.folder = directory / FOLDER
        self.plan = plan
        self.entries: list[Entry] = []
        self.last_tick = 0
        self._newest = 0.0
        self._ranks = ranks
        self._told = told
        self._pool: ThreadPoolExecutor | None = None
        self.pending: _Pending | None = None
        """What is on its way to the disk."""

    def due(self, tick: int) -> bool:
        """Whether the plan asks for one at this tick: alike on all processes, for it goes by ticks alone."""
        return self.plan.every is not None and tick - self.last_tick >= self.plan.every

    def begin(self, name: str, clock: Clock, take: Callable[[], Parcel]) -> None:
        """Start to write a state; waits for the one before, on all processes together.

        Args:
            name: What it is called; one of the same name is replaced once the new one is complete.
            clock: The run's counters at the state's own moment.
            take: Gives the state; if that fails, so does this checkpoint, on all processes.
        """
        self.settle()
        entry = Entry(name, clock.tick, clock.step, good=False)
        stamp = self._ranks.share(f"{time.time_ns():x}")
        rank, world = self._ranks.rank, self._ranks.world
        about = Manifest(name, clock.tick, clock.step, clock.branch, rank, world, stamp, self._newest)
        self.last_tick = clock.tick
        written: Future[Manifest]
        done = _nothing
        try:
            parcel = take()
            # Without tensors of its own it can be resumed from, and not returned to.
            entry.good, done = parcel.snapshot.good and parcel.beside is None, parcel.done
            written = self._thread().submit(self._write, about, parcel)
        except Exception as error:  # noqa: BLE001 - the other processes are told when it is settled
            written = Future()
            written.set_exception(error)
        self.pending = _Pending(entry, written, done)

    def _thread(self) -> ThreadPoolExecutor:
        if self._pool is None:
            # It is joined when the interpreter ends: what was begun gets complete.
            self._pool = ThreadPoolExecutor(1, "midcourse-checkpoint")
        return self._pool

    def _write(self, about: Manifest, parcel: Parcel) -> Manifest:
        snapshot = parcel.snapshot
        snapshot.wait()
        state = {
            "labels": parcel.labels,
            "moment": snapshot.moment,
            "small": snapshot.small,
            "good": snapshot.good,
            "own": parcel.own,
            "beside": parcel.beside,
        }
        tensors = dict(zip(parcel.labels, snapshot.tensors, strict=True))
        folder = self.folder / about.name
        own = parcel.beside is not None and about.rank == 0
        return write(folder, about, tensors, state, folder / str(parcel.beside) if own else None)

    def poll(self) -> None:
        """Take note of what has been written meanwhile; costs nothing where there is nothing to note."""
        if self.pending is not None and self._ranks.world == 1 and self.pending.written.done():
            self.settle()

    def settle(self) -> str | None:
        """Wait for what is being written, on all processes; returns why it did not get complete, if so."""
        if self.pending is None:
            return None
        pending = self._finish()
        answers = self._ranks.gather((pending.failure, pending.entry.good))
        # Only rank 0 judges: what is good is good on all.
        entry = replace(pending.entry, good=answers[0][1])
        failures = [f"on process {rank}: {why}" for rank, (why, _) in enumerate(answers) if why]
        if failures:
            why = "; ".join(failures) if self._ranks.world > 1 else str(pending.failure)
            self._fail(entry, why)
            return why
        self._take_in(entry)
        self._tell_written(entry, pending)
        self._prune(entry.tick)
        return None

    def close(self) -> None:
        """Wait for what is being written here; what the others wrote shows when the run is resumed."""
        if self._ranks.world == 1:
            self.settle()
        elif self.pending is not None:
            pending = self._finish()
            if pending.failure is not None:
                self._fail(pending.entry, pending.failure)
            else:
                self._tell_written(pending.entry, pending)
        if self._pool is not None:
            self._pool.shutdown()

    def _finish(self) -> _Pending:
        """Wait for this process' part."""
        assert self.pending is not None
        pending, self.pending = self.pending, None
        error = pending.written.exception()
        pending.failure = None if error is None else f"{type(error).__name__}: {error}"
        pending.done()
        return pending

    def _tell_written(self, entry: Entry, pending: _Pending) -> None:
        manifest = pending.written.result()
        self.seen(manifest.written)
        detail = {"name": entry.name, "bytes": manifest.bytes, "good": entry.good}
        self._told("checkpoint", entry.tick, detail)

    def named(self, name: str) -> Entry | None:
        """The one of this name."""
        return next((e for e in self.entries if e.name == name), None)

    def read(self, name: str) -> Parcel:
        """A checkpoint, every byte of it verified. Raises DamagedCheckpoint."""
        manifest, tensors, state = load(self.folder / name, self._ranks.rank)
        if manifest.world != self._ranks.world:
            raise DamagedCheckpoint(f"{self.folder / name} {of_others(manifest, self._ranks)}")
        labels = state["labels"]
        kept = [tensors[label] for label in labels]
        snapshot = Snapshot(state["moment"], kept, state["small"], state["good"])
        return Parcel(snapshot, labels, state["own"], beside=state["beside"], stamp=manifest.stamp)

    def read_together(self, name: str) -> tuple[Parcel | None, str]:
        """The same where every process can read its part; else None, and why one of them cannot."""
        parcel, failure = None, ""
        try:
            parcel = self.read(name)
        except ValueError as error:
            failure = str(error)
        answers = self._ranks.gather((failure, parcel and parcel.stamp))
        failures = [why for why, _ in answers if why]
        if not failures and len({stamp for _, stamp in answers}) > 1:
            failures = [f"{self.folder / name}: its parts were not written at the same time"]
        return (None, failures[0]) if failures else (parcel, "")

    def forget(self, name: str, why: str) -> None:
        """It proved damaged: no state to return to."""
        entry = self.named(name) or Entry(name, -1, -1, good=False)
        self.entries = [e for e in self.entries if e.name != name]
        self._fail(entry, why)

    def seen(self, written: float) -> None:
        """There is a checkpoint that says it was written then: those to come are newer."""
        self._newest = max(self._newest, written)

    def gone_on_from(self, entry: Entry) -> None:
        """The run was resumed from this one: what other courses have left on disk is older from now on."""
        self._take_in(entry)
        folder = self.folder / entry.name
        try:
            manifest = replace(read_manifest(folder, self._ranks.rank), written=self._newest)
            self.seen(put_manifest(folder, manifest).written)
        except (OSError, DamagedCheckpoint) as error:  # a disk that takes nothing more: it can still be read
            self._fail(entry, f"it could not be marked as the newest: {error}")

    def _take_in(self, entry: Entry) -> None:
        self.entries = [e for e in self.entries if e.name != entry.name] + [entry]
        self.entries.sort(key=lambda e: e.tick)

    def abandon_after(self, target: int, now: int) -> None:
        """The run went back to ``target``: later checkpoints are of a course that was given up.

        They stay on disk until the next one is complete, which is due at once: a run that dies before that
        resumes from them, and goes back again.
        """
        self.entries = [
            e if e.tick <= target else replace(e, good=False)
            for e in self.entries
            if e.tick <= target or not e.automatic
        ]
        if self.plan.every is not None:
            self.last_tick = now - self.plan.every

    def state_dict(self) -> dict[str, Any]:
        """The complete ones of the course so far, and when the last was taken."""
        return {"entries": [asdict(entry) for entry in self.entries], "last_tick": self.last_tick}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what another process wrote, as far as it is still there."""
        self.last_tick = state["last_tick"]
        entries = [Entry(**entry) for entry in state["entries"]]
        part = manifest_name(self._ranks.rank)
        self.entries = [e for e in entries if (self.folder / e.name / part).exists()]

    def _fail(self, entry: Entry, why: str) -> None:
        log.error("checkpoint %s: %s", entry.name, why)
        self._told("checkpoint_failed", entry.tick, {"name": entry.name, "reason": why})

    def _prune(self, tick: int) -> None:
        """Keep the newest ones, the newest good one besides, and all that have a name of their own.

        What is newer on disk than the one of ``tick`` is another process' next one.
        """
        automatic = [e for e in self.entries if e.automatic]
        good = [e for e in automatic if e.good]
        names = {e.name for e in (*automatic[-self.plan.keep :], *good[-1:])}
        self.entries = [e for e in self.entries if not e.automatic or e.name in names]
        for path in self.folder.glob(f"{AUTOMATIC}*"):
            number = path.name.removeprefix(AUTOMATIC)
            if path.name not in names and number.isdecimal() and int(number) < tick:
                shutil.rmtree(path, ignore_errors=True)


def of_others(manifest: Manifest, ranks: Ranks) -> str:
    """Why a checkpoint cannot be gone on from by another number of processes."""
    return (
        f"was written by {manifest.world} processes and this run has {ranks.world}: a run goes on with as "
        "many as it had"
    )


def automatic_name(tick: int) -> str:
    """What the checkpoint of a tick is called that may make room for newer ones."""
    return f"{AUTOMATIC}{tick:08d}"


def _nothing() -> None:
    """For parcels that nobody waits to have back."""
