"""The losses that ``excess_loss`` compares with, read from a file or from the journal of a finished run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from math import isfinite
from pathlib import Path

from ..policies.names import matches
from ..policies.policy import RegulatorSpec
from .journal.place import JournalError
from .journal.reader import JournalReader

LAST = 0.1
"""Share of a finished run, at its end, over which a loss is averaged."""


def with_references(
    specs: Sequence[RegulatorSpec],
) -> tuple[tuple[RegulatorSpec, ...], dict[str, str]]:
    """The same regulators with numbers in place of paths; and why that cannot be, by name.

    A path that is not absolute counts from the working directory, as ``run_dir`` does.
    """
    found: list[RegulatorSpec] = []
    refused: dict[str, str] = {}
    for spec in specs:
        path = spec.params.get("reference")
        if isinstance(path, str):
            try:
                losses = _losses(Path(path), spec.signal)
                spec = replace(spec, params={**spec.params, "reference": losses})
            except (OSError, ValueError, JournalError) as error:
                refused[spec.name] = f"its reference {path} cannot be read: {error}"
        found.append(spec)
    return tuple(found), refused


def _losses(path: Path, signal: str) -> dict[str, float]:
    """Raises ValueError, OSError or JournalError."""
    if path.suffix != ".json":
        return _final(path, signal)
    losses = json.loads(path.read_text("utf-8"))
    numbers = losses.values() if isinstance(losses, dict) else ("no mapping",)
    if not all(isinstance(loss, int | float) and isfinite(loss) for loss in numbers):
        raise ValueError("it does not hold a number for each source")
    return {name: float(loss) for name, loss in losses.items()}


def _final(path: Path, signal: str) -> dict[str, float]:
    """The mean of each source's last measurements in a run's journal."""
    before, _, after = signal.partition("*")
    with JournalReader(path) as journal:
        if journal.running:
            raise JournalError("it is still going on")
        names = [name for name in journal.signals() if matches(name, signal)]
        _, columns = journal.columns(names)
    losses = {}
    for name, column in zip(names, columns, strict=True):
        last = [value for value in column if isfinite(value)]
        last = last[-max(1, round(LAST * len(last))) :]
        if last:
            losses[name[len(before) : len(name) - len(after)]] = sum(last) / len(last)
    if not losses:
        raise JournalError(f"it has no signal {signal}")
    return losses
