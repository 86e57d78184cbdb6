"""The rows of a log as text, with their line numbers: CSV in its dialects, or one JSON object a line."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from .recording import RecordingError

_DELIMITERS = (",", "\t", ";")


@dataclass(frozen=True, slots=True)
class Rows:
    """A table: the names of its columns, and line and cells of each row."""

    header: Sequence[str]
    rows: Iterator[tuple[int, Sequence[str]]]


def read_rows(path: Path, *, short: bool = False) -> Rows:
    """Open a log. A row whose cells do not match the header, or broken quotes, is raised as it is reached.

    Args:
        path: the file.
        short: whether a row may lack its last cells: they are empty then. In a log it was cut off.

    Raises:
        RecordingError: it cannot be read, is not text, or has no header.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise RecordingError([f"{path}: cannot be read: {(error.strerror or str(error)).lower()}"]) from None
    except UnicodeDecodeError:
        raise RecordingError([f"{path}: is neither a run folder, a journal nor text"]) from None
    if text.lstrip().startswith("{"):
        return _json_lines(text, path)
    first = text.partition("\n")[0]
    reader = csv.reader(
        StringIO(text, newline=""), delimiter=max(_DELIMITERS, key=first.count), skipinitialspace=True
    )
    rows = _numbered(reader, path)
    header = [name.strip() for name in next(rows, (1, []))[1]]
    if not any(header):
        raise RecordingError([f"{path}:1: there is no header with the names of columns"])
    return Rows(header, _complete(rows, len(header), path, short))


def _numbered(reader: Iterator[list[str]], path: Path) -> Iterator[tuple[int, Sequence[str]]]:
    line = 0
    try:
        for row in reader:
            line = reader.line_num  # type: ignore[attr-defined]
            if row:
                yield line, row
    except csv.Error as error:
        raise RecordingError([f"{path}:{line + 1}: {error}"]) from None


def _complete(
    rows: Iterator[tuple[int, Sequence[str]]], columns: int, path: Path, short: bool
) -> Iterator[tuple[int, Sequence[str]]]:
    for line, row in rows:
        cells = [*row, *[""] * (columns - len(row))] if short else row
        if len(cells) != columns:
            raise RecordingError([f"{path}:{line}: {len(row)} cells, but the header has {columns}"])
        yield line, cells


def _json_lines(text: str, path: Path) -> Rows:
    """The keys of all objects are the columns; a key that one lacks is an empty cell."""
    objects = []
    for line, part in enumerate(text.split("\n"), start=1):
        if not part.strip():
            continue
        try:
            value = json.loads(part)
        except (ValueError, RecursionError) as error:
            raise RecordingError([f"{path}:{line}: is not JSON: {error}"]) from None
        if not isinstance(value, dict):
            raise RecordingError([f"{path}:{line}: each line must be one JSON object"])
        objects.append((line, value))
    header = list(dict.fromkeys(name for _, value in objects for name in value))
    return Rows(header, ((line, [_cell(value.get(name)) for name in header]) for line, value in objects))


def _cell(value: object) -> str:
    return "" if value is None else value if isinstance(value, str) else json.dumps(value)
