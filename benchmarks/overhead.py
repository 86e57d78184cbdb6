"""What does a tick cost? Microseconds with the shipped baseline policy, by part, beside a bare loop.

::

    python benchmarks/overhead.py                     a table
    python benchmarks/overhead.py --json [OUT]        the same for programs

A real Accelerate loop on one CPU thread trains a tiny model on three sources, in several arms: alone, with
two empty optimizer hooks, watched (observe), steered (act), and steered with timers around its parts. The
arms take turns of a few ticks in one process, so that a busy machine slows all of them alike, and each turn
is compared with the bare loop's turn beside it: the figures are medians of those differences. They are CPU
time of the training thread, which other programs disturb least; where it may wait, for the journal's thread
to let go of the interpreter, that thread's own time is given. "rest" is what the parts do not add up to:
proxies, hooks, and what timers disturb.
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
from timers import Lap, Timers
from torch.utils.data import TensorDataset

from midcourse import Controller, Mixture
from midcourse.controller import norms
from midcourse.controller.journal.reader import JournalReader
from midcourse.controller.ring import Ring
from midcourse.policies.model import Mode
from midcourse.policies.policy import load_policy

STEPS_MS = (1, 10, 20, 100)
TURN = 5  # ticks of an arm at a stretch that count, after one for the caches
WARM_UP = 160  # ticks before the first turn that counts: detectors take 64 measurements before they judge
NEVER = 10**9  # ticks between measurements of the norms, where they are to stay out of the picture
BATCH = 16
FEATURES = 16

PARTS = ("signals", "monitors", "engine", "journal", "metrics", "loop")

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


def timed(timers: Timers, control: Control) -> Control:
    """The same controller with timers around its parts; "loop" is what its own entrances take beyond them."""

    def make(accelerator: Accelerator) -> Controller:
        controller = control(accelerator)
        wiring = controller._wiring
        prepared = wiring.prepared

        def then_watch(*parts: Any) -> None:
            prepared(*parts)
            cycle, records = wiring.cycle, controller._records
            assert cycle is not None
            assert records is not None
            pilot = records.pilot
            timers.watch("signals", controller._recorder, "backward grad_norm log clear")
            timers.watch("signals", cycle._exchange, "measure")
            wiring.declare_sources()
            timers.watch("signals", controller._recorder.by_source, "add")
            timers.watch("monitors", pilot.bank, "judge_step update")
            timers.watch("engine", pilot.engine, "judge_step tick")
            timers.watch("journal", records.journal, "sample transition phase")
            timers.watch("journal", pilot, "_follow_health")
            timers.watch("metrics", records.metrics, "sample overhead override snapshot")
            timers.watch("norms", cycle._norms, "before_step after_step")
            timers.watch("moment_lag", norms, "moment_lag")  # which this policy does not read: for its cost
            cycle._norms._moments = cycle.run.optimizer
            timers.watch("snapshots", cycle._keeping, "if_due")
            timers.watch("copies", cycle.run.ring, "take")

        timers.watch("loop", wiring, "backward clipped before_step after_step requested pulled")
        timers.watch("loop", controller, "log log_examples")
        wiring.prepared = then_watch  # type: ignore[method-assign, assignment]
        return controller

    return make


def take_turns(
    arms: Mapping[str, Iterator[None]], turns: int, seed: int, each: Callable[[str], None]
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
                began = time.thread_time()
                next(arms[name])
                ticks.append(1e6 * (time.thread_time() - began))
                each(name)
            found[name].append(median(ticks))
    return found


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
        "observe": training(seed, length, controlled(Mode.OBSERVE, runs / "observe", NEVER)),
        "act": training(seed, length, controlled(Mode.ACT, runs / "act", NEVER)),
        "timed": training(seed, length, timed(timers, controlled(Mode.ACT, runs / "timed", 1))),
    }
    found = take_turns(arms, turns, seed, each)
    journal = _journal_threads_us() / (3 * length)
    for arm in arms.values():
        next(arm, None)  # to its end, where the run is closed
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
        "decisions": sum(len(list(JournalReader(run).decisions())) for run in runs.iterdir()),
    }


def divide(laps: Sequence[Lap], whole: float) -> dict[str, Any]:
    """Microseconds of each part, and what is left of the whole; a measurement and a snapshot apart."""
    parts = {name: median(1e6 * lap.seconds[name] for lap in laps) for name in PARTS}
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
    plan = load_policy("baseline").snapshots
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


def measure(ticks: int, seed: int) -> dict[str, Any]:
    """Everything that this benchmark says."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as runs:
        found = compare(ticks, seed, Path(runs))
    costs = (found["extra_us"]["act"], found["norms_us"], found["snapshot_us"])
    return {
        "benchmark": "overhead",
        "machine": machine(),
        "policy": "baseline",
        "ticks": ticks,
        "seed": seed,
        **found,
        "at_step": [at_step(length, *costs) for length in STEPS_MS],
    }


def table(result: Mapping[str, Any]) -> str:
    """The same for people."""
    about = result["machine"]
    costs = [("a tick of the bare loop", result["bare_us"])]
    costs += [(f"  beyond it: {name.replace('_', ' ')}", us) for name, us in result["extra_us"].items()]
    costs += [(f"    {part}", us) for part, us in result["parts_us"].items()]
    costs += [("one measurement of the norms", result["norms_us"])]
    costs += [("  moment_lag beside them, where a policy reads it", result["moment_lag_us"])]
    costs += [("one snapshot", result["snapshot_us"])]
    costs += [("the journal's thread, a tick", result["journal_thread_us"])]
    rows = [("", "us"), *((name, f"{us:.1f}") for name, us in costs)]
    steps = [["a step of", "each tick", "norms", "snapshots", "total us", "share"]]
    for entry in result["at_step"]:
        each = [f"{entry[f'{what}_us']:.1f}" for what in ("tick", "norms", "snapshots", "total")]
        steps.append([f"{entry['step_ms']} ms", *each, f"{100 * entry['share']:.3f} %"])
    return "\n\n".join(
        (
            f"{about['processor']}, {about['cores']} cores, Python {about['python']}, torch "
            f"{about['torch']}; one thread, policy {result['policy']}, {result['ticks']} ticks",
            columns(rows),
            columns(steps),
        )
    )


def _rounded(values: Sequence[float]) -> float:
    return round(median(values), 1)


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
