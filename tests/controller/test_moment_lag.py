"""The lag of Adam's second moment: by hand, where it is not measured, and that it changes nothing."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from small_loop import train

from midcourse.controller.journal.reader import JournalReader
from midcourse.controller.norms import Norms, moment_lag, why_no_lag
from midcourse.monitors.scale import LOG_SIGNALS
from midcourse.monitors.types import BUILTIN_SIGNALS

KEEP_A_MOMENT = [
    lambda p: torch.optim.Adam(p, lr=1e-3),
    lambda p: torch.optim.AdamW(p, lr=1e-3, fused=True),
    lambda p: torch.optim.NAdam(p, lr=1e-3),
    lambda p: torch.optim.RAdam(p, lr=1e-3),
]
KEEP_NONE = [
    lambda p: torch.optim.SGD(p, lr=1e-3, momentum=0.9),
    lambda p: torch.optim.Adagrad(p, lr=1e-3),
    lambda p: torch.optim.Adamax(p, lr=1e-3),
    lambda p: torch.optim.RMSprop(p, lr=1e-3),
]


def parameters(*sizes: int, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.nn.Parameter(torch.randn(size, generator=generator, dtype=torch.float64).to(dtype))
        for size in sizes
    ]


def sgd(tensors: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(tensors, lr=1e-2, momentum=0.9)


def set_gradients(tensors: list[torch.Tensor], *gradients: Any) -> None:
    for tensor, gradient in zip(tensors, gradients, strict=True):
        tensor.grad = None if gradient is None else torch.as_tensor(gradient, dtype=tensor.dtype)


def number(optimizer: torch.optim.Optimizer) -> float:
    lag = moment_lag(optimizer)
    assert lag is not None
    return float(lag)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_it_is_the_largest_of_gradients_over_what_the_moments_remember(dtype: torch.dtype) -> None:
    a, b, c = parameters(3, 2, 4, dtype=dtype)
    groups = [{"params": [a, b], "betas": (0.9, 0.99)}, {"params": [c], "betas": (0.9, 0.5)}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3)
    history: list[list[list[float]]] = [
        [[3.0, 0.0, 4.0], [1.0, 1.0], [1.0, 2.0, 3.0, 4.0]],
        [[1.0, 2.0, 2.0], [0.0, 0.0], [8.0, 0.0, 0.0, 0.0]],
        [[6.0, 0.0, 0.0], [0.5, 0.5], [0.0, 0.0, 4.0, 3.0]],
        [[0.0, 0.0, 0.5], [5.0, 0.0], [2.0, 0.0, 0.0, 0.0]],
    ]
    told = []
    memory = [0.0, 0.0, 0.0]
    for step, gradients in enumerate(history):
        set_gradients([a, b, c], *gradients)
        if step == 0:
            assert moment_lag(optimizer) is None
        else:
            squares = [sum(g * g for g in gradient) for gradient in gradients]
            hats = [m / (1 - beta**step) for m, beta in zip(memory, (0.99, 0.99, 0.5), strict=True)]
            told.append(number(optimizer))
            expected = max(math.sqrt(s / h) for s, h in zip(squares, hats, strict=True))
            assert told[-1] == pytest.approx(expected, rel=1e-2 if dtype is torch.bfloat16 else 1e-3)
        optimizer.step()
        memory = [
            beta * m + (1 - beta) * sum(g * g for g in gradient)
            for m, beta, gradient in zip(memory, (0.99, 0.99, 0.5), gradients, strict=True)
        ]
    # Of another tensor each time: c, then a, then b.
    assert told == pytest.approx([1.461, 1.457, 5.494], abs=0.01)


@pytest.mark.parametrize("make", KEEP_A_MOMENT)
def test_gradients_that_grow_at_once_are_ahead_of_every_adam_by_as_much(make: Any) -> None:
    (p,) = parameters(50)
    optimizer = make([p])
    for _ in range(5):
        set_gradients([p], torch.ones(50))
        optimizer.step()
    assert number(optimizer) == pytest.approx(1.0, rel=1e-3)
    set_gradients([p], torch.full((50,), 7.0))
    assert number(optimizer) == pytest.approx(7.0, rel=1e-3)


@pytest.mark.parametrize("make", KEEP_NONE)
def test_it_is_not_measured_where_there_is_no_such_moment(make: Any) -> None:
    (p,) = parameters(5)
    optimizer = make([p])
    norms = Norms([p], every=1, moments=optimizer)
    for tick in (1, 2):
        set_gradients([p], torch.ones(5))
        norms.before_step(tick)
        optimizer.step()
        assert set(norms.after_step(tick, 1.0)) == {"param_norm", "update_ratio"}


def test_an_optimizer_that_averages_squares_without_a_beta2_is_left_alone() -> None:
    (p,) = parameters(5)
    optimizer = torch.optim.AdamW([p])
    set_gradients([p], torch.ones(5))
    optimizer.step()
    del optimizer.param_groups[0]["betas"]  # as Adafactor, whose average forgets at another rate each step
    assert moment_lag(optimizer) is None


READS = """
version: 1
mode: observe
monitors:
  lag: {{type: sustained_rise, signal: {signal}}}
rules:
  - name: told
    when: {when}
    ladder: [[notify: {{message: high}}]]
"""


@pytest.mark.parametrize(
    ("signal", "when", "measured"),
    [("moment_lag", "lag.bad", True), ("loss", "moment_lag.z > 9", True), ("loss", "lag.bad", False)],
)
def test_it_is_measured_where_a_policy_reads_it(
    tmp_path: Path, signal: str, when: str, measured: bool
) -> None:
    policy = READS.format(signal=signal, when=when)
    trace = train(tmp_path, policy, epochs=1, norms_every=3)
    with JournalReader(tmp_path) as reader:
        ticks = [sample.tick for sample in reader.samples() if "moment_lag" in sample.signals]
    # Not at the first of the ticks 1, 4, 7...: there is no moment before it.
    assert ticks == ([tick for tick in trace.ticks if tick % 3 == 1 and tick > 1] if measured else [])
    assert trace.matches(train(epochs=1))


def test_a_policy_that_reads_it_in_vain_is_told_so(tmp_path: Path) -> None:
    said: list[str] = []
    policy = READS.format(signal="moment_lag", when="lag.bad")
    trace = train(tmp_path, policy, epochs=1, optimizer=sgd, say=said.append)
    assert any("moment_lag: not measured, because SGD keeps no second moment" in line for line in said)
    assert trace.matches(train(epochs=1, optimizer=sgd))
    assert "spread" in str(why_no_lag(torch.optim.AdamW(parameters(2)), spread=True))


def test_it_goes_with_the_norms_from_the_second_step_on() -> None:
    (p,) = parameters(5)
    optimizer = torch.optim.AdamW([p])
    norms = Norms([p], every=1, moments=optimizer)
    told = []
    for tick in (1, 2, 3):
        set_gradients([p], torch.full((5,), float(tick)))
        norms.before_step(tick, closure=tick == 3)
        optimizer.step()
        told.append(norms.after_step(tick, 1.0).get("moment_lag"))
    # Before the first step there is no moment; within a closure's step there are no gradients beforehand.
    assert told[0] is told[2] is None
    assert float(told[1]) == pytest.approx(2.0, rel=1e-3)
    assert "moment_lag" in LOG_SIGNALS.intersection(BUILTIN_SIGNALS)


def test_tensors_that_say_nothing_are_left_out() -> None:
    used, idle, fresh, late = parameters(2, 2, 2, 2)
    optimizer = torch.optim.AdamW([used, idle, fresh, late])
    set_gradients([used, idle, fresh, late], [1.0, 1.0], [1.0, 1.0], [0.0, 0.0], None)
    optimizer.step()
    # One has no gradient now, one's were all zero so far, one has never had any.
    set_gradients([used, idle, fresh, late], [3.0, 3.0], None, [9.0, 9.0], [9.0, 9.0])
    assert number(optimizer) == pytest.approx(3.0, rel=1e-3)


def test_a_gradient_that_is_no_number_is_a_measurement() -> None:
    a, b = parameters(2, 2)
    optimizer = torch.optim.AdamW([a, b])
    set_gradients([a, b], [1.0, 1.0], [1.0, 1.0])
    optimizer.step()
    set_gradients([a, b], [math.nan, 1.0], [1.0, 1.0])
    assert math.isnan(number(optimizer))
    optimizer.step()
    set_gradients([a, b], [1.0, 1.0], [1.0, 1.0])
    assert math.isnan(number(optimizer)), "the moment is none any more"


def test_steps_may_be_counted_in_plain_numbers() -> None:
    (p,) = parameters(4)
    optimizer = torch.optim.AdamW([p])
    for gradient in (1.0, 2.0, 5.0):
        set_gradients([p], torch.full((4,), gradient))
        optimizer.step()
    set_gradients([p], torch.full((4,), 3.0))
    counted = number(optimizer)
    for plain in (int(optimizer.state[p]["step"]), float(optimizer.state[p]["step"])):
        optimizer.state[p]["step"] = plain
        assert number(optimizer) == counted


@pytest.mark.parametrize("clips", [True, False])
def test_a_fused_step_under_a_gradient_scaler_tells_the_same(clips: bool) -> None:
    told = []
    for scaled in (True, False):
        (p,) = parameters(6)
        optimizer = torch.optim.AdamW([p], lr=0.1, fused=True)
        optimizer.register_step_pre_hook(lambda inner, *_: told.append(moment_lag(inner)))
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, enabled=scaled)
        for target in (0.0, 1.0, 9.0):
            scaler.scale((p - target).square().sum()).backward()
            if clips:
                scaler.unscale_(optimizer)
                torch.nn.utils.clip_grad_norm_([p], 5.0)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
    assert told[0] is told[3] is None
    assert [float(lag) for lag in told[1:3]] == pytest.approx([float(lag) for lag in told[4:]], rel=1e-4)


@pytest.mark.parametrize("make", [*KEEP_A_MOMENT, *KEEP_NONE])
def test_training_is_bit_for_bit_the_same(make: Any) -> None:
    ends = []
    for watched in (False, True):
        tensors = parameters(5, 7)
        optimizer = make(tensors)
        norms = Norms(tensors, every=1, moments=optimizer)
        for tick in range(1, 6):
            loss = sum((p - k).square().sum() for k, p in enumerate(tensors))
            loss.backward()  # type: ignore[union-attr]
            if watched:
                norms.before_step(tick)
            optimizer.step()
            if watched:
                norms.after_step(tick, 1.0)
            optimizer.zero_grad()
        state = [optimizer.state[p] for p in tensors]
        ends.append(([p.detach().clone() for p in tensors], state))
    for one, other in zip(*(end[0] for end in ends), strict=True):
        assert torch.equal(one, other)
    for one, other in zip(*(end[1] for end in ends), strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(torch.as_tensor(one[k]), torch.as_tensor(other[k])) for k in one)
