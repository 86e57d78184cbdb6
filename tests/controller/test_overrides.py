"""Layers: composed by product, withdrawn exactly, over when they are over."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from midcourse.controller.learning_rate import LearningRate
from midcourse.controller.overrides import Kind, Layer, Layers

layers = st.builds(
    Layer,
    decision=st.sampled_from(["a@1", "b@2", "c@3"]),
    target=st.just("lr"),
    kind=st.just(Kind.SCALE),
    value=st.floats(0.0, 4.0),
    start=st.integers(0, 50),
    hold=st.none() | st.integers(0, 30),
    ramp=st.integers(0, 30),
)


def stack(entries: list[Layer]) -> Layers:
    made = Layers()
    for layer in entries:
        made.add(layer)
    return made


def test_a_layer_holds_then_ramps_back_then_is_gone() -> None:
    layer = Layer("a@1", "lr", Kind.SCALE, 0.5, start=10, hold=5, ramp=4)
    made = stack([layer])
    values = [made.value("lr", 1.0, tick) for tick in range(10, 21)]
    assert values[:5] == [0.5] * 5
    assert values[5:9] == pytest.approx([0.6, 0.7, 0.8, 0.9])
    assert values[9:] == [1.0, 1.0]
    assert made.expire(18) == set()
    assert made.expire(19) == {"lr"}
    assert not made


def test_the_newest_set_rate_replaces_the_schedule_and_cuts_still_multiply() -> None:
    made = stack(
        [
            Layer("a@1", "lr", Kind.SET, 3.0, 0),
            Layer("b@2", "lr", Kind.SCALE, 0.5, 0),
            Layer("c@3", "lr", Kind.SET, 8.0, 0),
        ]
    )
    assert made.value("lr", 1.0, 1) == 4.0
    made.withdraw("c@3")
    assert made.value("lr", 1.0, 1) == 1.5


@given(st.lists(layers, max_size=8), st.sampled_from(["a@1", "b@2", "c@3"]), st.integers(0, 120))
def test_withdrawing_leaves_exactly_the_product_of_the_others(
    entries: list[Layer], decision: str, tick: int
) -> None:
    made = stack(entries)
    made.withdraw(decision)
    others = stack([layer for layer in entries if layer.decision != decision])
    assert made.value("lr", 0.1, tick) == others.value("lr", 0.1, tick)


@given(st.lists(layers, max_size=8), st.integers(0, 120))
def test_expiring_changes_no_value_from_then_on(entries: list[Layer], tick: int) -> None:
    kept, expired = stack(entries), stack(entries)
    expired.expire(tick)
    for later in range(tick, tick + 40):
        assert expired.value("lr", 1.0, later) == kept.value("lr", 1.0, later)


@given(st.lists(layers, max_size=8))
def test_state_round_trip(entries: list[Layer]) -> None:
    made, again = stack(entries), Layers()
    again.load_state_dict(made.state_dict())
    assert list(again) == list(made)


SCHEDULES = {
    "none": lambda o: None,
    "lambda": lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda s: 1 / (1 + s)),
    "cosine": lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 30),
    "one cycle": lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.1, total_steps=40),
    "warm restarts": lambda o: torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(o, 7),
    "exponential": lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.95),
    "step": lambda o: torch.optim.lr_scheduler.StepLR(o, 5),
}


def scheduled_rates(name: str, made: Layers, *, tensor: bool = False) -> tuple[list[float], list[float]]:
    """Effective rates seen inside the step, and the schedule's own as seen outside it."""
    parameter = torch.nn.Parameter(torch.ones(1))
    rate = torch.tensor(0.1) if tensor else 0.1
    optimizer = torch.optim.SGD([parameter], lr=rate)
    schedule = SCHEDULES[name](optimizer)
    control = LearningRate(optimizer, made)
    inside, outside = [], []
    for tick in range(1, 31):
        parameter.grad = torch.zeros(1)
        control.apply(tick)
        inside.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        control.release()
        outside.append(float(optimizer.param_groups[0]["lr"]))
        if schedule is not None:
            schedule.step()
    return inside, outside


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_keeps_its_own_values_under_a_cut(name: str) -> None:
    plain, _ = scheduled_rates(name, Layers())
    inside, outside = scheduled_rates(name, stack([Layer("a@1", "lr", Kind.SCALE, 0.5, 8, 6, 4)]))
    assert outside == plain
    factors = [1.0] * 7 + [0.5] * 6 + [0.6, 0.7, 0.8, 0.9] + [1.0] * 13
    assert inside == pytest.approx([own * factor for own, factor in zip(plain, factors, strict=True)])


def test_a_tensor_rate_is_changed_in_place_and_put_back() -> None:
    inside, outside = scheduled_rates("none", stack([Layer("a@1", "lr", Kind.SET, 0.02, 0)]), tensor=True)
    assert inside == pytest.approx([0.02] * 30)
    assert outside == pytest.approx([0.1] * 30)


def test_a_set_rate_is_the_largest_groups_and_the_others_keep_their_ratio() -> None:
    a, b = torch.nn.Parameter(torch.ones(1)), torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([{"params": [a], "lr": 0.1}, {"params": [b], "lr": 0.01}])
    control = LearningRate(optimizer, stack([Layer("a@1", "lr", Kind.SET, 1.0, 0)]))
    control.apply(1)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([1.0, 0.1])
    control.release()
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.01]
    assert not math.isnan(control.effective)
