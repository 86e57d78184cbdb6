"""Reading a journal, also while its run goes on, after a SIGKILL, or from a copy."""

from __future__ import annotations

import heapq
import shutil
import sqlite3
import struct
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from math import nan
from operator import attrgetter
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar, cast

from ...monitors.types import Sample
from ...policies.types import Decision, Outcome, PhaseChange, Verdict
from .codec import load_json, places_of, unpack_signals
from .connect import check_schema, scalar
from .place import JournalError, is_being_written, journal_path
from .tables import (
    DECISION,
    EVENT,
    OUTCOME,
    PHASE,
    TABLES,
    TRANSITION,
    VERDICT,
    Attempt,
    Entry,
    Event,
    Table,
    Transition,
)

PAGE_ROWS = 2048  # a query ends after this many rows: one that stays open would hold the writer's log back
BUSY_SECONDS = 5.0
_WAL_FORMAT = 2  # what byte 18 of the file says in write-ahead mode

T = TypeVar("T")


class JournalReader:
    """Reads the journal of ``run`` (its folder or the file) and never writes to it or blocks its writer.

    Every method may be called again while the run goes on and then sees what has come since. ``attempt``
    limits to one process life; None means all, in order. Use it as a context manager, or ``close`` it.

    Raises JournalError if there is no journal, or one that this version cannot read.
    """

    def __init__(self, run: str | Path) -> None:
        self.path = journal_path(run)
        if not self.path.is_file():
            raise JournalError(f"{self.path}: there is no journal")
        self._closing = ExitStack()
        try:
            self._connection = self._open()
        except (sqlite3.Error, OSError) as error:
            self._closing.close()
            raise JournalError(f"{self.path}: the journal cannot be read: {error}") from error
        except BaseException:
            self._closing.close()
            raise

    def __enter__(self) -> JournalReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self._closing.close()

    @property
    def running(self) -> bool:
        """Whether a living process is writing this journal."""
        return is_being_written(self.path)

    def attempts(self) -> list[Attempt]:
        """Every process life, the first one first."""
        ended = dict(self._query("SELECT attempt, time FROM event WHERE kind = 'closed'"))
        return [
            Attempt(
                number, started, ended.get(number), tuple(load_json(argv)), policy_text, policy_source,
                mode, load_json(versions), load_json(facts),
            )
            for number, started, argv, policy_text, policy_source, mode, versions, facts in self._query(
                "SELECT * FROM attempt ORDER BY number"
            )
        ]  # fmt: skip

    def samples(self, attempt: int | None = None) -> Iterator[Sample]:
        """What was measured, tick by tick, in the order in which it was said."""
        for entry in self._sample_entries(attempt):
            yield cast(Sample, entry.item)

    def columns(self, names: Sequence[str]) -> tuple[list[int], list[list[float]]]:
        """The step of every sample, and some signals there, NaN where not measured; quicker than samples."""
        numbers = {name: number for number, name in enumerate(self.signals())}
        wanted = [numbers.get(name, -1) for name in names]
        places: dict[bytes, list[int | None]] = {}
        steps: list[int] = []
        columns: list[list[float]] = [[] for _ in names]
        for _, _, _, step, _, present, values in self._pages("sample", None):
            if present not in places:
                places[present] = places_of(present, wanted)
            steps.append(step)
            for column, place in zip(columns, places[present], strict=True):
                column.append(nan if place is None else struct.unpack_from("<d", values, place)[0])
        return steps, columns

    def transitions(self, attempt: int | None = None) -> list[Transition]:
        """Every change of a monitor's health."""
        return self._items(TRANSITION, Transition, attempt)

    def phases(self, attempt: int | None = None) -> list[PhaseChange]:
        """Every change of a rule's phase."""
        return self._items(PHASE, PhaseChange, attempt)

    def decisions(self, attempt: int | None = None) -> list[Decision]:
        """Every decision, whatever became of it."""
        return self._items(DECISION, Decision, attempt)

    def outcomes(self, attempt: int | None = None) -> list[Outcome]:
        """What became of the acts."""
        return self._items(OUTCOME, Outcome, attempt)

    def verdicts(self, attempt: int | None = None) -> list[Verdict]:
        """Whether the acts helped."""
        return self._items(VERDICT, Verdict, attempt)

    def events(self, attempt: int | None = None) -> list[Event]:
        """Start reports, mode changes, errors, commands, stops."""
        return self._items(EVENT, Event, attempt)

    def decision(self, id: str, attempt: int | None = None) -> Decision | None:
        """The decision with this id, of the latest attempt that has it; None if there is none."""
        found = [item for item in self.decisions(attempt) if item.id == id]
        return found[-1] if found else None

    def entries(self, attempt: int | None = None, *, samples: bool = True) -> Iterator[Entry]:
        """Everything of every kind in the order in which it was said: what a replay needs."""
        streams = [self._entries(table, attempt) for table in TABLES]
        if samples:
            streams.append(self._sample_entries(attempt))
        return heapq.merge(*streams, key=attrgetter("seq"))

    def step_at(self, tick: int, attempt: int) -> int | None:
        """The training step of ``tick``; None if that tick was not kept."""
        rows = self._query("SELECT step FROM sample WHERE attempt = ? AND tick = ? LIMIT 1", attempt, tick)
        return int(rows[0][0]) if rows else None

    def span(self, attempt: int) -> tuple[int, int, int] | None:
        """First tick, last tick and number of samples of an attempt; None if it has none."""
        query = "SELECT min(tick), max(tick), count(*) FROM sample WHERE attempt = ?"
        first, last, count = self._query(query, attempt)[0]
        return (first, last, count) if count else None

    def signals(self) -> list[str]:
        """The names of all signals ever measured, in order of first appearance."""
        return [name for (name,) in self._query("SELECT name FROM signal ORDER BY number")]

    def backup(self, target: sqlite3.Connection) -> None:
        """Copy all of it, as it stands at this moment, into an empty database."""
        try:
            self._connection.backup(target)
        except sqlite3.Error as error:
            raise JournalError(f"{self.path}: the journal cannot be copied: {error}") from error

    def _items(self, table: Table, kind: type[T], attempt: int | None) -> list[T]:
        return [cast(T, entry.item) for entry in self._entries(table, attempt)]

    def _entries(self, table: Table, attempt: int | None) -> Iterator[Entry]:
        for seq, number, time, *row in self._pages(table.name, attempt):
            yield Entry(seq, number, time, table.from_row(tuple(row)))

    def _sample_entries(self, attempt: int | None) -> Iterator[Entry]:
        names: list[str] = []
        for seq, number, tick, step, branch, present, values in self._pages("sample", attempt):
            if len(present) * 8 > len(names):
                names = self.signals()  # a name is written before or with the first row that has it
            yield Entry(seq, number, nan, Sample(step, tick, branch, unpack_signals(present, values, names)))

    def _pages(self, table: str, attempt: int | None) -> Iterator[tuple[Any, ...]]:
        """The rows of a table by rising seq, a page at a time."""
        query = f"SELECT * FROM {table} WHERE seq > ?1 AND (?2 IS NULL OR attempt = ?2) ORDER BY seq LIMIT ?3"
        seq = -1
        while True:
            rows = self._query(query, seq, attempt, PAGE_ROWS)
            yield from rows
            if len(rows) < PAGE_ROWS:
                return
            seq = rows[-1][0]

    def _query(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        try:
            return self._connection.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise JournalError(f"{self.path}: the journal cannot be read: {error}") from error

    def _open(self) -> sqlite3.Connection:
        """A read-only connection, found in the first of three ways that works.

        A write-ahead file with no log beside it is a copy or was closed: nothing more can be in it, and
        asking for the log would make one. Where the folder cannot be written, the log's index cannot be made
        either: then a copy is read.
        """
        with self.path.open("rb") as file:
            header = file.read(20)
        has_log = self.path.with_name(f"{self.path.name}-wal").exists()
        copied = len(header) > 18 and header[18] == _WAL_FORMAT and not has_log
        try:
            return self._connect(self.path, "immutable=1" if copied else "mode=ro")
        except sqlite3.OperationalError:
            folder = Path(self._closing.enter_context(tempfile.TemporaryDirectory(prefix="midcourse-")))
            for suffix in ("", "-wal", "-journal"):
                with suppress(FileNotFoundError):
                    shutil.copyfile(f"{self.path}{suffix}", folder / f"copy{suffix}")
            return self._connect(folder / "copy", "mode=rw")

    def _connect(self, file: Path, how: str) -> sqlite3.Connection:
        connection = sqlite3.connect(f"{file.absolute().as_uri()}?{how}", uri=True, timeout=BUSY_SECONDS)
        self._closing.callback(connection.close)
        check_schema(connection, self.path)
        scalar(connection, "SELECT count(*) FROM attempt")  # a log that cannot be read fails here
        return connection
