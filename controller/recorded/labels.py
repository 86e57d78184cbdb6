"""What is known of runs: where a fault began and ended, or that there was none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...policies.document import Fault, Node, PolicyError, read_document, read_text
from ...policies.names import nearest
from ..journal.place import JOURNAL_FILE
from .recording import RecordingError
from .tables import read_rows

HEALTHY = "healthy"
COLUMNS = ("run", "onset", "end")


@dataclass(frozen=True, slots=True)
class Label:
    """The training step at which a fault began (None: the run is healthy) and the last that it lasted.

    Without an ``end`` it lasted until the run's.
    """

    onset: int | None = None
    end: int | None = None


def read_labels(path: Path, runs: Sequence[str]) -> dict[str, Label]:
    """The labels of these runs, by the names in which they were given; a run without one is left out.

    A CSV file has the columns ``run``, ``onset`` and, optionally, ``end``; a YAML file a mapping from runs
    to an onset, to ``healthy``, or to ``{onset: ..., end: ...}``. A run may be named by its path, its file
    or folder, or that without its ending.

    Raises:
        RecordingError: with all mistakes of the file.
    """
    problems: list[str] = []
    rows = _from_yaml(path, problems) if path.suffix in (".yaml", ".yml") else _from_csv(path, problems)
    known: dict[str, Label] = {}
    for place, run, onset, end in rows:
        label = _label(place, run, onset, end, problems)
        if run in known:
            problems.append(f"{place}: run '{run}' is here twice")
        known[run] = label
    matched: dict[str, Label] = {}
    owners: dict[str, str] = {}
    for run in runs:
        name = next((name for name in _names_of(run) if name in known), None)
        if name is not None:
            matched[run] = known[name]
            if owners.setdefault(name, run) != run:
                problems.append(f"{path}: run '{name}' may be {owners[name]} or {run}: write its path")
    if known and not matched and not problems:
        first = next(iter(known))
        problems.append(f"{path}: none of its runs was given: '{first}'{nearest(first, runs)}")
    if problems:
        raise RecordingError(problems)
    return matched


def _names_of(run: str) -> tuple[str, ...]:
    """All that a run may be called, the surest first."""
    path = Path(run).resolve()
    path = path.parent if path.name == JOURNAL_FILE else path
    return run, run.rstrip("/"), path.name, path.stem


def _label(place: str, run: str, onset: str, end: str, problems: list[str]) -> Label:
    if not run:
        problems.append(f"{place}: names no run")
    if onset.casefold() in ("", HEALTHY):
        if end:
            problems.append(f"{place}: run '{run}' has an end but no onset")
        return Label()
    steps = []
    for name, text in (("onset", onset), ("end", end)):
        if text and not (text.isascii() and text.isdigit() and len(text) < 16):
            problems.append(f"{place}: {name} must be a step, a whole number, or {HEALTHY}, got '{text}'")
        steps.append(int(text) if text.isascii() and text.isdigit() and len(text) < 16 else None)
    first, last = steps
    if first is not None and last is not None and last < first:
        problems.append(f"{place}: the end, {last}, comes before the onset, {first}")
    return Label(first, last)


Row = tuple[str, str, str, str]  # place, run, onset, end


def _from_csv(path: Path, problems: list[str]) -> Iterable[Row]:
    table = read_rows(path, short=True)
    for name in table.header:
        if name not in COLUMNS:
            problems.append(f"{path}:1: there is no column '{name}'{nearest(name, COLUMNS)}")
    if "run" not in table.header:
        problems.append(f"{path}:1: the column 'run' is missing")
    if problems:
        return
    for line, cells in table.rows:
        row = dict(zip(table.header, map(str.strip, cells), strict=True))
        yield f"{path}:{line}", row["run"], row.get("onset", ""), row.get("end", "")


def _from_yaml(path: Path, problems: list[str]) -> Iterable[Row]:
    faults: list[Fault] = []
    try:
        tree = read_document(read_text(path), faults)
    except PolicyError as error:
        raise RecordingError(map(str, error.problems)) from None
    problems += [f"{path}:{fault.place.line}:{fault.place.column}: {fault.message}" for fault in faults]
    if tree is None:
        return
    if tree.entries is None:
        line, column, _ = tree.place
        problems.append(f"{path}:{line}:{column}: labels must be a mapping from runs, got {tree}")
        return
    for run, (place, node) in tree.entries.items():
        where = f"{path}:{place.line}"
        inner: Mapping[str, Node] = {"onset": node}
        if node.entries is not None:
            inner = {key: entry.node for key, entry in node.entries.items()}
            problems += [
                f"{where}: run '{run}' has no key '{key}'{nearest(key, COLUMNS[1:])}"
                for key in inner
                if key not in COLUMNS[1:]
            ]
        yield where, run, _text(inner.get("onset")), _text(inner.get("end"))


def _text(node: Node | None) -> str:
    return "" if node is None or node.value is None else str(node) if node.items else node.text
