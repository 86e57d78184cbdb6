"""The demo's training run: one ordinary Accelerate loop, used by all three arms."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor, nn

from ..mixture import Mixture
from .corpus import Corpus
from .faults import Faults, Storage, schedule
from .model import ByteTransformer, byte_losses

if TYPE_CHECKING:
    from ..controller import Controller

BATCH_SIZE = 16
PEAK_RATE = 3e-3


@dataclass(frozen=True, slots=True)
class Plan:
    """How long the run is, in optimizer steps, and what goes wrong in it (None: nothing)."""

    epochs: int
    steps_per_epoch: int
    warmup: int
    faults: Faults | None

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.epochs * self.steps_per_epoch

    def without_faults(self) -> Plan:
        """The clean twin's plan."""
        return replace(self, faults=None)


FULL = Plan(epochs=4, steps_per_epoch=400, warmup=50, faults=Faults("code", 400, 520, 1100, 10.0))
QUICK = Plan(epochs=2, steps_per_epoch=210, warmup=30, faults=Faults("code", 120, 160, 310, 10.0))


@dataclass(frozen=True, slots=True)
class Progress:
    """One update that was made: its number from 1 on, its schedule step, its loss and learning rate."""

    tick: int
    step: int
    loss: float
    rate: float


@dataclass(frozen=True, slots=True)
class Run:
    """How a run ended. ``validation`` is the loss on each source, in nats a byte.

    ``ticks`` counts the updates made, those taken back included; ``restart_tick`` is the first one at
    the wrong learning rate, None if there was none.
    """

    validation: dict[str, float]
    ticks: int
    restart_tick: int | None
    seconds: float

    @property
    def loss(self) -> float:
        """Validation loss, averaged over the sources."""
        return sum(self.validation.values()) / len(self.validation)


def train(
    plan: Plan,
    corpus: Corpus,
    seed: int,
    watch: Callable[[Progress], None],
    control: Callable[[Accelerator], Controller] | None = None,
) -> Run:
    """Train a fresh model by the plan; ``control`` makes the Controller, where there is one.

    The same seed gives the same initial weights and the same data order, with and without faults.
    """
    began = time.perf_counter()
    set_seed(seed)
    accelerator = Accelerator(cpu=True)
    controller = control(accelerator) if control else None
    storage = Storage(corpus, plan.faults, BATCH_SIZE)
    mixture = Mixture(
        storage.shelves,
        weights=dict.fromkeys(storage.shelves, 1.0),
        seed=seed,
        epoch_size=plan.steps_per_epoch * BATCH_SIZE,
    )
    model: nn.Module = ByteTransformer()
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_RATE)
    multiplier = schedule(plan.steps, plan.warmup, plan.faults)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, multiplier)
    model, optimizer, loader, scheduler = accelerator.prepare(
        model, optimizer, mixture.loader(BATCH_SIZE), scheduler
    )

    tick, restart_tick = 0, None
    for _ in controller.epochs(plan.epochs) if controller else range(plan.epochs):
        for batch in loader:
            losses = byte_losses(model, batch["bytes"])
            if controller:
                controller.log_examples(losses, batch["source"])
            accelerator.backward(losses.mean())
            accelerator.clip_grad_norm_(model.parameters(), 1.0)
            tick += 1
            step, rate = scheduler.scheduler.last_epoch, scheduler.get_last_lr()[0]
            if plan.faults and step >= plan.faults.restart_at:
                restart_tick = restart_tick or tick
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            watch(Progress(tick, step, losses.mean().item(), rate))
    accelerator.end_training()
    return Run(validate(model, corpus.validation), tick, restart_tick, time.perf_counter() - began)


@torch.no_grad()
def validate(model: nn.Module, held_out: dict[str, Tensor]) -> dict[str, float]:
    """Mean loss in nats a byte on each source's held-out text."""
    return {name: byte_losses(model, text).mean().item() for name, text in held_out.items()}
