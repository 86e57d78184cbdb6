"""A cut of the learning rate through a rollback: schedules keep their values, steps take the product."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_loop import Died, train
from torch.optim import lr_scheduler

from midcourse.controller.journal.reader import JournalReader

torch.set_num_threads(1)

FACTOR, HOLD, RAMP = 0.3, 8, 3
TRIGGER, TARGET = 28, 15
POLICY = f"""
version: 1
signals: [trigger]
snapshots: {{{{keep: 6, reach: 160, every: 5}}}}
rules:
  - name: back
    when: trigger.value > 0.5
    ladder:
      - [rollback: {{{{to: {{{{steps: 12}}}}, data: {{data}}}}}},
         scale_lr: {{{{factor: {FACTOR}, hold: {HOLD}, ramp: {RAMP}}}}}]
"""


class Plateau(lr_scheduler.ReduceLROnPlateau):
    """One that watches a measure of its own making: a cut changes the loss, and so would its schedule."""

    def step(self, metrics: Any, epoch: int | None = None) -> None:
        super().step(float(self.last_epoch % 7))


SCHEDULES: dict[str, Any] = {
    "lambda": lambda o: lr_scheduler.LambdaLR(o, lambda s: 1 / (1 + s)),
    "one cycle": lambda o: lr_scheduler.OneCycleLR(o, [0.01, 0.003], total_steps=70),
    "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, 40),
    "warm restarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 7, T_mult=2),
    "step": lambda o: lr_scheduler.StepLR(o, 6, gamma=0.5),
    "exponential": lambda o: lr_scheduler.ExponentialLR(o, 0.95),
    "linear": lambda o: lr_scheduler.LinearLR(o, 0.1, total_iters=30),
    "sequential": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.1, total_iters=18), lr_scheduler.CosineAnnealingLR(o, 40)], [18]
    ),
    "plateau": lambda o: Plateau(o, factor=0.8, patience=3),
}


class Recording(torch.optim.SGD):
    """Notes the rates that it steps with."""

    def __init__(self, parameters: Any, rates: list[list[float]]) -> None:
        weights, others = [], []
        for parameter in parameters:
            (weights if parameter.ndim > 1 else others).append(parameter)
        groups = [{"params": weights, "lr": 0.01}, {"params": others, "lr": 0.003}]
        super().__init__(groups, lr=0.01, momentum=0.9)
        self.rates = rates

    def step(self, closure: Any = None) -> Any:  # type: ignore[override]
        self.rates.append([group["lr"] for group in self.param_groups])
        return super().step(closure)


def rates(name: str, *how: Any, **triggers: Any) -> tuple[list[list[float]], list[list[float]]]:
    """Each step's rates inside it, and as the schedule showed them just before."""
    inside: list[list[float]] = []
    outside: list[list[float]] = []
    made: list[Recording] = []

    def optimizer(parameters: Any) -> torch.optim.Optimizer:
        made.append(Recording(parameters, inside))
        return made[0]

    def look(_: int, loss: torch.Tensor) -> torch.Tensor:
        outside.append([group["lr"] for group in made[0].param_groups])
        return loss

    train(*how, optimizer=optimizer, schedule=SCHEDULES[name], spoil=look, epochs=2, **triggers)
    return inside, outside


def factor(ticks_since: int) -> float:
    """What the layer makes of a rate in the n-th step under it."""
    strength = max(0.0, 1.0 - max(0, ticks_since - HOLD + 1) / (RAMP + 1))
    return 1.0 - strength + FACTOR * strength


@pytest.mark.parametrize("data", ["replay", "forward"])
@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_keeps_its_values_and_the_step_takes_them_times_the_layer(
    tmp_path: Path, name: str, data: str
) -> None:
    own, same = rates(name)
    assert own == same
    inside, outside = rates(name, tmp_path, POLICY.format(data=data), triggers={TRIGGER: 1.0})
    with JournalReader(tmp_path) as reader:
        assert reader.outcomes()[0].details["rollback"]["target_tick"] == TARGET
    back = TARGET if data == "replay" else TRIGGER
    assert outside == own[:TRIGGER] + own[back:]
    assert len(inside) > TRIGGER + HOLD + RAMP
    factors = [1.0] * TRIGGER + [factor(n) for n in range(len(inside) - TRIGGER)]
    assert factors[TRIGGER : TRIGGER + HOLD] == [FACTOR] * HOLD
    assert factors[TRIGGER + HOLD + RAMP] == 1.0
    assert inside == [[rate * f for rate in both] for both, f in zip(outside, factors, strict=True)]


@pytest.mark.parametrize("die_at", [31, 37], ids=["held", "ramping"])
@pytest.mark.parametrize("name", SCHEDULES)
def test_so_it_does_in_a_run_that_is_resumed(tmp_path: Path, name: str, die_at: int) -> None:
    policy = POLICY.format(data="replay") + "checkpoints: {every: 5, keep: 100}\n"
    inside, outside = rates(name, tmp_path / "whole", policy, triggers={TRIGGER: 1.0})
    with pytest.raises(Died):
        rates(name, tmp_path / "broken", policy, triggers={TRIGGER: 1.0}, die_at=die_at)
    rest_inside, rest_outside = rates(name, tmp_path / "broken", policy, resume="auto")
    # The newest checkpoint before the end is that of the act itself, or five ticks after it.
    assert len(rest_inside) == len(inside) - (TRIGGER if die_at == 31 else TRIGGER + 5)
    assert rest_outside == outside[-len(rest_outside) :]
    assert rest_inside == inside[-len(rest_inside) :]
