"""Capture and restore of everything that makes up a training state, odd optimizers included."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from odd_optimizer import Odd

from midcourse.controller.actuators.rollback import identical
from midcourse.controller.training_state import TrainingState

OPTIMIZERS: dict[str, Any] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "plain sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.1),
    "amsgrad": lambda p: torch.optim.Adam(p, lr=0.1, amsgrad=True),
    "fused": lambda p: torch.optim.AdamW(p, lr=0.1, fused=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1),
    "odd": Odd,
}


def build(name: str) -> tuple[Any, Any, TrainingState]:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 1))
    model.register_buffer("unsaved", torch.zeros(2), persistent=False)
    optimizer = OPTIMIZERS[name](model.parameters())
    accelerator = Accelerator(cpu=True)
    model, prepared = accelerator.prepare(model, optimizer)
    return model, prepared, TrainingState(accelerator, prepared.optimizer)


def advance(model: Any, optimizer: Any, steps: int) -> None:
    for step in range(steps):
        generator = torch.Generator().manual_seed(step)
        model(torch.randn(8, 3, generator=generator)).square().mean().backward()
        model.unsaved += 1
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("at", [0, 1, 3])
def test_training_goes_on_from_a_restored_state_as_it_did_before(name: str, at: int) -> None:
    model, optimizer, state = build(name)
    advance(model, optimizer, at)
    kept, small = [t.clone() for t in state.tensors()], state.small()
    advance(model, optimizer, 4)
    first = [t.clone() for t in state.tensors()]
    state.restore(kept, small, rewind=True)
    assert identical(state.tensors(), kept)
    assert all(p.grad is None for p in model.parameters())
    advance(model, optimizer, 4)
    assert identical(state.tensors(), first)


class Lazy(torch.nn.Module):
    """Buffers that are made, grow and go while it is used, and parameters that a step may leave alone."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = torch.nn.Linear(3, 1), torch.nn.Linear(3, 1)
        self.register_buffer("cache", None)
        self.register_buffer("scale", torch.ones(1), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seen = 0 if self.cache is None else len(self.cache)
        self.cache = torch.arange(seen + 1.0)
        if seen == 2:
            self.register_buffer("late", torch.full((2,), 0.5), persistent=False)
        if seen == 3:
            del self.scale
        scale = getattr(self, "scale", torch.full((1,), 2.0)) + getattr(self, "late", torch.zeros(2)).sum()
        chosen = self.unused if seen % 3 == 2 else self.used
        return chosen(x) * scale * self.cache.sum()


@pytest.mark.parametrize("set_to_none", [True, False])
@pytest.mark.parametrize("at", [0, 1, 3, 4])
def test_buffers_made_late_and_gradients_of_unused_parameters_are_as_they_were(
    at: int, set_to_none: bool
) -> None:
    torch.manual_seed(0)
    accelerator = Accelerator(cpu=True)
    model, optimizer = accelerator.prepare(lazy := Lazy(), torch.optim.AdamW(lazy.parameters(), lr=0.1))
    state = TrainingState(accelerator, optimizer.optimizer)

    def go_on(steps: int) -> list[torch.Tensor]:
        for _ in range(steps):
            model(torch.ones(2, 3)).square().mean().backward()
            optimizer.optimizer.step()
            optimizer.optimizer.zero_grad(set_to_none=set_to_none)
        return [t.clone() for t in state.tensors()]

    kept, small = go_on(at), state.small()
    first = go_on(5)
    state.restore(kept, small, rewind=True)
    assert identical(state.tensors(), kept)
    assert ("late" in lazy._buffers, "scale" in lazy._buffers) == (at > 2, at < 4)
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())
    assert identical(go_on(5), first)


def test_a_snapshot_is_not_changed_by_the_training_that_follows_a_restore() -> None:
    model, optimizer, state = build("adamw")
    advance(model, optimizer, 2)
    kept, small = [t.clone() for t in state.tensors()], state.small()
    before = [t.clone() for t in kept]
    for _ in range(3):
        state.restore(kept, small, rewind=True)
        advance(model, optimizer, 2)
    assert identical(kept, before)


def test_schedule_and_hyperparameters_come_back_only_with_a_rewind() -> None:
    model, optimizer, state = build("sgd")
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer.optimizer, 0.5, total_steps=10)
    state.register("schedule", schedule)
    small, kept = state.small(), [t.clone() for t in state.tensors()]
    before = dict(optimizer.param_groups[0], params=None)
    advance(model, optimizer, 1)
    schedule.step()
    moved = dict(optimizer.param_groups[0], params=None)
    assert moved["lr"] != before["lr"]
    state.restore(kept, small, rewind=False)
    assert dict(optimizer.param_groups[0], params=None) == moved
    state.restore(kept, small, rewind=True)
    assert dict(optimizer.param_groups[0], params=None) == before
    assert schedule.last_epoch == 0


def test_what_cannot_be_restored_is_not_registered() -> None:
    _, _, state = build("sgd")
    with pytest.raises(TypeError, match="int has no state_dict"):
        state.register("count", 3)  # type: ignore[arg-type]


def test_a_scheduler_nobody_prepared_is_noticed(tmp_path: Path) -> None:
    _, optimizer, state = build("sgd")
    assert state.schedule_is_known
    schedule = torch.optim.lr_scheduler.StepLR(optimizer.optimizer, 5)
    assert not state.schedule_is_known
    state.register("schedule", schedule)
    assert state.schedule_is_known


def test_identical_compares_bits() -> None:
    nan, one = torch.tensor([float("nan")]), torch.tensor([1.0])
    assert identical([nan, one], [nan.clone(), one.clone()])
    assert not identical([one], [one + 1e-7])
    assert not identical([one], [])
