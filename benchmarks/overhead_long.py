"""Very many ticks: does memory grow, or the time of a tick?

Two courses are followed, with the same ten looks at each:

- **deciding**: monitors, engine, journal and metrics, as rank 0 of a run has them, on made-up samples: all
  that keeps anything of what was measured;
- **loop**: a whole training under the baseline policy, snapshots and norms included, for a tenth as many
  ticks, since the training takes far longer than what watches it.
"""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import quantiles
from typing import Any

import numpy as np
import psutil
from overhead_loop import baseline, controlled, ended, records_of, training

from midcourse.controller.journal.reader import JournalReader
from midcourse.controller.records import Records
from midcourse.monitors.conformance import lines_run
from midcourse.monitors.types import Sample
from midcourse.policies.model import Mode

LOOKS = 10
CHUNK = 100  # ticks whose CPU time is taken together
TRACED = 1000  # ticks before each look whose lines of Python are counted
SNAPSHOT_EVERY, NORMS_EVERY = 100, 10  # fixed, so that every stretch of ticks does the same work

BOUNDS = {"rss_bytes": 0.02, "objects": 0.002, "state_bytes": 0.02, "lines_a_tick": 0.02, "tick_us": 0.2}
"""By what share the last look may lie above the one in the middle, for a course to be called steady.

Lines are a time that other programs do not disturb, but what happens within one of them is not seen.
"""

Course = dict[str, Any]


def samples(first: int, count: int, seed: int) -> Iterator[Sample]:
    """A healthy run long past its beginning, with norms at every tenth tick."""
    rows = np.random.default_rng((seed, first)).standard_normal((count, 7)).tolist()
    for tick, (a, b, c, d, e, f, g) in enumerate(rows, first):
        signals = {
            "loss": 2 + 0.1 * a,
            "grad_norm": 1 + 0.1 * b,
            "lr": 1e-3,
            "loss/source=web": 2 + 0.1 * c,
            "loss/source=code": 2 + 0.1 * d,
            "loss/source=books": 2 + 0.1 * e,
        }
        if tick % NORMS_EVERY == 0:
            signals |= {"update_ratio": 1e-3 * (1 + 0.1 * f), "param_norm": 30 + 0.01 * g}
        yield Sample(tick, tick, 0, signals)


def deciding(ticks: int, seed: int, run_dir: Path) -> Course:
    """Monitors, engine, journal and metrics on made-up samples; a false alarm is told, not acted upon."""
    records = Records.open(
        baseline(Mode.OBSERVE),
        run_dir,
        sources=("web", "code", "books"),
        registry=None,
        port=None,
        facts={},
        clock=time.perf_counter,
    )
    pilot, made = records.pilot, 0

    def go_on(count: int) -> float:
        nonlocal made
        ready = list(samples(made + 1, count, seed))  # not in the time of a tick
        made += count
        began = time.thread_time()
        for sample in ready:
            pilot.judge_step(sample)
            pilot.judge(sample)
        return time.thread_time() - began

    course = follow(ticks, go_on, records)
    records.close()
    return {**course, "decisions": _decisions(run_dir)}


def whole_loop(ticks: int, seed: int, run_dir: Path) -> Course:
    """A training under the baseline policy; times are those of the training with it."""
    plan = replace(baseline().snapshots, every=SNAPSHOT_EVERY)
    control = controlled(replace(baseline(), snapshots=plan), run_dir, NORMS_EVERY)
    length = max(1, ticks // 20)
    arm = training(seed, length, control, passes=ticks // length + 2)
    controller = next(arm)

    def go_on(count: int) -> float:
        began = time.thread_time()
        for _ in range(count):
            next(arm)
        return time.thread_time() - began

    course = follow(ticks, go_on, records_of(controller))
    ended({"loop": arm})
    return {**course, "decisions": _decisions(run_dir)}


def follow(ticks: int, go_on: Callable[[int], float], records: Records) -> Course:
    """Look at a course ten times on its way.

    Args:
        ticks: How many it has; rounded to a multiple of ten.
        go_on: Makes so many ticks more and tells the seconds of CPU time that they took.
        records: Of the run.
    """
    each = max(2, ticks // LOOKS)
    traced = min(TRACED, each // 2)
    looks = []
    for number in range(LOOKS):
        spent = []
        for done in range(0, each - traced, CHUNK):
            count = min(CHUNK, each - traced - done)
            spent.append(1e6 * go_on(count) / count)
        lines = lines_run(lambda: go_on(traced)) / traced
        tick = (number + 1) * each
        looks.append(
            {"tick": tick, "tick_us": round(_undisturbed(spent), 1), "lines_a_tick": round(lines, 1)}
        )
        looks[-1] |= weigh(records, tick)
    return {"ticks": LOOKS * each, "looks": looks, **verdict(looks)}


def weigh(records: Records, ticks: int) -> dict[str, float]:
    """Memory of the process, objects, the state of monitors and engine, and the journal so far a tick."""
    records.journal.flush()
    gc.collect()
    pilot = records.pilot
    return {
        "rss_bytes": psutil.Process().memory_info().rss,
        "objects": len(gc.get_objects()),
        "state_bytes": len(json.dumps([pilot.bank.state_dict(), pilot.engine.state_dict()])),
        "journal_bytes_a_tick": round(records.journal.size_bytes / ticks, 1),
    }


def verdict(looks: list[dict[str, Any]]) -> dict[str, Any]:
    """Growth of the last half of a course, as shares, and what of it is beyond its bound."""
    middle, last = looks[LOOKS // 2 - 1], looks[-1]
    growth = {what: round(last[what] / middle[what] - 1, 4) for what in BOUNDS}
    grows = [what for what, bound in BOUNDS.items() if growth[what] > bound]
    return {"growth_of_last_half": growth, "grows": grows, "steady": not grows}


def long(ticks: int, seed: int, runs: Path) -> dict[str, Course]:
    """Both courses, the whole loop over a tenth of the ticks."""
    return {
        "deciding": deciding(ticks, seed, runs / "deciding"),
        "loop": whole_loop(max(20, ticks // 10), seed, runs / "loop"),
    }


def _undisturbed(spent: list[float]) -> float:
    """The lowest tenth: what runs beside it, and shares its caches, can only make it longer."""
    return quantiles(spent, n=10)[0] if len(spent) > 1 else spent[0]


def _decisions(run_dir: Path) -> int:
    with JournalReader(run_dir) as reader:
        return len(reader.decisions())
