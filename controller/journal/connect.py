"""Opening the SQLite file of a journal: its mode, its tables, and what it refuses."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .place import JournalError, network_file_system
from .tables import APPLICATION_ID, SCHEMA, SCHEMA_VERSION, UPGRADES

BUSY_SECONDS = 5.0


def connect(file: Path, mounts: Path) -> tuple[sqlite3.Connection, tuple[str, ...]]:
    """A connection to the journal at ``file``, made if missing, and what the user should know of its place.

    A network file system gets a rollback journal instead of the write-ahead log. Every commit is synced.
    """
    network = network_file_system(file, mounts)
    connection = sqlite3.connect(
        file, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False, cached_statements=32
    )
    try:
        check_schema(connection, file, empty_is_fine=True)
        wanted = "truncate" if network else "wal"
        mode = str(scalar(connection, f"PRAGMA journal_mode={wanted}"))
        connection.execute("PRAGMA synchronous=FULL")
        if (version := int(scalar(connection, "PRAGMA user_version"))) < SCHEMA_VERSION:
            connection.execute("BEGIN IMMEDIATE")
            for statement in _statements(version):
                connection.execute(statement)
            connection.execute("COMMIT")
    except BaseException:
        connection.close()
        raise
    warnings: tuple[str, ...] = ()
    if network or mode != wanted:
        why = f"is on a network file system ({network})" if network else "cannot have a write-ahead log"
        warnings = (f"{file} {why}: it is kept in rollback mode, which is safe but slower to write",)
    return connection, warnings


def _statements(version: int) -> Iterator[str]:
    """What makes a journal of a new file (version 0), or of an older journal one of this version."""
    if version == 0:
        yield from SCHEMA
        return
    for older in range(version, SCHEMA_VERSION):
        yield from UPGRADES[older]
    yield f"PRAGMA user_version = {SCHEMA_VERSION}"


def check_schema(connection: sqlite3.Connection, file: Path, *, empty_is_fine: bool = False) -> None:
    """Raise JournalError unless ``connection`` is to a journal that this version can read."""
    application = scalar(connection, "PRAGMA application_id")
    version = scalar(connection, "PRAGMA user_version")
    if application == APPLICATION_ID:
        if version > SCHEMA_VERSION:
            raise JournalError(
                f"{file}: written by a newer Midcourse (schema {version}, this one reads {SCHEMA_VERSION})"
            )
    elif not empty_is_fine or scalar(connection, "SELECT count(*) FROM sqlite_schema"):
        raise JournalError(f"{file}: not a journal of Midcourse")


def scalar(connection: sqlite3.Connection, query: str) -> Any:
    """The first column of the first row, None without one."""
    row = connection.execute(query).fetchone()
    return row[0] if row else None


def newest(connection: sqlite3.Connection, table: str, column: str = "seq") -> int:
    """The greatest number that ``table`` has, 0 while it is empty."""
    return int(scalar(connection, f"SELECT coalesce(max({column}), 0) FROM {table}"))
