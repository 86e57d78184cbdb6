"""What finished runs of the same kind tell, read from their journals for the monitors that compare."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..monitors.forecasting.history import MOST
from ..monitors.plan import FinishedRun
from ..monitors.registry import make_monitor
from ..monitors.types import MonitorSpec
from ..policies.names import matches
from .journal.place import JournalError
from .journal.reader import JournalReader

FEWEST = 12
"""Measurements of a signal that are a curve."""

Floats = NDArray[np.float64]


def finished_runs(specs: Sequence[MonitorSpec]) -> tuple[tuple[FinishedRun, ...], list[str]]:
    """What the ``references`` of a policy's monitors tell, and why some of them tell nothing.

    A reference is the folder of a run (or its journal); one that is not absolute counts from the working
    directory, as ``run_dir`` does.
    """
    wanted: dict[str, dict[tuple[str, str], None]] = {}  # ordered, and each once
    for spec in specs:
        for run in spec.params.get("references", ()):
            _, lr = make_monitor(spec, "any").signals
            wanted.setdefault(run, {})[spec.params["signal"], lr] = None
    found: list[FinishedRun] = []
    faults: list[str] = []
    for run, signals in wanted.items():
        try:
            found += _read(run, list(signals))
        except Exception as error:  # noqa: BLE001 - a journal may hold anything; the run at hand goes on
            faults.append(f"reference {run} is left out: {error}")
    return tuple(found), faults


def _read(run: str, wanted: Sequence[tuple[str, str]]) -> Iterator[FinishedRun]:
    """Raises JournalError if there is nothing to be learnt from the run."""
    with JournalReader(Path(run)) as journal:
        if journal.running:
            raise JournalError("it is still going on")
        known = journal.signals()
        pairs = [(name, lr) for pattern, lr in wanted for name in known if matches(name, pattern)]
        missing = [pattern for pattern, _ in wanted if not any(matches(name, pattern) for name in known)]
        missing += sorted({lr for _, lr in wanted} - set(known))
        if missing:
            raise JournalError(f"it has no signal {', '.join(missing)}")
        names = list(dict.fromkeys(name for pair in pairs for name in pair))
        told, columns = journal.columns(names)
        planned = [event.detail["horizon"] for event in journal.events() if event.kind == "plan"]
    steps = np.array(told)
    kept = _on_course(steps)
    length = int(steps[kept][-1]) if kept.any() else 0
    if planned and planned[-1] is not None and length < planned[-1]:
        raise JournalError(f"it ended after {length} of {planned[-1]} steps")
    values = {name: np.array(column)[kept] for name, column in zip(names, columns, strict=True)}
    for name, lr in pairs:
        yield _thinned(run, name, lr, length, steps[kept], values[name], values[lr])


def _on_course(steps: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which samples lead to the end: those that were not made again later, nor on a course that was left."""
    later = np.minimum.accumulate(np.append(steps, np.iinfo(np.int64).max)[::-1])[::-1][1:]
    return np.asarray(steps < later)


def _thinned(
    run: str, name: str, lr: str, length: int, steps: Floats, values: Floats, rates: Floats
) -> FinishedRun:
    """Means of blocks of equally many measurements."""
    measured = np.isfinite(values)
    if measured.sum() < FEWEST:
        raise JournalError(f"{name} was measured {measured.sum()} times only")
    known = np.isfinite(rates)
    if not known.any():
        raise JournalError(f"{lr} was never measured")
    filled = np.interp(steps, steps[known], rates[known])
    count = int(measured.sum())
    edges = np.linspace(0, count, min(MOST, count) + 1).astype(int)
    blocks = [
        tuple((np.add.reduceat(column[measured], edges[:-1]) / np.diff(edges)).tolist())
        for column in (steps, values, filled)
    ]
    return FinishedRun(run, name, lr, length, *blocks)
