"""What a tick costs beside the bare loop, by part, and as a share of steps of several lengths."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean, median, quantiles
from typing import Any

from overhead_loop import (
    NEVER,
    PARTS,
    TURN,
    WARM_UP,
    baseline,
    controlled,
    ended,
    take_turns,
    timed,
    training,
)
from timers import Lap, Timers

from midcourse.controller import norms
from midcourse.controller.journal.reader import JournalReader
from midcourse.controller.ring import Ring
from midcourse.policies.model import Mode
from midcourse.policies.policy import Policy

STEPS_MS = (1, 10, 20, 100)


def compare(ticks: int, seed: int, runs: Path) -> dict[str, Any]:
    """The arms side by side: their medians, and what each takes beyond the bare loop."""
    turns = max(2, math.ceil(ticks / TURN))
    length = WARM_UP + turns * (TURN + 1)
    timers = Timers()
    laps: list[Lap] = []

    def each(arm: str) -> None:
        if arm == "timed":
            laps.append(timers.lap())

    arms = {
        "bare": training(seed, length),
        "empty_hooks": training(seed, length, empty_hooks=True),
        "observe": training(seed, length, controlled(baseline(Mode.OBSERVE), runs / "observe")),
        "act": training(seed, length, controlled(_without_snapshots(), runs / "act")),
        "timed": training(seed, length, timed(timers, controlled(baseline(), runs / "timed", 1))),
    }
    found = take_turns(arms, turns, seed, each)
    journal = _journal_threads_us() / (3 * length)
    ended(arms)
    extra = {
        name: [us - bare for us, bare in zip(found[name], found["bare"], strict=True)]
        for name in ("empty_hooks", "observe", "act")
    }
    return {
        "bare_us": _rounded(found["bare"]),
        "extra_us": {name: _rounded(values) for name, values in extra.items()},
        "extra_quartiles_us": {name: [round(q, 1) for q in quantiles(v)] for name, v in extra.items()},
        **divide(laps, median(extra["act"])),
        "journal_thread_us": round(journal, 1),
        "decisions": sum(len(JournalReader(run).decisions()) for run in runs.iterdir()),
    }


def _without_snapshots() -> Policy:
    """The baseline but for its snapshots: they are measured apart, and among turns a step seems long."""
    policy = baseline()
    return replace(policy, snapshots=replace(policy.snapshots, every=NEVER))


def divide(laps: Sequence[Lap], whole: float) -> dict[str, Any]:
    """Microseconds of each part, and what is left of the whole; a measurement and a snapshot apart."""
    turns = [laps[at : at + TURN] for at in range(0, len(laps) - TURN + 1, TURN)]
    parts = {name: median(1e6 * mean(lap.seconds[name] for lap in turn) for turn in turns) for name in PARTS}
    parts["rest"] = whole - sum(parts.values())
    snapshots = [lap.seconds["snapshots"] + lap.seconds["copies"] for lap in laps if lap.calls["copies"]]
    return {
        "parts_us": {name: round(us, 1) for name, us in parts.items()},
        "norms_us": _rounded([1e6 * lap.seconds["norms"] for lap in laps]),
        "moment_lag_us": _rounded([1e6 * lap.seconds["moment_lag"] for lap in laps]),
        "snapshot_us": _rounded([1e6 * seconds for seconds in snapshots]),
    }


def at_step(milliseconds: float, tick_us: float, norms_us: float, snapshot_us: float) -> dict[str, float]:
    """What Midcourse takes of steps of a length: the two costly things come as often as the length allows."""
    step = milliseconds / 1e3
    plan = baseline().snapshots
    ring = Ring(plan.keep, plan.reach, plan.every, plan.max_overhead)
    ring.stall = snapshot_us / 1e6
    ring.adapt(step)
    measured = norms_us / norms.cadence(norms_us / 1e6, step)
    snapshots = snapshot_us / ring.cadence
    whole = tick_us + measured + snapshots
    return {
        "step_ms": milliseconds,
        "tick_us": round(tick_us, 1),
        "norms_us": round(measured, 1),
        "snapshots_us": round(snapshots, 1),
        "total_us": round(whole, 1),
        "share": round(whole / (1e3 * milliseconds), 6),
    }


def by_part(ticks: int, seed: int, runs: Path) -> dict[str, Any]:
    """All of it."""
    found = compare(ticks, seed, runs)
    costs = (found["extra_us"]["act"], found["norms_us"], found["snapshot_us"])
    return {**found, "at_step": [at_step(length, *costs) for length in STEPS_MS]}


def _rounded(values: Sequence[float]) -> float:
    return round(median(values), 1)


def _journal_threads_us() -> float:
    """CPU time of all journals' threads so far."""
    idents = [thread.ident for thread in threading.enumerate() if thread.name == "midcourse-journal"]
    return sum(1e6 * time.clock_gettime(time.pthread_getcpuclockid(i)) for i in idents if i is not None)
