"""The thread that writes a journal: it alone touches the connection, and no fault of it ends the run."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
import weakref
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

from .codec import as_text, pack_signals
from .connect import newest
from .place import JournalError, WriterLock
from .retention import Retention
from .tables import SAMPLE, TABLES, Row

FLUSH_SECONDS = 1.0
FLUSH_ROWS = 2048
BUFFER_LIMIT = 2**17  # rows that may wait (about 60 MB) before a disk that hangs ends the journal
STALL_SECONDS = 60.0  # a durable call waits no longer than this for the disk
CLOSE_SECONDS = 10.0
THIN_SECONDS = 0.05  # of thinning at a stretch, since a decision may wait for it

# A row that waits is (what, values): an INSERT that lacks only ``seq``, a sample, or one of these.
ATTEMPT, TICKET = "attempt", "ticket"
_INSERT_ATTEMPT = "INSERT INTO attempt VALUES (?,?,?,?,?,?,?,?)"
_INSERT_SAMPLE = "INSERT INTO sample VALUES (?,?,?,?,?,?,?)"


class Writer:
    """Rows wait in ``buffer``; a thread commits them about every second, or at once when ``flush`` waits.

    One transaction takes all that waits, in order, so nothing is on the disk before what was said
    earlier. After a write that failed ``failure`` says why, what follows is dropped, and every ``flush``
    raises JournalError. ``lock`` is released when the thread ends.
    """

    def __init__(
        self, path: Path, connection: sqlite3.Connection, lock: WriterLock, retention: Retention
    ) -> None:
        self.path = path
        self.buffer: deque[tuple[str, Row]] = deque()
        self.failure: str | None = None
        self.closed = False
        self._connection = connection
        self._lock = lock
        self._retention = retention
        self._identity = _identity(path)
        self._numbers = dict(connection.execute("SELECT name, number FROM signal").fetchall())
        self._seq = max(newest(connection, name) for name in (SAMPLE, *(table.name for table in TABLES)))
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._write_behind, name="midcourse-journal", daemon=True)
        os.register_at_fork(after_in_child=partial(_forget, weakref.ref(self)))
        self._thread.start()

    @property
    def writable(self) -> bool:
        """Whether what is appended now has a chance to be written."""
        return self.failure is None and not self.closed

    def append(self, what: str, row: Row) -> None:
        """Let a row wait. Never raises, never waits."""
        if self.failure is None and not self.closed:
            self.buffer.append((what, row))
            if len(self.buffer) >= FLUSH_ROWS:
                self._press()

    def flush(self) -> None:
        """Return when all that waits is on the disk. Raises JournalError if it cannot be."""
        if self.closed:
            raise JournalError(self.failure or f"{self.path}: the journal is closed")
        written = threading.Event()
        self.buffer.append((TICKET, (written,)))
        self._wake.set()
        if self.failure is None and not written.wait(STALL_SECONDS):
            self._fail(f"the disk has not answered for {STALL_SECONDS:.0f} s")
        if self.failure is not None:
            raise JournalError(self.failure)

    def close(self) -> None:
        """Write what waits and let go of the file, or leave a disk that hangs to the kernel."""
        self.closed = True
        self._wake.set()
        self._thread.join(CLOSE_SECONDS)

    def forget(self) -> None:
        """In a forked child: the journal and its lock belong to the parent."""
        self._fail("this process is a fork of the one that writes it")
        self.closed = True
        self._lock.forget()

    def _press(self) -> None:
        """Many rows wait: wake the thread, and give up a disk that has not answered for long."""
        self._wake.set()
        if len(self.buffer) > BUFFER_LIMIT:
            self._fail(f"{len(self.buffer)} entries wait to be written: the disk does not keep up")

    def _fail(self, reason: str) -> None:
        if self.failure is None:
            self.failure = f"{self.path}: the journal cannot be written: {reason}"

    # What follows runs in the writing thread, which alone touches the connection.

    def _write_behind(self) -> None:
        """Write the buffer about every second, or when told to, until closed."""
        closing = False
        while not closing:
            self._wake.wait(FLUSH_SECONDS)
            self._wake.clear()
            closing = self.closed  # read before writing: what was said before the close gets in
            self._write()
            while self.writable and self._thin():
                self._write()  # what came meanwhile, perhaps a decision that waits
        with suppress(sqlite3.Error):
            self._connection.close()
        self._lock.forget()

    def _write(self) -> None:
        """Put the buffer on the disk in one transaction, then tell those who wait, whatever came of it."""
        if not self.buffer:
            return
        tickets: list[threading.Event] = []
        try:
            if self.failure is None:
                self._transact(tickets)
        except Exception as error:  # noqa: BLE001 - no fault of the journal may end this thread or the run
            with suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")
            self._fail(str(error))
        while self.failure is not None and self.buffer:
            statement, row = self.buffer.popleft()
            if statement == TICKET:
                tickets.append(row[0])
        for ticket in tickets:
            ticket.set()

    def _transact(self, tickets: list[threading.Event]) -> None:
        """Insert what is buffered now, numbered in the order in which it was said."""
        if _identity(self.path) != self._identity:  # SQLite itself would go on writing to a deleted file
            raise OSError("the file was replaced while the run went on")
        execute = self._connection.execute
        execute("BEGIN IMMEDIATE")
        for _ in range(len(self.buffer)):
            statement, row = self.buffer.popleft()
            if statement == TICKET:
                tickets.append(row[0])
            elif statement == ATTEMPT:
                execute(_INSERT_ATTEMPT, row)
            else:
                self._seq += 1
                if statement == SAMPLE:
                    *place, signals = row
                    row = (*map(int, place), *pack_signals(signals, self._numbered(signals)))
                    statement = _INSERT_SAMPLE
                execute(statement, (self._seq, *row))
        execute("COMMIT")

    def _numbered(self, signals: Mapping[str, float]) -> Mapping[str, int]:
        """The number of every name; a name that is new to the file gets the next."""
        for name in signals:
            if name not in self._numbers:
                number = len(self._numbers)
                self._connection.execute("INSERT INTO signal VALUES (?,?)", (number, as_text(name)))
                self._numbers[name] = number
        return self._numbers

    def _thin(self) -> bool:
        """Thin the oldest samples for a moment if the journal is too large; whether more is to be done."""
        until = time.monotonic() + THIN_SECONDS
        try:
            while more := self._retention.step():
                if time.monotonic() > until:
                    break
        except sqlite3.Error as error:
            self._fail(str(error))
            return False
        return more


def _forget(reference: weakref.ref[Writer]) -> None:
    writer = reference()
    if writer is not None and not writer.closed:
        writer.forget()


def _identity(path: Path) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino
