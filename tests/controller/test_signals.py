"""What a tick measures: the loss the loop means, norms, per-source means, and nothing invented."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from midcourse.controller.norms import LONGEST, MAX_SHARE, Norms, cadence
from midcourse.controller.signals import Recorder, hand_divisor, unpack
from midcourse.controller.source_losses import SourceLosses


def measured(recorder: Recorder) -> dict[str, float]:
    signals = unpack(recorder.names, *recorder.on_host())
    signals.pop("control")
    return signals


def loss_of(value: float) -> torch.Tensor:
    return torch.tensor(value, requires_grad=True) * 1.0


def test_the_loss_is_the_mean_over_micro_batches() -> None:
    recorder = Recorder()
    for value in (1.0, 2.0, 6.0):
        recorder.backward(loss_of(value))
    assert measured(recorder) == {"loss": 3.0}


def test_a_loss_divided_by_hand_is_given_back_its_size() -> None:
    recorder = Recorder()
    for value in (1.0, 2.0, 6.0):
        recorder.backward(loss_of(value) / 3)
    assert measured(recorder)["loss"] == pytest.approx(3.0)
    recorder.clear()
    # The last window of an epoch is shorter; the loop divides by the same number.
    recorder.backward(loss_of(4.0) / 3)
    assert measured(recorder)["loss"] == pytest.approx(4.0)


def test_a_mean_over_the_batch_is_no_accumulation() -> None:
    recorder = Recorder()
    # One window does not tell the two apart.
    recorder.backward(loss_of(8.0) / 4)
    assert measured(recorder) == {}
    recorder.clear()
    recorder.backward(loss_of(8.0) / 4)
    assert measured(recorder)["loss"] == 2.0


def test_a_short_first_window_is_no_measurement() -> None:
    recorder = Recorder()
    recorder.backward(loss_of(8.0) / 2)
    assert measured(recorder) == {}
    recorder.clear()
    recorder.backward(loss_of(4.0) / 2)
    recorder.backward(loss_of(6.0) / 2)
    assert measured(recorder)["loss"] == 5.0


def test_shares_of_a_windows_loss_are_added_up() -> None:
    recorder = Recorder()
    for share in (1.0, 2.0, 3.0, 4.0):
        recorder.backward(loss_of(share) * 4 * 1, steps=4)
    assert measured(recorder)["loss"] == 10.0
    recorder.clear()
    # The last window of an epoch holds fewer micro-batches; Accelerate divides by the same number.
    recorder.backward(loss_of(9.0) * 4 * 2, steps=4, processes=2)
    assert measured(recorder)["loss"] == 18.0  # the mean over both processes' 18 and 0, say, is 9


def test_undivided_micro_batches_leave_a_doubt() -> None:
    recorder = Recorder()
    recorder.backward(loss_of(1.0))
    assert recorder.doubt is None
    recorder.backward(loss_of(1.0))
    assert "controller.log(loss=...)" in str(recorder.doubt)
    recorder.log({"loss": 2.0})
    assert recorder.doubt is None


@pytest.mark.parametrize(
    ("loss", "divisor"),
    [
        (loss_of(2.0) / 4, 4.0),
        (loss_of(2.0) / 4.0, 4.0),
        (loss_of(2.0) / 4.5, 1.0),
        (loss_of(2.0) / torch.tensor(4.0), 1.0),
        (loss_of(2.0) * 4, 1.0),
        (torch.tensor(2.0), 1.0),
    ],
)
def test_only_division_by_a_whole_python_number_counts(loss: torch.Tensor, divisor: float) -> None:
    assert hand_divisor(loss) == divisor


def test_what_the_loop_logs_is_averaged_and_overrides_the_loss() -> None:
    recorder = Recorder()
    recorder.backward(loss_of(100.0))
    recorder.log({"loss": 1.0, "aux": 2.0})
    recorder.log({"loss": 3.0})
    assert measured(recorder) == {"loss": 2.0, "aux": 2.0}


def test_what_was_not_measured_is_missing_and_nan_is_a_measurement() -> None:
    recorder = Recorder(sources=("a", "b"), logged=["aux"])
    recorder.backward(loss_of(math.nan))
    recorder.by_source.add(torch.tensor([1.0, 3.0]), torch.tensor([1, 1]))
    signals = measured(recorder)
    assert set(signals) == {"loss", "loss/source=b"}
    assert math.isnan(signals["loss"])
    assert signals["loss/source=b"] == 2.0


def test_sources_may_be_named_and_mistakes_are_told() -> None:
    recorder = Recorder(sources=("a", "b"))
    recorder.by_source.add(torch.tensor([1.0, 3.0]), ["b", "a"])
    assert measured(recorder) == {"loss/source=a": 3.0, "loss/source=b": 1.0}
    with pytest.raises(ValueError, match=r"unknown sources \['x'\]"):
        recorder.by_source.add(torch.tensor([1.0]), ["x"])
    with pytest.raises(ValueError, match="2 losses but 1 sources"):
        recorder.by_source.add(torch.tensor([1.0, 2.0]), ["a"])
    with pytest.raises(ValueError, match="need names"):
        Recorder().by_source.add(torch.tensor([1.0]), torch.tensor([0]))


def test_many_examples_add_up_as_few_do() -> None:
    losses, numbers = torch.rand(1000, dtype=torch.float64), torch.arange(1000) % 2
    whole, halves = Recorder(sources=("a", "b")), Recorder(sources=("a", "b"))
    whole.by_source.add(losses, numbers)
    for some in range(0, 1000, 100):
        halves.by_source.add(losses[some : some + 100], numbers[some : some + 100])
    assert measured(whole) == pytest.approx(measured(halves))


@pytest.mark.parametrize("numbers", [[-1, 0], [0, 2], [-1, 0] * 200, [0, 2] * 200])
def test_a_number_that_is_no_source_is_told(numbers: list[int]) -> None:
    recorder = Recorder(sources=("a", "b"))
    with pytest.raises(ValueError, match=rf"numbered 0 to 1, got {numbers[0]} to {numbers[1]}"):
        recorder.by_source.add(torch.ones(len(numbers)), torch.tensor(numbers))
    assert measured(recorder) == {}


def test_what_lies_on_a_device_is_added_to_what_lies_on_the_host() -> None:
    losses = SourceLosses(("a", "b"))
    losses.add(torch.tensor([1.0, 3.0]), ["a", "b"])
    losses._add_on_device(torch.tensor([2.0, 4.0]), torch.tensor([1, 1]))
    assert losses.host() == ([1.0, 9.0], [1.0, 3.0])
    sums, counts = losses.device(torch.device("cpu"), torch.float64)
    assert (sums.tolist(), counts.tolist()) == losses.host()


names = st.sampled_from(["aux", "kl", "eval/loss"])


@given(
    st.lists(st.floats(-1e6, 1e6), max_size=4),
    st.lists(st.tuples(names, st.floats(-1e6, 1e6)), max_size=5),
    st.lists(st.tuples(st.integers(0, 2), st.floats(-1e3, 1e3, width=32)), max_size=6),
    st.none() | st.floats(0.0, 1e300),
)
def test_host_and_device_vectors_say_the_same(
    losses: list[float],
    logged: list[tuple[str, float]],
    examples: list[tuple[int, float]],
    norm: float | None,
) -> None:
    recorder = Recorder(sources=("a", "b", "c"))
    for loss in losses:
        recorder.backward(torch.tensor(loss, dtype=torch.float64))
    for name, value in logged:
        recorder.log({name: value})
    if examples:
        recorder.by_source.add(torch.tensor([v for _, v in examples]), torch.tensor([n for n, _ in examples]))
    sums, counts = recorder.on_host(3.0)
    assert [*sums, *counts] == recorder.device_vector(torch.device("cpu"), 3.0).tolist()
    # One process needs no vector, and has the same signals in the same order to the last bit.
    recorder.grad_norm(norm)
    for planned in ({"c": 0.5, "a": 0.2, "b": 0.3}, {"c": 0.5, "a": 0.0, "gone": 0.5}):
        told = unpack(recorder.names, *recorder.on_host(3.0), recorder.supply(planned))
        del told["control"]
        assert list(told.items()) == list(recorder.measured(planned).items())


def test_the_norms_are_those_of_parameters_and_update() -> None:
    parameter = torch.tensor([3.0, 4.0])
    norms = Norms([parameter], every=2)
    norms.before_step(1)
    parameter += torch.tensor([0.3, 0.4])
    told = norms.after_step(1, 0.01)
    assert float(told["param_norm"]) == pytest.approx(5.5)
    assert float(told["update_ratio"]) == pytest.approx(0.5 / 5.5)
    norms.before_step(2)
    assert norms.after_step(2, 0.01) == {}
    norms.before_step(3)
    assert norms.after_step(3, 0.01)


def test_the_cadence_of_the_norms_follows_from_their_cost() -> None:
    time = iter(range(100))
    norms = Norms([torch.ones(2)], clock=lambda: next(time) * 1e-3)
    norms.before_step(1)
    assert norms.after_step(1, step_seconds=0.02)
    # 2 ms of 20 ms steps at a fifth of a percent: every 50 ticks.
    assert norms.after_step(50, 0.02) == {}
    norms.before_step(51)
    assert norms.after_step(51, 0.02)


@given(st.floats(1e-6, 1.0), st.floats(1e-4, 10.0))
def test_norms_take_no_more_than_their_share_but_for_rounding(cost: float, step_seconds: float) -> None:
    every = cadence(cost, step_seconds)
    assert 1 <= every <= LONGEST
    if every < LONGEST:
        assert cost / every <= 1.5 * MAX_SHARE * step_seconds
    assert MAX_SHARE * 1.5 <= 0.005
