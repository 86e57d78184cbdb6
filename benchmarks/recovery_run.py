"""One run of the recovery benchmark: an ordinary Accelerate loop, the same for every arm."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from recovery_arms import PEERS, Arm, Parts
from recovery_faults import FAULTS, START, Storage
from recovery_midcourse import Hindsight, Midcourse, sequences
from recovery_worlds import STEPS, losses, validate, world

MIDCOURSE, CLIPPED = "midcourse", "midcourse+clip"
HINDSIGHT = "hindsight"  # with ": " and a sequence's name in a run, alone in a table


@dataclass(frozen=True, slots=True)
class Task:
    """Which run."""

    world: str
    fault: str
    arm: str
    seed: int


def make_arm(task: Task, accelerator: Any, folder: Path) -> Arm:
    """The arm of a run, by its name."""
    name, _, sequence = task.arm.partition(": ")
    if name == HINDSIGHT:
        known = sequences(task.fault, world(task.world).names)
        return Hindsight(accelerator, known[sequence], FAULTS[task.fault], folder)
    if name in (MIDCOURSE, CLIPPED):
        return Midcourse(accelerator, "baseline", folder, clip=name == CLIPPED)
    return PEERS[name]()


def run(task: Task) -> dict[str, Any]:
    """Train once, in a process that may train many: the task, how it ended, and what the arm did."""
    torch.set_num_threads(1)
    logging.getLogger("midcourse").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder:
        return train(task, Path(folder) / "run")


def train(task: Task, folder: Path) -> dict[str, Any]:
    """The loop. The seed alone gives initial weights and data, whatever the arm."""
    began, here, fault = time.perf_counter(), world(task.world), FAULTS[task.fault]
    set_seed(task.seed)
    accelerator = Accelerator(cpu=True)
    control = make_arm(task, accelerator, folder)
    storage = Storage(here, fault, task.seed)
    model: Any = here.model()
    untrained = validate(model, here.held_out)
    optimizer: Any = torch.optim.AdamW(model.parameters(), lr=here.rate)
    scheduler: Any = torch.optim.lr_scheduler.LambdaLR(optimizer, fault.rate)
    model, optimizer, loader, scheduler = accelerator.prepare(
        model, optimizer, storage.mixture.loader(here.batch_size), scheduler
    )
    control.prepared(Parts(model, optimizer, scheduler, storage.mixture, here.batch_size))

    tick = 0
    for _ in control.epochs(1):
        for batch in loader:
            if tick == START:
                fault.strikes(model, optimizer.optimizer)
            each = losses(model, batch["read"], batch["target"])
            each = each + (batch["gain"].float() - 1) * (each - each.detach())  # the value stays, NaN aside
            control.log_examples(each, batch["group"])
            loss = each.mean()
            accelerator.backward(loss)
            if control.takes(loss):
                optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            tick += 1
            if control.breaks():
                break
    accelerator.end_training()
    return {
        **asdict(task),
        "loss": _plain(validate(model, here.held_out)),
        "untrained": untrained,
        "steps": STEPS,
        "ticks": tick,
        **asdict(control.told()),
        "seconds": round(time.perf_counter() - began, 2),
    }


def _plain(ended: Mapping[str, float]) -> dict[str, float | None]:
    """JSON knows no NaN."""
    return {name: loss if isfinite(loss) else None for name, loss in ended.items()}
