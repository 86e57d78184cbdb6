"""Does a run that goes wrong recover? Real trainings with one fault each, the same for every arm.

::

    python benchmarks/recovery.py --quick                    one seed, some faults and arms; minutes
    python benchmarks/recovery.py --into runs --json out.json    everything; may be broken off and goes on
    python benchmarks/recovery.py --workloads text --faults rate,shard --arms none,palm,midcourse --seeds 3

Two small worlds (``recovery_worlds.py``) are trained for 800 steps, each run with one of twelve faults or as
one of four healthy controls (``recovery_faults.py``). A seed gives the same initial weights, data and fault
to every arm, and every arm has the same ordinary Accelerate loop (``recovery_run.py``), which does not clip:

- **oracle**: without the fault; **none**: the fault, and no control;
- **hindsight**: told the fault and its first step, Midcourse's own actions, the best of a few sequences and
  of doing nothing. It is chosen on tuning seeds, which are not reported (``recovery_midcourse.py``);
- **clip**, **skipstep**, **zclip**, **lightning**, **kill**, **palm**, **plateau**: what others do, from
  their formulas (``recovery_arms.py``);
- **midcourse**: the shipped baseline policy, one for all faults and worlds, told nothing;
  **midcourse+clip**, where asked for: in a loop that also clips to a norm of 1, as that of the README does.

What is counted:

- **Final loss** is the validation loss, the mean over the sources, the worst one where a group is starved. A
  loss that is not finite, or above the untrained model's, counts as that.
- **Recovered** is (none - arm) / (none - hindsight), summed over the seeds, and the same to the oracle. Where
  that gap is below three standard deviations of the clean run between seeds there is nothing to recover, and
  only "not worse" is judged: **worse** is a run that ended more than three of them above no control. With few
  seeds that deviation is itself uncertain; the JSON holds it. **median** is that of the seeds' own shares.
- **Alarm** and **act** are the steps from the first faulty one to the first alarm that a rule reads, and to
  the first act that was applied; in brackets in how many runs. Clipping all the time is no act.
- **Lost** are updates that were taken back or left out, **more steps** those made beyond the run's 800;
  **stopped** counts runs that the arm ended early. Validation is then of what it left.
- Intervals are 95 % bootstraps over seeds, too narrow with five.

Not covered: several processes, GPUs, long runs, faults together. All faults begin at step 300.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from common import add_json_argument, give, machine
from recovery_arms import NONE, PEERS, ZCLIP_PACKAGE
from recovery_faults import CLEAN, FAULTS
from recovery_midcourse import sequences
from recovery_run import CLIPPED, HINDSIGHT, MIDCOURSE, Task, run
from recovery_table import ORACLE, Results, judge, key, summary, tables
from recovery_worlds import STEPS, WORLDS, world

ARMS = (NONE, HINDSIGHT, *(arm for arm in PEERS if arm != NONE), MIDCOURSE)
FIRST_TUNING_SEED = 1000
QUICK_FAULTS = ("nan", "gradient", "shard", "source", "rate", "bit", "cosine", "heavy")
QUICK_ARMS = (NONE, HINDSIGHT, "clip", "skipstep", "palm", MIDCOURSE)


class Kept:
    """Runs that are done, in memory and, a line each, in a folder's ``runs.jsonl``."""

    def __init__(self, folder: Path | None) -> None:
        self._file = None if folder is None else folder / "runs.jsonl"
        self.runs: dict[tuple[str, str, str, int], Mapping[str, Any]] = {}
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        if self._file is not None and self._file.exists():
            for line in self._file.read_text(encoding="utf-8").splitlines():
                if line.endswith("}"):  # the last one may have been cut short
                    done = json.loads(line)
                    self.runs[key(done)] = done

    def add(self, done: Mapping[str, Any]) -> None:
        """One more."""
        self.runs[key(done)] = done
        if self._file is not None:
            with self._file.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(done, allow_nan=False) + "\n")


class Measuring:
    """Makes the runs that are still missing, in a pool of processes that stay."""

    def __init__(self, pool: ProcessPoolExecutor, kept: Kept) -> None:
        self._pool, self._kept = pool, kept
        self._began = time.perf_counter()

    def make(self, wanted: Iterable[Task], what: str) -> None:
        """All of these, in any order."""
        tasks = [task for task in dict.fromkeys(wanted) if _key(task) not in self._kept.runs]
        futures = [self._pool.submit(run, task) for task in tasks]
        for number, future in enumerate(as_completed(futures), 1):
            self._kept.add(future.result())
            if number % 20 == 0 or number == len(futures):
                minutes = (time.perf_counter() - self._began) / 60
                print(f"{what}: {number} of {len(futures)}, {minutes:.1f} min", file=sys.stderr, flush=True)


def _key(task: Task) -> tuple[str, str, str, int]:
    return task.world, task.fault, task.arm, task.seed


def tuning(worlds: Sequence[str], faults: Sequence[str], seeds: Sequence[int]) -> list[Task]:
    """What hindsight is chosen from, and clean runs."""
    tasks = [Task(name, CLEAN, NONE, seed) for name in worlds for seed in seeds]
    for name in worlds:
        for fault in faults:
            if not FAULTS[fault].healthy:
                told = sequences(fault, world(name).names)
                arms = [NONE, *(f"{HINDSIGHT}: {sequence}" for sequence in told)]
                tasks += [Task(name, fault, arm, seed) for arm in arms for seed in seeds]
    return tasks


def measure(asked: argparse.Namespace, kept: Kept) -> dict[str, Any]:
    """Everything that this benchmark says."""
    seeds = list(range(asked.seed, asked.seed + asked.seeds))
    tuning_seeds = list(range(FIRST_TUNING_SEED, FIRST_TUNING_SEED + asked.tuning_seeds))
    began = time.perf_counter()
    with ProcessPoolExecutor(asked.workers, mp_context=get_context("spawn")) as pool:
        measuring = Measuring(pool, kept)
        best: dict[tuple[str, str], str | None] = {}
        if HINDSIGHT in asked.arms:
            measuring.make(tuning(asked.workloads, asked.faults, tuning_seeds), "tuning")
        results = Results(kept.runs.values(), seeds)
        tasks = [Task(name, CLEAN, NONE, seed) for name in asked.workloads for seed in seeds]
        for name in asked.workloads:
            for fault in asked.faults:
                best[name, fault] = results.chosen(name, fault, tuning_seeds)
                for arm in (NONE, *asked.arms):
                    named = best[name, fault] if arm == HINDSIGHT else arm
                    if named is not None and not (arm == HINDSIGHT and FAULTS[fault].healthy):
                        tasks += [Task(name, fault, named, seed) for seed in seeds]
        measuring.make(tasks, "runs")
    results = Results(kept.runs.values(), seeds)
    cells = [
        judge(results, name, fault, arm, None if FAULTS[fault].healthy else best[name, fault])
        for name in asked.workloads
        for fault in asked.faults
        for arm in ((ORACLE,) if not FAULTS[fault].healthy else ()) + tuple(asked.arms)
        if not (arm == HINDSIGHT and FAULTS[fault].healthy)
    ]
    return {
        "benchmark": "recovery",
        "machine": machine(),
        "zclip": "package" if ZCLIP_PACKAGE else "formula",
        "steps": STEPS,
        "seeds": seeds,
        "tuning_seeds": tuning_seeds,
        "minutes": (time.perf_counter() - began) / 60,
        "noise": {
            name: {"mean": results.noise(name), "worst": results.noise(name, True)}
            for name in asked.workloads
        },
        "hindsight": [{"world": w, "fault": f, "chosen": arm} for (w, f), arm in best.items() if arm],
        "cells": cells,
    }


def report(result: Mapping[str, Any]) -> str:
    """The same for people."""
    noise = ", ".join(f"{name} {value['mean']:.4f}" for name, value in result["noise"].items())
    lines = [
        f"seeds {result['seeds'][0]} to {result['seeds'][-1]}, {result['steps']} steps; clean runs differ "
        f"between seeds by {noise}; zclip from its {result['zclip']}; {result['minutes']:.1f} min"
    ]
    if chosen := [f"{c['world']} {c['fault']}: {_bare(c['chosen'])}" for c in result["hindsight"]]:
        lines.append("In hindsight: " + "; ".join(chosen))
    return "\n\n".join([*lines, summary(result["cells"]), tables(result["cells"])])


def _bare(arm: str) -> str:
    return "nothing" if arm == NONE else arm.partition(": ")[2]


def _list_of(known: Iterable[str]) -> Any:
    names = tuple(known)

    def read(text: str) -> list[str]:
        wanted = text.split(",")
        if unknown := [name for name in wanted if name not in names]:
            raise argparse.ArgumentTypeError(f"no {', '.join(unknown)}; there are: {', '.join(names)}")
        return [name for name in names if name in wanted]

    return read


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and say."""
    parser = argparse.ArgumentParser(description="Does a run that goes wrong recover?")
    parser.add_argument("--quick", action="store_true", help="one seed, a subset of faults and arms")
    for name, known in (("workloads", WORLDS), ("faults", FAULTS), ("arms", (*ARMS, CLIPPED))):
        parser.add_argument(f"--{name}", type=_list_of(known), metavar="A,B", help=f"of {', '.join(known)}")
    parser.add_argument("--seeds", type=int, help="how many are reported (default 5; quick 1)")
    parser.add_argument("--seed", type=int, default=0, help="the first one")
    parser.add_argument(
        "--tuning-seeds", type=int, default=2, help="how many hindsight is chosen on (default 2)"
    )
    parser.add_argument(
        "--into", type=Path, metavar="FOLDER", help="keep every run there, and go on from those"
    )
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="processes (default: all cores)"
    )
    add_json_argument(parser)
    asked = parser.parse_args(arguments)
    asked.seeds = asked.seeds or (1 if asked.quick else 5)
    asked.workloads = asked.workloads or list(WORLDS)
    asked.faults = asked.faults or list(QUICK_FAULTS if asked.quick else FAULTS)
    asked.arms = asked.arms or list(QUICK_ARMS if asked.quick else ARMS)
    result = measure(asked, Kept(asked.into))
    give(result, report(result), asked.json)


if __name__ == "__main__":
    main()
