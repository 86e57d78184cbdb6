"""The loop that costs are measured in: an ordinary training that stands still after every tick.

Whatever is compared takes turns of a few ticks in one process, so that a busy machine slows all of it alike.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from timers import Timers
from torch.utils.data import TensorDataset

from midcourse import Controller, Mixture
from midcourse.controller import norms
from midcourse.policies.model import Mode
from midcourse.policies.policy import Policy, load_policy

TURN = 16  # ticks of an arm at a stretch that count, after one for the caches: as many as monitors let wait
WARM_UP = 160  # ticks before the first turn that counts: detectors take 64 measurements before they judge
NEVER = 10**9  # ticks between measurements of the norms, where they are to stay out of the picture
BATCH = 16
FEATURES = 16

Control = Callable[[Accelerator], Controller]
Signals = Sequence[Mapping[str, float]]
"""What a loop logs at each tick, in turn: made beforehand, so that making it costs no tick anything."""

Arm = Iterator[Controller | None]
"""A training, tick by tick."""

PARTS = ("signals", "monitors", "engine", "journal", "metrics", "loop")

WATCHED = (
    ("loop", "_wiring.cycle", "before_step after_step"),
    ("signals", "_recorder", "backward grad_norm log clear"),
    ("signals", "_recorder.by_source", "add"),
    ("signals", "_wiring.cycle._exchange", "measure"),
    ("monitors", "_records.pilot.bank", "judge_step update"),
    ("engine", "_records.pilot.engine", "judge_step tick"),
    ("journal", "_records.journal", "sample transition phase"),
    ("journal", "_records.pilot", "_follow_health"),
    ("metrics", "_records.metrics", "sample overhead override snapshot"),
    ("norms", "_wiring.cycle._norms", "before_step after_step"),
    ("snapshots", "_wiring.cycle._keeping", "if_due"),
    ("copies", "_wiring.cycle.run.ring", "take"),
)
"""What is timed of a controller: part, whose methods, which ones. What is renamed there is renamed here."""

ENTRANCES = "backward clipped requested pulled", "log log_examples"
"""Of the wiring and of the controller: what these and the steps take beyond the parts is the part "loop"."""

wiring_of = attrgetter("_wiring")
norms_of = attrgetter("_wiring.cycle._norms")
records_of = attrgetter("_records")


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
    seed: int,
    ticks: int,
    control: Control | None = None,
    *,
    passes: int = 1,
    empty_hooks: bool = False,
    signals: Signals = ({},),
    width: int = 32,
    after_forward: Callable[[], object] = lambda: None,
    **accelerate: Any,
) -> Arm:
    """Train tick by tick: an ordinary loop that stands still after each one.

    Args:
        seed: Of weights and data.
        ticks: How long a pass is.
        control: Makes the controller; None: the bare loop.
        passes: How many there are.
        empty_hooks: Put hooks that do nothing before and after the optimizer's step.
        signals: What is logged besides the losses of the sources.
        width: Of the hidden layer.
        after_forward: Called in every tick, to make it longer.
        accelerate: What the Accelerator is made with; default the CPU.
    """
    set_seed(seed)
    accelerator = Accelerator(**(accelerate or {"cpu": True}))
    controller = control(accelerator) if control else None
    model: Any = torch.nn.Sequential(
        torch.nn.Linear(FEATURES, width), torch.nn.ReLU(), torch.nn.Linear(width, 1)
    )
    optimizer: Any = torch.optim.AdamW(model.parameters(), lr=1e-3)
    scheduler: Any = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    mixture = Mixture(sources(seed), seed=seed, epoch_size=ticks * BATCH)
    if empty_hooks:
        optimizer.register_step_pre_hook(lambda *_: None)
        optimizer.register_step_post_hook(lambda *_: None)
    model, optimizer, loader, scheduler = accelerator.prepare(
        model, optimizer, mixture.loader(BATCH), scheduler
    )
    for _ in controller.epochs(passes) if controller else range(passes):
        for number, (x, y, source) in enumerate(loader):
            losses = (model(x) - y).square().mean(1)
            after_forward()
            if controller:
                controller.log_examples(losses, source)
                controller.log(examples_seen=float(number * BATCH), **signals[number % len(signals)])
            accelerator.backward(losses.mean())
            accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            yield controller
    accelerator.end_training()


def baseline(mode: Mode = Mode.ACT) -> Policy:
    """The shipped baseline policy in this mode."""
    return replace(load_policy("baseline"), mode=mode)


def controlled(policy: Policy, run_dir: Path, norms_every: int = NEVER) -> Control:
    """A controller that says nothing at its start."""
    return lambda accelerator: Controller(
        accelerator, policy=policy, run_dir=run_dir, norms_every=norms_every, say=lambda line: None
    )


def timed(timers: Timers, control: Control) -> Control:
    """The same controller with timers around its parts, from the optimizer's ``prepare`` on."""

    def make(accelerator: Accelerator) -> Controller:
        controller = control(accelerator)
        wiring = wiring_of(controller)
        prepared = wiring.prepared

        def then_watch(*parts: Any) -> None:
            prepared(*parts)
            wiring.declare_sources()  # else what is watched of the recorder would be replaced
            for part, owner, methods in WATCHED:
                timers.watch(part, attrgetter(owner)(controller), methods)
            timers.watch("moment_lag", norms, "moment_lag")  # which this policy does not read: for its cost
            norms_of(controller)._moments = wiring.cycle.run.optimizer

        for owner, methods in zip((wiring, controller), ENTRANCES, strict=True):
            timers.watch("loop", owner, methods)
        wiring.prepared = then_watch
        return controller

    return make


def take_turns(
    arms: Mapping[str, Arm], turns: int, seed: int, each: Callable[[str], None] = lambda arm: None
) -> dict[str, list[float]]:
    """Mean microseconds a tick of every arm's turns; ``each`` is called after every tick of a turn.

    Not their median: what waits at most ticks is done at one of them.
    """
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
            found[name].append(mean(ticks))
    return found


def ended(arms: Mapping[str, Arm]) -> None:
    """Let the arms come to their end, where a run is closed."""
    for arm in arms.values():
        for _ in arm:
            pass
