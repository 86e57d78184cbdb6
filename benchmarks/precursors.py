"""What announces a blow-up before the loss shows it, and by how many steps? Norms against the loss.

::

    python benchmarks/precursors.py                           real training runs, a table
    python benchmarks/precursors.py --traces DIR --json [OUT] recorded ones too, for programs

``blowups.py`` trains the demo's transformer, with faults of the kind that ends in a blow-up and without. The
signals are those of the controller, from its own functions. A folder of recorded runs holds ``tiny/*.npz``.

What is counted:

- The **lead** of a precursor is (first alarm of any monitor of the loss) - (its own first alarm), in steps,
  of the alarms that begin with the fault or later: above 0 it came first. One that stays silent where the
  loss alarms has come last of all ("never"). Median, and 10th and 90th percentile, over the seeds.
- **First** are the runs in which it came first, of those in which the loss alarmed. **Alone** are those in
  which it alarmed and the loss did not.
- **False alarms** are all that begin in healthy runs, in 100 000 of their steps: what alarms at any time also
  comes early.

Norms are taken at every step, and at every tenth: what they cost allows no more in a real run. The gradient
norm is there at every step in any case.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain
from math import inf, isfinite
from pathlib import Path
from typing import Any

import numpy as np
import torch
from blowups import SCHEDULES, Lengths, constant_runs, scheduled_run
from common import add_json_argument, columns, give, machine
from runs import MEASURED_EVERY, Run, recorded
from watches import ALONE, Monitors

from midcourse.monitors.types import MonitorSpec, Sample

NORMS = frozenset({"update_ratio", "param_norm", "moment_lag"})
CADENCES = (1, MEASURED_EVERY)
LOSS = ("divergence loss", "sustained_rise loss")
PRECURSORS = {
    "shift grad_norm": ALONE["shift grad_norm"],
    "sustained_rise update_ratio": ALONE["sustained_rise update_ratio"],
    "jump update_ratio": ALONE["jump update_ratio"],
    "jump param_norm": ALONE["jump param_norm"],
    "sustained_rise moment_lag": MonitorSpec("it", "sustained_rise", {"signal": "moment_lag"}),
}


@dataclass(frozen=True, slots=True)
class Report:
    """One run as all monitors saw it: the steps at which their alarms began, by name and cadence."""

    family: str
    steps: int
    onset: int | None
    began: Mapping[tuple[str, int], Sequence[int]]

    def first(self, name: str, every: int) -> float:
        """Step of the first alarm that began with the fault or after it; infinite if there was none."""
        assert self.onset is not None
        return min((step for step in self.began[name, every] if step >= self.onset), default=inf)

    def loss(self) -> float:
        """The same of any monitor of the loss."""
        return min(self.first(name, 1) for name in LOSS)


def watch(run: Run, cadences: Sequence[int] = CADENCES) -> Report:
    """Let every monitor watch one run, whose norms are taken at each of these cadences."""
    specs = [(name, ALONE[name], 1) for name in LOSS]
    specs += [(name, spec, every) for name, spec in PRECURSORS.items() for every in cadences]
    watching = {
        (name, every): Monitors(spec) for name, spec, every in specs if spec.params["signal"] in run.signals
    }
    began: dict[tuple[str, int], list[int]] = {key: [] for key in watching}
    for step in range(run.until()):
        taken = {name: value for name, values in run.signals.items() if (value := values[step]) is not None}
        seldom = {name: value for name, value in taken.items() if name not in NORMS}
        for key, monitors in watching.items():
            due = step % key[1] == 0
            if monitors.update(Sample(step, step, 0, taken if due else seldom)):
                began[key].append(step)
    return Report(run.family, run.until(), run.onset, began)


def trained(make: Callable[[], Iterator[Run]]) -> list[Report]:
    """Train and watch, in a process of its own."""
    torch.set_num_threads(1)
    return [watch(run) for run in make()]


def everything(seeds: int, seed: int, lengths: Lengths, traces: Path | None, workers: int) -> list[Report]:
    """All runs, watched."""
    tasks: list[Callable[[], Iterator[Run]]] = []
    for number in range(seed, seed + seeds):
        tasks += [partial(constant_runs, number, clip, lengths) for clip in (True, False)]
        tasks += [partial(scheduled_run, number, schedule, lengths) for schedule in SCHEDULES]
    with ProcessPoolExecutor(workers) as pool:
        reports = list(chain.from_iterable(pool.map(trained, tasks)))
    runs = recorded(traces) if traces else ()
    return reports + [watch(run, (MEASURED_EVERY,)) for run in runs if "tiny" in run.family]


def leads(reports: Sequence[Report], name: str, every: int) -> dict[str, Any] | None:
    """How far a precursor was ahead in the runs of one fault; None if none of them has its signal."""
    seen = [report for report in reports if (name, every) in report.began]
    if not seen:
        return None
    told = [(report.loss(), report.first(name, every)) for report in seen]
    found = [loss - own for loss, own in told if loss < inf]
    entry: dict[str, Any] = {
        "runs": len(seen),
        "loss_alarmed": len(found),
        "first": sum(lead > 0 for lead in found),
        "alone": sum(loss == inf > own for loss, own in told),
    }
    for key, q in (("lead_p10", 0.1), ("lead_median", 0.5), ("lead_p90", 0.9)):
        # The lower of two runs: between a lead and none at all there is nothing to interpolate.
        lead = float(np.quantile(found, q, method="lower")) if found else -inf
        entry[key] = lead if isfinite(lead) else None
    return entry


def false_alarms(healthy: Mapping[str, Sequence[Report]], name: str, every: int) -> dict[str, Any]:
    """Alarms in healthy runs of each kind, in 100 000 steps."""
    told = {}
    for family, group in healthy.items():
        steps = sum(report.steps for report in group if (name, every) in report.began)
        alarms = sum(len(report.began.get((name, every), ())) for report in group)
        told[family] = {"steps": steps, "per_100k": round(1e5 * alarms / steps, 1) if steps else None}
    return told


def judge(reports: Sequence[Report]) -> dict[str, Any]:
    """Delays of the loss, then leads and false alarms of every precursor at every cadence."""
    faults: dict[str, list[Report]] = {}
    healthy: dict[str, list[Report]] = {}
    for report in reports:
        (healthy if report.onset is None else faults).setdefault(report.family, []).append(report)
    loss = {}
    for family, group in faults.items():
        delays = [report.loss() - (report.onset or 0) for report in group]
        alarmed = [delay for delay in delays if delay < inf]
        loss[family] = {
            "runs": len(group),
            "alarmed": len(alarmed),
            "delay_median": float(np.median(alarmed)) if alarmed else None,
        }
    return {
        "loss": {"faults": loss, "healthy": {name: false_alarms(healthy, name, 1) for name in LOSS}},
        "precursors": [
            {
                "precursor": name,
                "every": every,
                "faults": {family: leads(group, name, every) for family, group in faults.items()},
                "healthy": false_alarms(healthy, name, every),
            }
            for every in CADENCES
            for name in PRECURSORS
        ],
    }


def measure(seeds: int, seed: int, lengths: Lengths, traces: Path | None, workers: int) -> dict[str, Any]:
    """Everything that this benchmark says."""
    reports = everything(seeds, seed, lengths, traces, workers)
    return {
        "benchmark": "precursors",
        "machine": machine(),
        "seeds": seeds,
        "seed": seed,
        "steps": asdict(lengths),
        **judge(reports),
    }


def table(result: Mapping[str, Any]) -> str:
    """The same for people: a table of leads and of false alarms for each cadence."""
    parts = [
        f"{result['seeds']} seeds from {result['seed']} on; a cell is: first in k of n runs, lead in steps, "
        "median (p10 p90)"
    ]
    for every in CADENCES:
        entries = [entry for entry in result["precursors"] if entry["every"] == every]
        names = [entry["precursor"] for entry in entries]
        rows = [[f"norms every {every}", "loss", *(name.partition(" ")[0] for name in names)]]
        rows += [["", "delay", *(name.partition(" ")[2] for name in names)]]
        for family, loss in result["loss"]["faults"].items():
            if all(entry["faults"][family] is None for entry in entries):
                continue
            delay = "never" if loss["delay_median"] is None else f"{loss['delay_median']:g}"
            rows.append([family, delay, *(_cell(entry["faults"][family]) for entry in entries)])
        parts.append(columns(rows))
        rows = [["alarms in 100 k healthy steps", *(name.partition(" ")[0] for name in (*LOSS, *names))]]
        rows += [["", *(name.partition(" ")[2] for name in (*LOSS, *names))]]
        told = [*result["loss"]["healthy"].values(), *(entry["healthy"] for entry in entries)]
        for family in told[0]:
            rates = [entry[family]["per_100k"] for entry in told]
            rows.append([family, *("" if rate is None else f"{rate:g}" for rate in rates)])
        parts.append(columns(rows))
    return "\n\n".join(parts)


def _cell(entry: Mapping[str, Any] | None) -> str:
    if entry is None:
        return ""
    said = []
    if entry["loss_alarmed"]:
        low, middle, high = (_lead(entry[f"lead_{at}"]) for at in ("p10", "median", "p90"))
        said.append(f"{entry['first']}/{entry['loss_alarmed']} {middle} ({low} {high})")
    if entry["alone"]:
        said.append(f"alone {entry['alone']}")
    return ", ".join(said) or "-"


def _lead(lead: float | None) -> str:
    return "never" if lead is None else f"{lead:+g}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and say."""
    parser = argparse.ArgumentParser(description="What announces a blow-up before the loss shows it?")
    parser.add_argument("--traces", type=Path, metavar="DIR", help="a folder of recorded runs")
    parser.add_argument("--seeds", type=int, default=4, help="runs of each fault and schedule (default 4)")
    parser.add_argument("--seed", type=int, default=0, help="the first one: of weights and data")
    usual = Lengths()
    parser.add_argument("--begin", type=int, default=usual.begin, help="healthy steps before a fault")
    parser.add_argument("--after", type=int, default=usual.after, help="steps of a fault")
    parser.add_argument("--healthy", type=int, default=usual.healthy, help="steps of a healthy run")
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="processes (default: all cores)"
    )
    add_json_argument(parser)
    given = parser.parse_args(arguments)
    if given.traces and not given.traces.is_dir():
        parser.error(f"there is no folder {given.traces}")
    lengths = Lengths(given.begin, given.after, given.healthy)
    result = measure(given.seeds, given.seed, lengths, given.traces, given.workers)
    give(result, table(result), given.json)


if __name__ == "__main__":
    main()
