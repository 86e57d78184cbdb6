"""The parts of a training beside weights and moments: all of them go back with a rollback."""

from __future__ import annotations

import copy
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from small_loop import Trace, network, rollback_policy, train
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from midcourse.controller.journal.reader import JournalReader
from midcourse.policies.types import Status

torch.set_num_threads(1)

MIDDLE, ACROSS = 17, 28
START = 15  # the snapshot to which 12 steps before ACROSS lead


def applied(folder: Path) -> bool:
    with JournalReader(folder) as reader:
        return [outcome.status for outcome in reader.outcomes()] == [Status.APPLIED]


class Normed(torch.nn.Module):
    """Counts its uses in a buffer that no checkpoint holds, and lets it weigh in."""

    def __init__(self) -> None:
        super().__init__()
        self.body = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.BatchNorm1d(16))
        self.head = torch.nn.Linear(16, 1)
        self.register_buffer("uses", torch.zeros(()), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.uses += 1
        scale = 1 + self.uses / 100
        return self.head(self.body(x)) * scale


@pytest.mark.parametrize("tick", [MIDDLE, ACROSS])
def test_buffers_go_back_persistent_or_not(tmp_path: Path, tick: int) -> None:
    made: list[Normed] = []

    def build() -> Normed:
        made.append(Normed())
        return made[-1]

    plain = train(build=build)
    replayed = train(tmp_path, rollback_policy("replay"), triggers={tick: 1.0}, build=build)
    assert applied(tmp_path)
    assert replayed.matches(plain)
    before, after = (list(model.buffers()) for model in made)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert made[1].uses == 60


@pytest.mark.parametrize("data", ["replay", "forward"])
def test_an_average_of_the_weights_goes_back_under_its_name(tmp_path: Path, data: str) -> None:
    def averaged(*how: Any, **triggers: Any) -> tuple[Any, AveragedModel, list[Any]]:
        model = network()
        average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
        states = [copy.deepcopy(average.state_dict())]

        def follow() -> None:
            average.update_parameters(model)
            states.append(copy.deepcopy(average.state_dict()))

        more: Any = {"registered": {"average": average}} if how else {}
        torch.manual_seed(3)
        model.load_state_dict(network().state_dict())
        return train(*how, build=lambda: model, after_step=follow, **more, **triggers), average, states

    plain, expected, states = averaged()
    trace, average, again = averaged(tmp_path, rollback_policy(data), triggers={MIDDLE: 1.0})
    assert applied(tmp_path)
    assert trace.controller is not None
    if data == "replay":
        assert trace.matches(plain)
        assert all(
            torch.equal(a, b)
            for a, b in zip(average.state_dict().values(), expected.state_dict().values(), strict=True)
        )
    # Right after the act the average is that of tick 5, moved on by one step.
    assert int(again[MIDDLE + 1]["n_averaged"]) == int(states[5]["n_averaged"]) + 1


def test_a_gradient_scaler_goes_back(tmp_path: Path) -> None:
    def scaled(*how: Any, **triggers: Any) -> tuple[Trace, list[float]]:
        scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=4)
        scales: list[float] = []

        def overflow(tick: int, loss: torch.Tensor) -> torch.Tensor:
            scales.append(scaler.get_scale())
            return loss * float("inf") if int(loss.detach() * 1e4) % 11 == 0 else loss

        return train(*how, scaler=scaler, spoil=overflow, **triggers), scales

    plain, scales = scaled()
    replayed, again = scaled(tmp_path, rollback_policy("replay"), triggers={24: 1.0})
    with JournalReader(tmp_path) as reader:
        (outcome,) = reader.outcomes()
    ((again_from, until),) = outcome.details["rollback"]["trained_twice"]
    first, stop = (number * 20 + batch for number, batch in (again_from, until))
    assert any(later < earlier for earlier, later in pairwise(scales[first:stop]))
    assert scales[first] != scales[stop]
    assert again == scales[:stop] + scales[first:]
    assert replayed.losses == plain.losses[:stop] + plain.losses[first:]
    assert replayed.matches(plain)


def test_a_compiled_model_is_replayed_exactly(tmp_path: Path) -> None:
    def build() -> Any:
        return torch.compile(network(), backend="eager")

    plain = train(build=build)
    replayed = train(tmp_path, rollback_policy("replay"), triggers={ACROSS: 1.0}, build=build)
    assert applied(tmp_path)
    assert replayed.losses == plain.losses[:ACROSS] + plain.losses[START:]
    assert replayed.matches(plain)


@pytest.mark.parametrize("data", ["forward", "skip", "replay"])
def test_no_gradient_outlives_a_rollback(tmp_path: Path, data: str) -> None:
    made: list[torch.nn.Module] = []
    gradients: list[torch.Tensor | None] = []

    def build() -> torch.nn.Module:
        made.append(network())
        return made[-1]

    class Leaving(torch.optim.SGD):
        """Leaves the gradients to the next backward, as loops do that clear them there."""

        def zero_grad(self, set_to_none: bool = True) -> None:
            pass

    train(
        tmp_path,
        rollback_policy(data),
        triggers={MIDDLE: 1.0},
        build=build,
        optimizer=lambda p: Leaving(p, lr=0.01),
        on_rollback=lambda *_: gradients.extend(copy.deepcopy([p.grad for p in made[0].parameters()])),
    )
    assert applied(tmp_path)
    assert len(gradients) == 4
    assert all(gradient is None or not gradient.any() for gradient in gradients)
    assert all(p.grad is not None and p.grad.any() for p in made[0].parameters())
