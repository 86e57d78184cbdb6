"""Does it find what is wrong, and leave alone what is not? False alarms, misses and delays, beside the peers.

::

    python benchmarks/detection.py                           synthetic runs, a table
    python benchmarks/detection.py --traces DIR --json [OUT] recorded ones too, for programs

Each monitor watches alone with its defaults, the shipped baseline policy as a whole (in observe mode, which
decides all the same), and the peers by their own formulas. A folder of recorded runs holds some of
``healthy_nanogpt``, ``healthy_algoperf``, ``divergences_algoperf`` (``.npz`` and ``.json``), ``tiny/*.npz``.

What is counted:

- An **episode** begins where a monitor turns bad (each instance of a star for itself), where the policy
  decides on an act that changes the run (not: skip a step, notify, save), where a peer begins to act. As long
  as the alarm latches, the rule cools down, or the peer goes on with the next sample, it is the same one.
- **False alarms** are all episodes of a healthy run, in 100 000 of its samples, warm-up included. Some runs
  were recorded every 100 steps: ticks pass as they did, but samples are counted, which flatters nobody.
- A fault is **found** by the first episode that begins between its onset and 50 samples later (recorded
  divergences; from 20 samples before, since a median over 20 dated them: such a delay is negative),
  or 400 later (faults injected into a small transformer), or 600 (ramps and shifts). What alarmed before,
  and still does, has not found it. **Early** are the episodes before that in 100 000 samples.
- **Onset bias** and **spread** are the median and the 10th and 90th percentile of (onset told - true onset);
  ``declared`` is what a monitor says of the latter, and a rollback goes back by, over faults of all kinds.
- **Microseconds** are CPU time of one sample, in a loop with nothing else: the median of many stretches.

Signals that were measured at some ticks only are given at those only. All that is random is seeded.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from common import add_json_argument, columns, give, machine
from peers import PEERS
from runs import Run, faulty, recorded, synthetic
from watches import ALONE, POLICY_ACTS, POLICY_SEES, signal_of, watches

from midcourse.monitors.registry import MONITORS, make_monitor
from midcourse.monitors.types import Sample
from midcourse.policies.judging import match

STRETCH = 500  # samples between two looks at the clock


@dataclass(slots=True)
class Found:
    """What one watch said of one run: the samples at which an episode began, and the onsets told."""

    began: list[int] = field(default_factory=list)
    onsets: list[float | None] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Report:
    """One run as all watches saw it."""

    family: str
    samples: int
    onset: int | None
    grace: int
    signals: frozenset[str]
    found: Mapping[str, Found]


def samples_of(run: Run) -> Iterable[Sample]:
    """The samples of a run, made one by one."""
    columns = list(run.signals.items())
    for index in range(run.until()):
        tick = index * run.ticks
        signals = {name: value for name, values in columns if (value := values[index]) is not None}
        yield Sample(tick, tick, 0, signals)


def watch(run: Run) -> Report:
    """Let everything watch one run."""
    watching = watches(len(run))
    found = {name: Found() for name in watching}
    for index, sample in enumerate(samples_of(run)):
        for name, each in watching.items():
            for onset in each.update(sample):
                found[name].began.append(index)
                found[name].onsets.append(None if onset is None else onset / run.ticks)
    return Report(run.family, run.until(), run.onset, run.grace, frozenset(run.signals), found)


def applies(name: str, report: Report) -> bool:
    """Whether the run has the signal of this watch."""
    signal = signal_of(name)
    return any(
        each.startswith(signal.rstrip("*")) if "*" in signal else each == signal for each in report.signals
    )


def false_alarms(name: str, reports: Sequence[Report]) -> dict[str, Any] | None:
    """Episodes in healthy runs; None if none of them has the signal."""
    seen = [report for report in reports if applies(name, report)]
    if not seen:
        return None
    episodes = sum(len(report.found[name].began) for report in seen)
    samples = sum(report.samples for report in seen)
    return {"episodes": episodes, "samples": samples, "per_100k": round(1e5 * episodes / samples, 2)}


def detection(name: str, reports: Sequence[Report]) -> dict[str, Any] | None:
    """How faults of one kind were found; None if no run has the signal."""
    seen = [report for report in reports if applies(name, report)]
    if not seen:
        return None
    delays, biases, early, healthy = [], [], 0, 0
    for report in seen:
        assert report.onset is not None
        begins = report.onset - report.grace
        healthy += begins
        said = report.found[name]
        of_run = match(said.began, begins)
        early += of_run.early
        if of_run.found is not None:
            onset = said.onsets[of_run.found]
            delays.append(said.began[of_run.found] - report.onset)
            biases += [] if onset is None else [onset - report.onset]
    return {
        "runs": len(seen),
        "found": len(delays),
        "missed_percent": round(100 * (1 - len(delays) / len(seen)), 2),
        "delay_median": round(median(delays), 1) if delays else None,
        "delay_p90": round(float(np.quantile(delays, 0.9)), 1) if delays else None,
        "onset_bias": round(median(biases), 1) if biases else None,
        "onset_spread": [round(float(q), 1) for q in np.quantile(biases, (0.1, 0.9))] if biases else None,
        "early_per_100k": round(1e5 * early / healthy, 1) if healthy else None,
    }


def microseconds(run: Run) -> dict[str, float]:
    """CPU time of an update in a loop of its own: of a monitor itself, the policy with its engine, a peer."""
    taken: dict[str, float] = {}
    losses = run.signals["loss"]
    for name, each in watches(len(run)).items():
        if name == POLICY_SEES:  # a look at what the policy's monitors said, and no work of its own
            continue
        signal = signal_of(name).replace("*", "only")
        update: Callable[[Sample], object] = each.update
        if name in ALONE:
            update = make_monitor(ALONE[name], signal if "*" in signal_of(name) else None).update
        samples = [
            Sample(tick, tick, 0, {signal: loss, "loss": loss})
            for tick, loss in enumerate(losses)
            if loss is not None
        ]
        stretches = []
        for start in range(0, len(samples) - STRETCH + 1, STRETCH):
            began = time.thread_time()
            for sample in samples[start : start + STRETCH]:
                update(sample)
            stretches.append(1e6 * (time.thread_time() - began) / STRETCH)
        taken[name] = round(median(stretches[len(stretches) // 4 :]), 2)
    return taken


def measure(traces: Path | None, steps: int, seeds: int, seed: int, workers: int) -> dict[str, Any]:
    """Everything that this benchmark says."""
    made = chain(
        recorded(traces) if traces else (), synthetic(steps, min(steps, 20_000), seed), faulty(seeds, seed)
    )
    runs = sorted(made, key=len, reverse=True)  # the longest first, so that no worker is left with one
    with ProcessPoolExecutor(workers) as pool:
        reports = list(pool.map(watch, runs))
    families: dict[str, list[Report]] = {}
    for report in reports:
        families.setdefault(report.family, []).append(report)
    names = list(watches(1))
    taken = microseconds(next(run for run in runs if run.family == "synthetic"))
    judged = {}
    for name in names:
        by_family = {
            family: (detection if of[0].onset is not None else false_alarms)(name, of)
            for family, of in sorted(families.items())
        }
        judged[name] = {
            "peer": name in PEERS,
            "us": taken.get(name),
            "lateness": MONITORS[ALONE[name].type].lateness if name in ALONE else None,
            "families": by_family,
        }
    return {
        "benchmark": "detection",
        "machine": machine(),
        "seed": seed,
        "seeds": seeds,
        "synthetic_steps": steps,
        "samples": {family: sum(report.samples for report in of) for family, of in sorted(families.items())},
        "watches": judged,
    }


def table(result: Mapping[str, Any]) -> str:
    """The same for people."""
    about, judged = result["machine"], result["watches"]
    families = list(result["samples"])
    faults = [family for family in families if "found" in (judged[POLICY_ACTS]["families"][family] or {})]
    tiny = [family for family in faults if family.startswith("tiny ")]
    healthy = [family for family in families if family not in faults]
    parts = [
        f"{about['processor']}, {about['cores']} cores, Python {about['python']}; seed {result['seed']}",
        columns(_false_alarm_rows(judged, healthy, result["samples"])),
    ]
    parts += [columns(_fault_rows(judged, family)) for family in faults if family not in tiny]
    if tiny:
        parts.append(columns(_tiny_rows(judged, tiny)))
    return "\n\n".join(parts)


def _false_alarm_rows(
    judged: Mapping[str, Any], families: Sequence[str], samples: Mapping[str, int]
) -> list[list[str]]:
    heads = [f"{family} ({samples[family] / 1e3:.0f} k)" for family in families]
    rows = [["false alarms in 100 k samples", *heads, "us"]]
    for name, of in judged.items():
        cells = [_cell(of["families"][family], "per_100k") for family in families]
        rows.append([name, *cells, "" if of["us"] is None else f"{of['us']:.1f}"])
    return rows


def _fault_rows(judged: Mapping[str, Any], family: str) -> list[list[str]]:
    rows = [[family, "found", "delay", "p90", "onset bias", "p10", "p90", "declared", "early in 100 k"]]
    for name, of in judged.items():
        entry = of["families"][family]
        if entry is None:
            continue
        low, high = entry["onset_spread"] or (None, None)
        told = [
            entry["delay_median"],
            entry["delay_p90"],
            entry["onset_bias"],
            low,
            high,
            of["lateness"],
            entry["early_per_100k"],
        ]
        cells = ["-" if value is None else f"{value:g}" for value in told]
        rows.append([name, f"{entry['found']} of {entry['runs']}", *cells])
    return rows


def _tiny_rows(judged: Mapping[str, Any], families: Sequence[str]) -> list[list[str]]:
    """Faults by row: median delay of the policy, and of whoever was first among ours and among the peers."""
    rows = [["injected faults, delay", POLICY_ACTS, POLICY_SEES, "first of ours", "first of the peers"]]
    for family in families:
        delays = {
            name: entry["delay_median"] if entry["found"] == entry["runs"] else None
            for name, of in judged.items()
            if (entry := of["families"][family]) is not None
        }
        cells = ["-" if delays[name] is None else f"{delays[name]:g}" for name in (POLICY_ACTS, POLICY_SEES)]
        for peer in (False, True):
            group = [
                (delay, name)
                for name, delay in delays.items()
                if delay is not None
                and judged[name]["peer"] is peer
                and name not in (POLICY_ACTS, POLICY_SEES)
            ]
            delay, name = min(group, key=lambda entry: entry[0], default=(None, ""))
            cells.append("-" if delay is None else f"{delay:g} {name}")
        rows.append([family.removeprefix("tiny "), *cells])
    return rows


def _cell(entry: Mapping[str, Any] | None, key: str) -> str:
    return "" if entry is None else f"{entry[key]:g}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and say."""
    parser = argparse.ArgumentParser(
        description="False alarms, misses and delays of monitors, policy and peers."
    )
    parser.add_argument("--traces", type=Path, metavar="DIR", help="a folder of recorded runs")
    parser.add_argument("--steps", type=int, default=200_000, help="healthy synthetic steps (default 200000)")
    parser.add_argument("--seeds", type=int, default=20, help="runs of each synthetic fault (default 20)")
    parser.add_argument("--seed", type=int, default=0, help="of all that is synthetic")
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="processes (default: all cores)"
    )
    add_json_argument(parser)
    given = parser.parse_args(arguments)
    if given.traces and not given.traces.is_dir():
        parser.error(f"there is no folder {given.traces}")
    result = measure(given.traces, given.steps, given.seeds, given.seed, given.workers)
    give(result, table(result), given.json)


if __name__ == "__main__":
    main()
