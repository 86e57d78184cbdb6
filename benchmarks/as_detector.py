"""The forecast as a detector: what its alarm says of runs that went well, and of some that did not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import curves
import numpy as np
import runs
from curves import Floats

from midcourse.monitors.forecast import ForecastMonitor
from midcourse.monitors.types import Sample

SHIFT = 0.05
"""A fault made up: from the middle of a healthy run on, its loss is higher by this share of itself."""


@dataclass
class Watched:
    """What the alarm said of the runs of one family."""

    samples: int = 0
    runs: int = 0
    episodes: int = 0
    faults: int = 0
    delays: list[int] = field(default_factory=list)

    def watch(
        self, monitor: ForecastMonitor, samples: Sequence[Sample], onset: int | None, until: int
    ) -> None:
        """Count episodes before an onset (the index of a sample) as false, the first after it as found."""
        self.runs += 1
        self.faults += onset is not None
        bad = found = False
        for index, sample in enumerate(samples[:until]):
            reading = monitor.update(sample)
            if reading.bad and not bad:
                if onset is None or index < onset:
                    self.episodes += 1
                elif not found:
                    found = True
                    self.delays.append(index - onset)
            bad = reading.bad
        self.samples += min(until, len(samples)) if onset is None else onset


def as_detector(traces: Path | None, seed: int) -> list[dict[str, Any]]:
    """False alarms in 100 000 samples, faults found and the median delay in samples, by family of runs."""
    families: dict[str, Watched] = {}

    def watch(
        family: str, losses: Floats, steps: Floats, onset: int | None, until: int, **known: Any
    ) -> None:
        rates = known.pop("rates", None)
        monitor = ForecastMonitor("loss", horizon=max(100, int(steps[-1])), stale_after=10**9, **known)
        samples = [
            Sample(int(step), int(step), 0, {"loss": loss} | ({} if rates is None else {"lr": rates[index]}))
            for index, (step, loss) in enumerate(zip(steps, losses.tolist(), strict=True))
        ]
        families.setdefault(family, Watched()).watch(monitor, samples, onset, until)

    for family, losses, onset, until in _losses(traces, seed):
        steps = np.arange(1.0, len(losses) + 1)
        watch(f"{family}, no schedule", losses, steps, onset, until)
        if family.startswith("healthy") or family == "synthetic":
            half = len(losses) // 2
            shifted = losses * (1 + SHIFT * (np.arange(len(losses)) >= half))
            watch(f"{family} + {100 * SHIFT:g} %, no schedule", shifted, steps, half, len(losses))
    for run in curves.recorded(traces) if traces else ():
        if run.rates is not None:
            schedule = np.stack([run.steps / run.horizon, run.rates], axis=1)
            schedule = schedule[np.unique(schedule[:, 0], return_index=True)[1]].tolist()
            known = {"schedule": schedule, "rates": run.rates}
            watch(f"{run.source}, schedule", run.values, run.steps, None, len(run.values), **known)
            half = len(run.values) // 2
            shifted = run.values * (1 + SHIFT * (np.arange(len(run.values)) >= half))
            name = f"{run.source} + {100 * SHIFT:g} %, schedule"
            watch(name, shifted, run.steps, half, len(run.values), **known)
    return [
        {
            "family": family,
            "runs": of.runs,
            "samples": of.samples,
            "false_alarms": of.episodes,
            "per_100k": round(1e5 * of.episodes / max(1, of.samples), 2),
            "found": f"{len(of.delays)} of {of.faults}" if of.faults else "",
            "delay": median(of.delays) if of.delays else None,
        }
        for family, of in families.items()
    ]


def _losses(traces: Path | None, seed: int) -> Iterator[tuple[str, Floats, int | None, int]]:
    """Training losses, the index at which their fault began, and how many samples matter."""
    for run in [*(runs.recorded(traces) if traces else ()), *runs.synthetic(40_000, 10_000, seed)]:
        if run.family in ("healthy_nanogpt", "healthy_tiny", "synthetic") or run.family.startswith("tiny "):
            losses = np.array([np.nan if loss is None else loss for loss in run.signals["loss"]])
            family = "tiny faults" if run.family.startswith("tiny ") else run.family
            yield family, losses, run.onset, run.until()
