"""What the commands print: tables for people, and strict JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import Enum
from math import isfinite
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

FILE_WIDTH = 160  # of tables that go to a file or a pipe


def plain_console() -> Console:
    """Where tables go: as wide as the terminal, and no guessing at what a text may mean."""
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = FILE_WIDTH
    return console


def new_table(*columns: str, whole: tuple[str, ...] = ("step", "decision")) -> Table:
    """An empty table; the columns named in ``whole`` are never broken."""
    made = Table(box=SIMPLE, pad_edge=False)
    for column in columns:
        made.add_column(column, overflow="fold", no_wrap=column in whole)
    return made


def add_row(to: Table, *cells: str) -> None:
    """Add a row of plain text: an instance in brackets is no markup."""
    to.add_row(*map(Text, cells))


def words(state: Enum) -> str:
    """A state as people read it."""
    return str(state.value).replace("_", " ")


def dumps(value: Any) -> str:
    """``value`` as strict JSON: enums by value, what is not finite as null."""
    return json.dumps(_strict(value), allow_nan=False)


def _strict(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, float):
        return value if isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(item) for item in value]
    return value
