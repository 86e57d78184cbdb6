"""Loops that get their batches elsewhere, always or at times: acts come after the step, and it is said."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import accelerate
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from small_loop import BATCH, EXAMPLES, dataset, pull_policy, sources
from torch.utils.data import DataLoader

from midcourse import Controller, Mixture, TrainingStopped
from midcourse.controller.durable.manifest import read_manifest
from midcourse.controller.journal.reader import JournalReader
from midcourse.policies.policy import parse_policy
from midcourse.policies.types import Status

torch.set_num_threads(1)

Passes = Callable[[Accelerator, Any, Any], Iterable[Iterable[Any]]]
"""From the accelerator, the prepared loader and an unprepared one to the passes of a loop."""


class Loop:
    """A small loop over any passes; ``triggers`` are ticks."""

    def __init__(
        self,
        run_dir: Path,
        actions: str,
        passes: Passes,
        triggers: tuple[int, ...],
        evaluate: bool = False,
        mixture: bool = False,
        own_backward: bool = False,
    ) -> None:
        AcceleratorState._reset_state(True)
        GradientState._reset_state()
        torch.manual_seed(0)
        accelerator = Accelerator(cpu=True)
        self.said: list[str] = []
        self.controller = Controller(
            accelerator, parse_policy(pull_policy(actions)), run_dir=run_dir, say=self.said.append
        )
        self.model: Any = torch.nn.Linear(8, 1)
        optimizer: Any = torch.optim.AdamW(self.model.parameters(), lr=1e-2)
        plain = DataLoader(dataset(), batch_size=BATCH, shuffle=True)
        mine = Mixture(sources(), seed=1, epoch_size=EXAMPLES).loader(BATCH) if mixture else plain
        self.model, optimizer, loader, other = accelerator.prepare(
            self.model, optimizer, mine, DataLoader(dataset(), batch_size=BATCH)
        )
        self.ids: list[list[int]] = []
        self.weights: list[list[float]] = []
        for batches in passes(accelerator, loader, plain):
            if evaluate:
                assert sum(len(batch[2]) for batch in other) == EXAMPLES
            for batch in batches:
                x, y, ids = batch[:3]
                loss = ((self.model(x) - y) ** 2).mean()
                loss.backward() if own_backward else accelerator.backward(loss)
                self.ids.append(ids.tolist())
                self.controller.log(trigger=float(len(self.ids) in triggers))
                optimizer.step()
                self.weights.append(self.model.weight.detach().flatten().tolist())
                optimizer.zero_grad()

    def close(self) -> tuple[list[Any], list[str]]:
        """Outcomes, and what was said."""
        self.controller.close()
        with JournalReader(self.controller.run_dir) as reader:
            return list(reader.outcomes()), self.said


def unprepared(accelerator: Accelerator, loader: Any, plain: Any) -> Iterable[Any]:
    return [plain, plain]


def by_hand(accelerator: Accelerator, loader: Any, plain: Any) -> Iterable[Any]:
    examples = dataset().tensors
    return [[[t[i : i + BATCH] for t in examples] for i in range(0, EXAMPLES, BATCH)]] * 2


def drawn_beforehand(accelerator: Accelerator, loader: Any, plain: Any) -> Iterable[Any]:
    return [list(loader), list(loader)]


def skipped_by_the_function(accelerator: Accelerator, loader: Any, plain: Any) -> Iterable[Any]:
    return [accelerate.skip_first_batches(loader, 5)] * 2


UNWATCHED = [unprepared, by_hand, drawn_beforehand, skipped_by_the_function]


@pytest.mark.parametrize("passes", UNWATCHED)
@pytest.mark.parametrize("evaluate", [False, True])
def test_a_rollback_goes_forward_right_after_the_step_and_it_is_said_at_start(
    tmp_path: Path, passes: Passes, evaluate: bool
) -> None:
    loop = Loop(tmp_path, "rollback: {to: {steps: 7}, data: skip}", passes, (13,), evaluate)
    outcomes, said = loop.close()
    assert any("acts are applied after the optimizer's step" in line for line in said)
    assert any("forward only" in line for line in said)
    assert [o.status for o in outcomes] == [Status.APPLIED]
    details = outcomes[0].details["rollback"]
    assert (details["data"], details["asked"], details["target_tick"]) == ("forward", "skip", 5)
    assert "not prepared by accelerator.prepare" in details["because"]
    assert loop.weights[12] == loop.weights[4]
    assert len(loop.ids) == (30 if passes is skipped_by_the_function else 40)


@pytest.mark.parametrize("passes", UNWATCHED)
@pytest.mark.parametrize("own_backward", [False, True])
def test_stop_ends_a_loop_that_asks_nobody_for_its_batches(
    tmp_path: Path, passes: Passes, own_backward: bool
) -> None:
    with pytest.raises(TrainingStopped, match="resume="):
        Loop(tmp_path, "stop: {}", passes, (13,), own_backward=own_backward)
    with JournalReader(tmp_path) as reader:
        assert len(list(reader.samples())) == 13
    assert read_manifest(tmp_path / "checkpoints" / "stopped", rank=0).tick <= 13


def test_a_return_to_the_first_step_is_possible(tmp_path: Path) -> None:
    loop = Loop(tmp_path, "rollback: {to: {steps: 4}}", by_hand, (4,))
    outcomes, _ = loop.close()
    assert outcomes[0].details["rollback"]["target_tick"] == 0


def resumed(accelerator: Accelerator, loader: Any, plain: Any) -> Iterable[Any]:
    """As loops resume in Accelerate's examples: the rest of a pass, then whole ones."""
    yield accelerator.skip_first_batches(loader, 15)
    yield loader
    yield loader


def resumed_by_the_function(accelerator: Accelerator, loader: Any, plain: Any) -> Iterable[Any]:
    yield accelerate.skip_first_batches(loader, 15)
    yield loader
    yield loader


@pytest.mark.parametrize("passes", [resumed, resumed_by_the_function])
@pytest.mark.parametrize("trigger", [3, 13, 30])
def test_a_resumed_loop_is_steered_in_its_later_passes_too(
    tmp_path: Path, passes: Passes, trigger: int
) -> None:
    loop = Loop(tmp_path, "rollback: {to: {steps: 3}}", passes, (trigger,))
    outcomes, _ = loop.close()
    assert [(o.status, o.tick) for o in outcomes] == [(Status.APPLIED, trigger)]
    assert len(loop.ids) == 45
    # The very next update starts from the snapshot, not from what the alarm was raised about.
    target = outcomes[0].details["rollback"]["target_tick"]
    before = loop.weights[target - 1] if target else None
    after = loop.weights[trigger]
    assert before is None or max(abs(a - b) for a, b in zip(after, before, strict=True)) < 0.011


def test_a_new_weight_holds_at_the_right_place_of_a_resumed_mixture(tmp_path: Path) -> None:
    plain = Loop(tmp_path / "plain", "reweight: {source: b, to: 0}", resumed, (), mixture=True)
    plain.close()
    loop = Loop(tmp_path / "acted", "reweight: {source: b, to: 0}", resumed, (2,), mixture=True)
    outcomes, _ = loop.close()
    assert [o.status for o in outcomes] == [Status.APPLIED]
    assert loop.ids[:2] == plain.ids[:2]
    assert not any(100 <= i < 200 for batch in loop.ids[2:5] for i in batch)
    # Nothing is drawn again that was trained on: a and c went on where they were.
    drawn = [i for batch in loop.ids[:5] for i in batch]
    assert len(set(drawn)) == len(drawn)


def test_an_evaluation_before_the_first_step_is_not_what_a_replay_returns_to(tmp_path: Path) -> None:
    def passes(accelerator: Accelerator, loader: Any, plain: Any) -> Iterable[Any]:
        return (loader for _ in controllers[0].epochs(2))

    controllers: list[Controller] = []
    made = Controller.__init__

    def remember(self: Controller, *args: Any, **kwargs: Any) -> None:
        made(self, *args, **kwargs)
        controllers[:] = [self]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Controller, "__init__", remember)
        plain = Loop(tmp_path / "plain", "notify: {message: x}", passes, (), evaluate=True)
        plain.close()
        actions = "rollback: {to: {steps: 4}, data: replay}"
        loop = Loop(tmp_path / "acted", actions, passes, (4,), evaluate=True)
        outcomes, _ = loop.close()
    assert outcomes[0].details["rollback"]["data"] == "replay"
    assert loop.ids == plain.ids[:4] + plain.ids
    assert loop.weights[-1] == plain.weights[-1]
