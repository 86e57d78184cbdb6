"""The writer of a journal: one SQLite file a run, never rewound, durable before every act.

Two speeds. Decisions, outcomes, verdicts, events and attempts are committed and synced to the disk when
their call returns. Samples, transitions and phases go to a buffer that a background thread commits about
every second; everything buffered before a durable entry is committed with it, so the order is kept.

A write that fails (disk full, file deleted, read-only) ends the journal: ``writable`` turns False, what
follows is dropped, and every durable call raises JournalError, upon which the controller stops acting.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ...monitors.types import Health, Reading, Sample
from ...policies.types import Decision, Outcome, Phase, PhaseChange, Verdict
from .codec import as_text, dump_json
from .connect import connect, newest
from .place import MOUNTS, WriterLock, journal_path
from .place import JournalError as JournalError
from .retention import STRIDE, Retention
from .tables import (
    DECISION,
    EVENT,
    OUTCOME,
    PHASE,
    SAMPLE,
    TRANSITION,
    VERDICT,
    Event,
    Item,
    Table,
    Transition,
)
from .writer import ATTEMPT, Writer

MAX_BYTES = 2**30  # eleven million ticks of eight signals


class Journal:
    """The journal of one run, opened for writing by ``Journal.open``; then ``begin`` starts an attempt.

    ``path`` is the file, ``warnings`` says what the user should know of its place (a network file system,
    no locks). One thread of its own does all the writing; a durable call waits until it has.
    """

    def __init__(
        self,
        path: Path,
        connection: sqlite3.Connection,
        lock: WriterLock,
        warnings: tuple[str, ...],
        max_bytes: int,
        clock: Callable[[], float],
    ) -> None:
        self.path = path
        self.warnings = warnings
        self._max_bytes = max_bytes
        self._clock = clock
        self._attempts = newest(connection, "attempt", "number")
        self._attempt = 0
        self._writer = Writer(path, connection, lock, Retention(connection, max_bytes, self._say_thinned))

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        max_bytes: int = MAX_BYTES,
        clock: Callable[[], float] = time.time,
        mounts: Path = MOUNTS,
    ) -> Journal:
        """Open or create the journal of a run.

        ``path`` is the run's folder (made if missing) or the journal file. Beyond ``max_bytes`` the
        oldest samples are thinned; the default of 1 GiB is reached by few runs. ``clock`` gives Unix seconds;
        ``mounts`` is the system's mount table, from which a network file system is known.

        Raises JournalError if the place cannot be written, another run writes there, or the file
        is foreign, damaged or newer than this version.
        """
        file = journal_path(path)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            lock = WriterLock(file)
        except OSError as error:
            raise JournalError(f"{file}: the journal cannot be written: {error.strerror}") from error
        connection: sqlite3.Connection | None = None
        try:
            connection, warnings = connect(file, mounts)
            if not lock.held:
                warnings += (f"{file}: no locks on this file system; see that no other run writes here",)
            return cls(file, connection, lock, warnings, max_bytes, clock)
        except BaseException as error:
            if connection is not None:
                connection.close()
            lock.forget()
            if isinstance(error, sqlite3.Error):
                raise JournalError(f"{file}: the journal cannot be opened: {error}") from error
            raise

    @property
    def writable(self) -> bool:
        """False once a write has failed or the journal was closed."""
        return self._writer.writable

    @property
    def size_bytes(self) -> int:
        """What the journal takes on the disk, with its write-ahead log."""
        total = 0
        for suffix in ("", "-wal"):
            with suppress(FileNotFoundError):
                total += os.stat(f"{self.path}{suffix}").st_size
        return total

    def begin(
        self,
        *,
        argv: Sequence[str],
        policy_text: str,
        policy_source: str,
        mode: str,
        versions: Mapping[str, str],
        facts: Mapping[str, Any],
    ) -> int:
        """Start a new attempt (one process life) and return its number, from 1. Durable."""
        assert self._attempt == 0, "a process has one attempt"
        self._attempt = self._attempts + 1
        row = (
            self._attempt, self._clock(), dump_json(list(argv)), as_text(policy_text), as_text(policy_source),
            as_text(mode), dump_json(versions), dump_json(facts),
        )  # fmt: skip
        self._writer.append(ATTEMPT, row)
        self._writer.flush()
        return self._attempt

    def sample(self, sample: Sample) -> None:
        """Keep one tick's signals, which nobody changes any more. Buffered; never raises, never waits."""
        row = (self._attempt, sample.tick, sample.step, sample.branch, sample.signals)
        self._writer.append(SAMPLE, row)

    def transition(
        self,
        tick: int,
        step: int,
        branch: int,
        monitor: str,
        instance: str,
        before: Health | None,
        reading: Reading,
    ) -> None:
        """Keep a monitor's change of health. Buffered."""
        self._put(TRANSITION, Transition(tick, step, branch, monitor, instance, before, reading))

    def phase(self, tick: int, rule: str, instance: str, before: Phase, after: Phase) -> None:
        """Keep a rule's change of phase. Buffered."""
        self._put(PHASE, PhaseChange(tick, rule, instance, before, after))

    def decision(self, decision: Decision) -> None:
        """Keep a decision: on the disk when this returns. An id that this attempt has is left as it is."""
        self._put_durable(DECISION, decision)

    def outcome(self, outcome: Outcome, decision: Decision) -> None:
        """Keep what became of ``decision``: on the disk when this returns."""
        assert outcome.decision_id == decision.id
        self._put_durable(OUTCOME, outcome)

    def verdict(self, verdict: Verdict) -> None:
        """Keep a verdict: on the disk when this returns."""
        self._put_durable(VERDICT, verdict)

    def event(self, kind: str, tick: int, detail: Mapping[str, Any]) -> None:
        """Keep anything else (start report, mode change, error, command): on the disk when this returns."""
        self._put_durable(EVENT, Event(kind, tick, detail))

    def flush(self) -> None:
        """Put all that is buffered on the disk. Raises JournalError if it cannot be."""
        self._writer.flush()

    def close(self) -> None:
        """Write what is buffered, say that this attempt ended, let go of the file. Never raises or hangs."""
        if not self._writer.closed:
            if self._attempt:
                self._put(EVENT, Event("closed", -1, {}))
            self._writer.close()

    def _put(self, table: Table, item: Item) -> None:
        assert self._attempt, "begin comes first"
        self._writer.append(table.insert, (self._attempt, self._clock(), *table.to_row(item)))

    def _put_durable(self, table: Table, item: Item) -> None:
        self._put(table, item)
        self._writer.flush()

    def _say_thinned(self) -> None:
        if self._attempt:
            detail = {"max_bytes": self._max_bytes, "kept": f"one in {STRIDE} of the oldest"}
            self._put(EVENT, Event("samples_thinned", -1, detail))
