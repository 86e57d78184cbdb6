"""Runs to watch: recorded ones from a folder, and seeded synthetic ones; none of them touches a detector."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Array = Any

MEASURED_EVERY = 10
"""Steps between the measured values of the recorded norms; in between, the last one is only repeated."""

RAMP = 400
START = 1500  # healthy steps before a synthetic fault
AFTER = 600
RAMP_NOISES = (0.025, 0.05, 0.1)
SHIFT, SHIFT_NOISE = 0.3, 0.1
SLOW_NOISES = 2  # to which a slow ramp rises


@dataclass(frozen=True, slots=True)
class Run:
    """One run: its signals a sample, None where one was not measured.

    ``family`` is what its figures are put together under. ``onset`` is the sample at which a fault began;
    the alarms of ``grace`` samples before it are its own too, and those until ``within`` samples after it.
    ``ticks`` lie between two samples.
    """

    family: str
    name: str
    signals: dict[str, list[float | None]]
    ticks: int = 1
    onset: int | None = None
    grace: int = 0
    within: int = 0

    def __len__(self) -> int:
        return len(self.signals["loss"])

    def until(self) -> int:
        """How many of its samples matter: what comes long after a fault is nobody's business."""
        return len(self) if self.onset is None else min(len(self), self.onset + self.within + 1)


def recorded(folder: Path) -> Iterator[Run]:
    """Every run of the files that the folder holds, whatever is missing."""
    for name in ("healthy_nanogpt", "healthy_algoperf", "divergences_algoperf"):
        if not (folder / f"{name}.npz").is_file():
            continue
        with np.load(folder / f"{name}.npz") as arrays:
            for fact in json.loads((folder / f"{name}.json").read_text(encoding="utf-8")):
                rows = np.atleast_2d(arrays[fact["id"]]).astype(float)
                signals = dict(zip(("loss", "grad_norm"), rows.tolist(), strict=False))
                onset = fact.get("onset")
                # Its onset was dated by a median of 20 samples.
                yield Run(name, fact["id"], signals, fact["stride"], onset, grace=20, within=50)
    for path in sorted((folder / "tiny").glob("*.npz")):
        yield _tiny(path)


def _tiny(path: Path) -> Run:
    with np.load(path) as arrays:
        meta = json.loads(str(arrays["meta"]))
        kept = {name: arrays[name].astype(float) for name in arrays.files if name not in ("meta", "val")}
    signals: dict[str, list[float | None]] = {
        name: kept[name].tolist() for name in ("loss", "grad_norm", "lr")
    }
    for ours, theirs in (("param_norm", "pnorm"), ("update_ratio", "upd_ratio")):
        signals[ours] = [v if i % MEASURED_EVERY == 0 else None for i, v in enumerate(kept[theirs].tolist())]
    for name in sorted(name for name in kept if name.startswith("loss_g")):
        values = kept[name].tolist()
        signals[f"loss/source={name[-1]}"] = [None if value != value else value for value in values]
    fault = meta["fault"]
    if fault is None:
        return Run("healthy_tiny", path.stem, signals)
    name = path.stem.removeprefix("fault_").rpartition("_s")[0]
    return Run(f"tiny {name}", path.stem, signals, onset=fault["at"], within=RAMP)


def synthetic(steps: int, length: int, seed: int) -> Iterator[Run]:
    """Healthy losses, ``steps`` in all: power laws, and as many that a cosine schedule takes down further."""
    for number in range(max(2, steps // length)):
        rng = np.random.default_rng([seed, number])
        cosine = number % 2 == 1
        noise = (0.03, 0.1)[number // 2 % 2]
        time = np.arange(length)
        loss = 2 + 8 * (time + 20.0) ** -0.4
        if cosine:
            loss -= 0.4 * (1 - np.cos(np.pi * time / length)) / 2
        loss += noise * noises(rng, length)
        yield Run("synthetic", f"{'cosine' if cosine else 'power law'} {number}", {"loss": loss.tolist()})


def faulty(seeds: int, seed: int) -> Iterator[Run]:
    """Ramps of ``RAMP`` steps to twice the loss, by noise, a slow one, and a shift; at a level of about 2."""
    for number in range(seeds):
        time = np.arange(START + AFTER)
        healthy = 2 + 4 * (time + 20.0) ** -0.5
        share = np.clip((time - START + 1) / RAMP, 0, 1)
        for index, noise in enumerate(RAMP_NOISES):
            rng = np.random.default_rng([seed, 1000 + number, index])
            loss = healthy * (1 + share + noise * noises(rng, len(time)))
            yield Run(f"ramp {100 * noise:g} %", str(number), {"loss": loss.tolist()}, 1, START, 0, AFTER)
        rng = np.random.default_rng([seed, 1000 + number, 98])
        loss = healthy + SHIFT_NOISE * (SLOW_NOISES * share + noises(rng, len(time)))
        name = f"ramp {SLOW_NOISES} sigma"
        yield Run(name, str(number), {"loss": loss.tolist()}, 1, START, 0, AFTER)
        rng = np.random.default_rng([seed, 1000 + number, 99])
        loss = healthy + SHIFT * (time >= START) + SHIFT_NOISE * noises(rng, len(time))
        yield Run(f"shift {SHIFT}", str(number), {"loss": loss.tolist()}, 1, START, 0, AFTER)


def noises(rng: np.random.Generator, length: int) -> Array:
    """Student-t of 8 degrees of freedom, autocorrelation 0.2, unit variance."""
    return autoregressive(rng.standard_t(8, length) * np.sqrt(6 / 8) * np.sqrt(1 - 0.2**2), 0.2)


def autoregressive(own: Array, first: float, second: float = 0.0) -> Array:
    """Noise each value of which keeps a share of the ``first`` and of the ``second`` value before it."""
    made = np.empty(len(own))
    last = before = 0.0
    for index, value in enumerate(own):
        last, before = first * last + second * before + value, last
        made[index] = last
    return made
