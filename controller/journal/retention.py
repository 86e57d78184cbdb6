"""Keeping a journal under its size: the oldest samples are thinned, nothing else is ever removed."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

STRIDE = 4
"""One sample in this many stays. Fewer would leave half-empty pages that SQLite cannot use again."""

_TARGET = 0.75  # of max_bytes: thin that far, so that it happens seldom
_SLICES = 64  # the samples are walked in this many slices, one short transaction each
_NEWEST = 8  # the newest slices are left whole
_FLOOR = 16  # samples in a slice that are kept whatever its age


class Retention:
    """Thins the samples of one journal, oldest first, a slice at a step, until it fits ``max_bytes``.

    Each pass walks from the oldest sample towards the newest and keeps every fourth, so the older
    a sample the sparser its neighbourhood, and the newest eighth stays whole. The freed pages are used
    for what comes next; the file does not grow beyond the cap unless decisions alone fill it.
    ``say`` is called once, when thinning first begins.
    """

    def __init__(self, connection: sqlite3.Connection, max_bytes: int, say: Callable[[], None]) -> None:
        self._connection = connection
        self._max_bytes = max_bytes
        self._say: Callable[[], None] | None = say
        self._slices: list[tuple[int, int]] = []  # what this pass has still to walk, newest first
        self._start_above = max_bytes

    def step(self) -> bool:
        """Thin at most one slice; whether more is to be done."""
        used = self._used_bytes()
        if not self._slices and used > self._start_above:
            self._slices = self._plan()
        elif not self._slices:
            return False
        if used <= _TARGET * self._max_bytes:
            self._slices.clear()
        if self._slices:
            self._thin(*self._slices.pop())
        if not self._slices:  # enough was gained, or there is no more to gain before it grows again
            self._start_above = max(self._max_bytes, self._used_bytes() + self._max_bytes // 16)
        if self._say is not None:
            self._say()
            self._say = None
        return bool(self._slices)

    def _used_bytes(self) -> int:
        pages, free, size = (
            self._connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_count", "freelist_count", "page_size")
        )
        return int((pages - free) * size)

    def _plan(self) -> list[tuple[int, int]]:
        first, last = self._connection.execute(
            "SELECT coalesce(min(seq), 0), coalesce(max(seq), 0) FROM sample"
        ).fetchone()
        width = max(1, (last - first) // _SLICES)
        starts = [first + i * width for i in range(_SLICES - _NEWEST)]
        return [(start, start + width) for start in reversed(starts)]

    def _thin(self, start: int, stop: int) -> None:
        """Keep every fourth sample of ``start <= seq < stop``, but no fewer than a few."""
        self._connection.execute(
            "DELETE FROM sample WHERE seq IN (SELECT seq FROM ("
            " SELECT seq, row_number() OVER (ORDER BY seq) AS nth, count(*) OVER () AS many"
            " FROM sample WHERE seq >= ? AND seq < ?) WHERE many > ? AND nth % ? <> 1)",
            (start, stop, _FLOOR, STRIDE),
        )
