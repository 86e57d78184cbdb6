"""A copy of a journal as it stood when a tick was over: how the journal of a fork begins."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from .connect import scalar
from .reader import JournalReader
from .tables import SAMPLE, TABLES


def copy_until(reader: JournalReader, file: Path, attempt: int, tick: int) -> None:
    """Copy a journal up to the end of a tick of one of its attempts, as if that process had died there.

    Args:
        reader: Of the journal, which stays as it is.
        file: Where the copy goes; there is nothing yet.
        attempt: The last attempt that is copied; later ones are left out.
        tick: The last tick of it. What was said after the first word about a later tick is left out.
    """
    names = [SAMPLE, *(table.name for table in TABLES)]
    with closing(sqlite3.connect(file, isolation_level=None)) as copy:
        reader.backup(copy)
        copy.execute("BEGIN")
        ends = [
            scalar(
                copy,
                f"SELECT min(seq) FROM {name} WHERE attempt > {attempt:d} "
                f"OR (attempt = {attempt:d} AND tick > {tick:d})",
            )
            for name in names
        ]
        first = min((end for end in ends if end is not None), default=None)
        if first is not None:
            for name in names:
                copy.execute(f"DELETE FROM {name} WHERE seq >= {first:d}")
        copy.execute(f"DELETE FROM attempt WHERE number > {attempt:d}")
        copy.execute("COMMIT")
