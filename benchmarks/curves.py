"""Finished runs for the benchmark of forecasts: recorded ones, and some made up."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

SOURCES = ("forecast_nanogpt", "healthy_nanogpt", "healthy_algoperf")
BLOCKS = 100  # that a training loss is thinned to
LEAST = 12  # values of a run that says anything


@dataclass(frozen=True)
class Run:
    """A finished run: steps, values and lr / peak (None: not logged), ``[n]`` each."""

    source: str
    group: str
    steps: Floats
    values: Floats
    rates: Floats | None

    @property
    def horizon(self) -> float:
        """Its length in steps."""
        return float(self.steps[-1])

    @property
    def final(self) -> float:
        """What was to be forecast."""
        return float(self.values[-1])

    def seen(self, share: float) -> int:
        """How many of its values lie within this share of it."""
        return int(np.searchsorted(self.steps, share * self.horizon, side="right"))

    def schedule(self, steps: Floats) -> Floats:
        """lr / peak at any steps."""
        assert self.rates is not None
        return np.interp(steps, self.steps, self.rates)


def recorded(folder: Path) -> list[Run]:
    """All runs that a folder holds.

    Raises:
        FileNotFoundError: it holds none.
    """
    runs: list[Run] = []
    for name in SOURCES:
        if not (folder / f"{name}.npz").is_file():
            continue
        facts = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        with np.load(folder / f"{name}.npz") as arrays:
            for fact in facts:
                array = np.atleast_2d(np.asarray(arrays[fact["id"]], dtype=float))
                group = fact.get("group") or _group(fact["path"])
                runs += _curves(name, group, array) if len(array) == 3 else [_thinned(name, group, array[0])]
    runs = [run for run in runs if len(run.steps) >= LEAST and np.isfinite(run.values).all()]
    if not runs:
        raise FileNotFoundError(f"{folder} holds none of {', '.join(f'{name}.npz' for name in SOURCES)}")
    return runs


def _group(path: str) -> str:
    """The folder of what was trained: that of the file, less the number of the trial."""
    folder = Path(path).parent
    return (folder.parent if folder.name.startswith("trial") else folder).name


def _curves(source: str, group: str, array: Floats) -> list[Run]:
    """Steps that start again begin another run."""
    starts = np.flatnonzero(np.diff(array[0]) <= 0) + 1
    return [Run(source, group, *part) for part in np.split(array, starts, axis=1)]


def _thinned(source: str, group: str, values: Floats) -> Run:
    """Means of blocks; the last one is the final value."""
    values = values[np.isfinite(values)]
    edges = np.linspace(0, len(values), min(BLOCKS, len(values)) + 1).astype(int)
    means = np.add.reduceat(values, edges[:-1]) / np.diff(edges)
    return Run(source, group, (edges[1:] + edges[:-1]) / 2, means, None)


def synthetic(seed: int, groups: int = 6, runs: int = 3) -> list[Run]:
    """Runs on a linear decay whose constants differ from group to group, with noise."""
    random = np.random.default_rng(seed)
    made = []
    for group in range(groups):
        alpha, a, kappa = random.uniform(0.3, 0.8), random.uniform(2.0, 6.0), random.uniform(0.1, 0.25)
        for _ in range(runs):
            steps = np.arange(1.0, 41.0) * 100
            rates = np.minimum(1.0, (4000 - steps) / 2000)
            s1 = np.cumsum(rates)
            values = 2.5 + a * s1**-alpha + kappa * rates + random.normal(0, 0.005, len(steps))
            made.append(Run("synthetic", f"group {group}", steps, values, rates))
    return made
