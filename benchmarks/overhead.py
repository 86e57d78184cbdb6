"""What does a tick cost? Microseconds with the shipped baseline policy, by part, beside a bare loop.

::

    python benchmarks/overhead.py                     a table
    python benchmarks/overhead.py --json [OUT]        the same for programs

A real Accelerate loop on one CPU thread trains a tiny model on three sources, in several arms: alone, with
two empty optimizer hooks, watched (observe) and steered (act). The arms take turns of some ticks in
one process, so that a busy machine slows all of them alike, and each turn is compared with the bare
loop's turn beside it: the figures are medians of those differences. A second pair of arms has timers around
the functions of every part; "rest" is what they do not add up to: proxies, hooks, and what timers disturb.
The journal's thread works beside the loop: its CPU time comes extra.
"""

from __future__ import annotations

import argparse
import math
import random
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from common import add_json_argument, columns, give, machine
from timers import Lap, Methods, Timers
from torch.utils.data import TensorDataset

from midcourse import Controller, Mixture
from midcourse.controller import cycle
from midcourse.controller.cycle import Cycle
from midcourse.controller.journal.reader import JournalReader
from midcourse.controller.journal.store import Journal
from midcourse.controller.metrics import Metrics
from midcourse.controller.norms import Norms, cadence
from midcourse.controller.pilot import Pilot
from midcourse.controller.ring import Ring
from midcourse.controller.signals import Recorder
from midcourse.monitors.bank import MonitorBank
from midcourse.policies.engine import Engine
from midcourse.policies.model import Mode
from midcourse.policies.policy import load_policy

STEPS_MS = (1, 10, 20, 100)
TURN = 5  # ticks of an arm at a stretch that count, after one for the caches
WARM_UP = 160  # ticks before the first turn that counts: detectors take 64 measurements before they judge
NEVER = 10**9  # ticks between measurements of the norms, where they are to stay out of the picture
BATCH = 16
FEATURES = 16

PARTS: Methods = {
    "signals": [
        (Recorder, "backward grad_norm log log_examples host_vector clear"),
        (cycle, "unpack _gradient_norm find_batch_size"),
    ],
    "monitors": [(MonitorBank, "judge_step update")],
    "engine": [(Engine, "judge_step tick")],
    "journal": [(Journal, "sample transition phase"), (Pilot, "_follow_health")],
    "metrics": [(Metrics, "sample overhead override snapshot")],
    "norms": [(Norms, "before_step after_step")],
    "snapshots": [(Cycle, "_snapshot")],
    "loop": [(Controller, "before_step after_step requested pulled backward clipped log log_examples")],
}
"""What is timed; "loop" is what the controller's own entrances take beyond the parts that they call."""

Control = Callable[[Accelerator], Controller]


def sources(seed: int) -> dict[str, TensorDataset]:
    """Three sources of one noisy linear relation: a loss that falls, then stays."""
    made = {}
    for number, name in enumerate(("web", "code", "books")):
        generator = torch.Generator().manual_seed(10 * seed + number)
        x = torch.randn(2048, FEATURES, generator=generator)
        noise = torch.randn(2048, 1, generator=generator)
        made[name] = TensorDataset(x, x.mean(1, keepdim=True) + 0.3 * noise)
    return made


def training(
    seed: int, ticks: int, control: Control | None = None, empty_hooks: bool = False
) -> Iterator[None]:
    """Train tick by tick: an ordinary loop that stands still after each one."""
    set_seed(seed)
    accelerator = Accelerator(cpu=True)
    controller = control(accelerator) if control else None
    model: Any = torch.nn.Sequential(torch.nn.Linear(FEATURES, 32), torch.nn.ReLU(), torch.nn.Linear(32, 1))
    optimizer: Any = torch.optim.AdamW(model.parameters(), lr=1e-3)
    scheduler: Any = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    mixture = Mixture(sources(seed), seed=seed, epoch_size=ticks * BATCH)
    if empty_hooks:
        optimizer.register_step_pre_hook(lambda *_: None)
        optimizer.register_step_post_hook(lambda *_: None)
    model, optimizer, loader, scheduler = accelerator.prepare(
        model, optimizer, mixture.loader(BATCH), scheduler
    )
    for _ in controller.epochs(1) if controller else range(1):
        for number, (x, y, source) in enumerate(loader):
            losses = (model(x) - y).square().mean(1)
            if controller:
                controller.log_examples(losses, source)
                controller.log(examples_seen=float(number * BATCH))
            accelerator.backward(losses.mean())
            accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            yield
    accelerator.end_training()


def controlled(mode: Mode, run_dir: Path, norms_every: int) -> Control:
    """The shipped baseline policy in this mode."""
    policy = replace(load_policy("baseline"), mode=mode)
    return lambda accelerator: Controller(
        accelerator, policy=policy, run_dir=run_dir, norms_every=norms_every, say=lambda line: None
    )


def take_turns(
    arms: Mapping[str, Iterator[None]], turns: int, seed: int, each: Callable[[str], None] = lambda arm: None
) -> dict[str, list[float]]:
    """Median microseconds a tick of every arm's turns; ``each`` is called after every tick of a turn."""
    shuffle = random.Random(seed).shuffle  # nobody always comes after the same arm
    for arm in arms.values():
        for _ in range(WARM_UP):
            next(arm)
    found: dict[str, list[float]] = {name: [] for name in arms}
    order = list(arms)
    for _ in range(turns):
        shuffle(order)
        for name in order:
            next(arms[name])  # the caches are still another arm's
            each(name)
            ticks = []
            for _ in range(TURN):
                began = time.perf_counter()
                next(arms[name])
                ticks.append(1e6 * (time.perf_counter() - began))
                each(name)
            found[name].append(median(ticks))
    return found


def compare(ticks: int, seed: int, runs: Path) -> dict[str, Any]:
    """The arms side by side: their medians, and what each takes beyond the bare loop."""
    turns, length = _plan(ticks)
    arms = {
        "bare": training(seed, length),
        "empty_hooks": training(seed, length, empty_hooks=True),
        "observe": training(seed, length, controlled(Mode.OBSERVE, runs / "observe", NEVER)),
        "act": training(seed, length, controlled(Mode.ACT, runs / "act", NEVER)),
    }
    found = take_turns(arms, turns, seed)
    journal = _journal_threads_us() / (2 * length)
    _finish(arms)
    extra = {name: _beyond(found[name], found["bare"]) for name in arms if name != "bare"}
    decisions = sum(len(list(JournalReader(runs / name).decisions())) for name in ("observe", "act"))
    return {
        "bare_us": round(median(found["bare"]), 1),
        "extra_us": {name: round(median(values), 1) for name, values in extra.items()},
        "extra_quartiles_us": {name: [round(q, 1) for q in quantiles(v)] for name, v in extra.items()},
        "journal_thread_us": round(journal, 1),
        "decisions": decisions,
    }


def divide(ticks: int, seed: int, runs: Path) -> dict[str, Any]:
    """The act arm with timers: microseconds of each part, and what a measurement and a snapshot take."""
    turns, length = _plan(ticks)
    timers = Timers()
    laps: list[Lap] = []

    def each(arm: str) -> None:
        if arm == "timed":
            laps.append(timers.lap())

    with timers.on(PARTS):
        arms = {
            "bare": training(seed, length),
            "timed": training(seed, length, controlled(Mode.ACT, runs / "timed", 1)),
        }
        found = take_turns(arms, turns, seed, each)
        _finish(arms)
    whole = median(_beyond(found["timed"], found["bare"])) - median(1e6 * lap.own for lap in laps)
    parts = {name: median(1e6 * lap.seconds[name] for lap in laps) for name in PARTS}
    norms = parts.pop("norms")
    parts.pop("snapshots")
    parts["rest"] = whole - norms - sum(parts.values())
    snapshots = [1e6 * lap.seconds["snapshots"] for lap in laps if lap.calls["snapshots"]]
    return {
        "parts_us": {name: round(value, 1) for name, value in parts.items()},
        "norms_us": round(norms, 1),
        "snapshot_us": round(median(snapshots), 1),
    }


def at_step(milliseconds: float, tick_us: float, norms_us: float, snapshot_us: float) -> dict[str, float]:
    """What Midcourse takes of steps of a length: the two costly things come as often as the length allows."""
    step = milliseconds / 1e3
    plan = load_policy("baseline").snapshots
    ring = Ring(plan.keep, plan.reach, plan.every, plan.max_overhead)
    ring.stall = snapshot_us / 1e6
    ring.adapt(step)
    norms = norms_us / cadence(norms_us / 1e6, step)
    snapshots = snapshot_us / ring.cadence
    whole = tick_us + norms + snapshots
    return {
        "step_ms": milliseconds,
        "tick_us": round(tick_us, 1),
        "norms_us": round(norms, 1),
        "snapshots_us": round(snapshots, 1),
        "total_us": round(whole, 1),
        "share": round(whole / (1e3 * milliseconds), 6),
    }


def measure(ticks: int, seed: int) -> dict[str, Any]:
    """Everything that this benchmark says."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as runs:
        tick = compare(ticks, seed, Path(runs))
        parts = divide(ticks, seed, Path(runs))
    costs = (tick["extra_us"]["act"], parts["norms_us"], parts["snapshot_us"])
    return {
        "benchmark": "overhead",
        "machine": machine(),
        "policy": "baseline",
        "ticks": ticks,
        "seed": seed,
        **tick,
        **parts,
        "at_step": [at_step(length, *costs) for length in STEPS_MS],
    }


def table(result: Mapping[str, Any]) -> str:
    """The same for people."""
    about = result["machine"]
    costs = [("a tick of the bare loop", result["bare_us"])]
    costs += [(f"  beyond it: {name.replace('_', ' ')}", us) for name, us in result["extra_us"].items()]
    costs += [(f"    {part}", us) for part, us in result["parts_us"].items()]
    costs += [("one measurement of the norms", result["norms_us"]), ("one snapshot", result["snapshot_us"])]
    costs += [("the journal's thread, a tick", result["journal_thread_us"])]
    rows = [("", "us"), *((name, f"{us:.1f}") for name, us in costs)]
    steps = [["a step of", "each tick", "norms", "snapshots", "total us", "share"]]
    for entry in result["at_step"]:
        each = [f"{entry[f'{what}_us']:.1f}" for what in ("tick", "norms", "snapshots", "total")]
        steps.append([f"{entry['step_ms']} ms", *each, f"{100 * entry['share']:.3f} %"])
    return "\n\n".join(
        (
            f"{about['processor']}, {about['cores']} cores, Python {about['python']}, torch {about['torch']}"
            f"; one thread, policy {result['policy']}, {result['ticks']} ticks",
            columns(rows),
            columns(steps),
        )
    )


def _plan(ticks: int) -> tuple[int, int]:
    """Turns, and ticks of each arm in all."""
    turns = max(2, math.ceil(ticks / TURN))
    return turns, WARM_UP + turns * (TURN + 1)


def _beyond(arm: Sequence[float], bare: Sequence[float]) -> list[float]:
    return [a - b for a, b in zip(arm, bare, strict=True)]


def _finish(arms: Mapping[str, Iterator[None]]) -> None:
    for arm in arms.values():
        for _ in arm:
            pass


def _journal_threads_us() -> float:
    """CPU time of all journals' threads so far."""
    idents = [thread.ident for thread in threading.enumerate() if thread.name == "midcourse-journal"]
    return sum(1e6 * time.clock_gettime(time.pthread_getcpuclockid(i)) for i in idents if i is not None)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and say."""
    parser = argparse.ArgumentParser(description="What does a tick cost?")
    parser.add_argument("--ticks", type=int, default=1500, help="ticks of each arm that count (default 1500)")
    parser.add_argument("--seed", type=int, default=0, help="of data, weights and the order of turns")
    add_json_argument(parser)
    given = parser.parse_args(arguments)
    result = measure(given.ticks, given.seed)
    give(result, table(result), given.json)


if __name__ == "__main__":
    main()
