"""A run that ends before its time goes on from its newest checkpoint as if nothing had been."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from small_loop import RESUMABLE, Died, Trace, network, train

from midcourse import Controller
from midcourse.controller.journal.reader import JournalReader
from midcourse.controller.journal.tell import stories

torch.set_num_threads(1)

POLICY = RESUMABLE

SCHEDULES: dict[str, Any] = {
    "lambda": lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda s: 0.97**s),
}
LOOPS: dict[str, dict[str, Any]] = {
    "plain": {},
    "mixture": {"mixture": True},
    "seedable": {"seedable": True},
    "accumulation": {"accumulation": 3, "epochs": 6},
    "lambda": {"schedule": SCHEDULES["lambda"]},
    "one cycle": {"schedule": lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 1e-2, total_steps=80)},
    "by epoch": {
        "schedule": lambda o: torch.optim.lr_scheduler.StepLR(o, 1, 0.5),
        "per_epoch": True,
    },
    "sgd": {"optimizer": lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9)},
    "evaluation draws": {"evaluate": lambda: torch.rand(3)},
}


def interrupted(folder: Path, die_at: int, **loop: Any) -> Trace:
    """Train until the loop dies, then again, resumed."""
    with pytest.raises(Died):
        train(folder, POLICY, die_at=die_at, resume="auto", **loop)
    return train(folder, POLICY, resume="auto", **loop)


@pytest.mark.parametrize("loop", LOOPS.values(), ids=LOOPS)
def test_a_resumed_run_ends_bit_for_bit_where_an_undisturbed_one_ends(
    tmp_path: Path, loop: dict[str, Any]
) -> None:
    same_end(tmp_path, 21, {17: 1.0}, loop)


@pytest.mark.slow
@pytest.mark.parametrize("triggers", [{}, {28: 1.0, 34: 1.0}], ids=["quiet", "twice"])
@pytest.mark.parametrize("die_at", [7, 19, 20, 33, 38])
@pytest.mark.parametrize("loop", LOOPS.values(), ids=LOOPS)
def test_wherever_it_ended(
    tmp_path: Path, loop: dict[str, Any], die_at: int, triggers: dict[int, float]
) -> None:
    same_end(tmp_path, die_at, triggers, loop)


def same_end(folder: Path, die_at: int, triggers: dict[int, float], loop: dict[str, Any]) -> None:
    whole = train(folder / "whole", POLICY, triggers=triggers, **loop)
    resumed = interrupted(folder / "broken", die_at, triggers=triggers, **loop)
    assert resumed.matches(whole)
    assert resumed.losses == whole.losses[-len(resumed.losses) :]
    assert resumed.controller is not None
    assert resumed.controller.resumed is not None


def test_a_resumed_run_that_goes_back_over_a_passs_end_keeps_its_schedule(tmp_path: Path) -> None:
    # Resumed in the second pass, it goes back to what was saved at the end of the first.
    policy = POLICY.replace("every: 5", "every: 10")
    loop = {"triggers": {33: 1.0}, "schedule": SCHEDULES["lambda"]}
    whole = train(tmp_path / "whole", policy, **loop)
    with pytest.raises(Died):
        train(tmp_path / "broken", policy, die_at=32, **loop)
    resumed = train(tmp_path / "broken", policy, resume="auto", **loop)
    assert resumed.matches(whole)


def acts(folder: Path) -> list[tuple[int, str, str]]:
    """Attempt, decision and outcome of every act."""
    with JournalReader(folder) as reader:
        told = stories(reader)
    return [(s.attempt, s.decision.id, s.outcomes[0].status.value) for s in told if s.outcomes]


def events(folder: Path, kind: str) -> list[Any]:
    with JournalReader(folder) as reader:
        return [event for event in reader.events() if event.kind == kind]


def test_a_decision_that_falls_again_has_the_same_id_and_is_charged_once(tmp_path: Path) -> None:
    policy = POLICY.replace("acts: 3", "acts: 1")
    loop = {"triggers": {22: 1.0, 40: 1.0}}
    whole = train(tmp_path / "whole", policy, **loop)
    broken = tmp_path / "broken"
    with pytest.raises(Died):
        train(broken, policy, die_at=24, **loop)
    # The checkpoint that follows the act is lost with it: the newest is of tick 20.
    shutil.rmtree(broken / "checkpoints" / "tick-00000022")
    resumed = train(broken, policy, resume="auto", **loop)
    assert acts(broken) == [(1, "back@22", "applied"), (2, "back@22", "applied")]
    assert acts(tmp_path / "whole") == [(1, "back@22", "applied")]
    assert resumed.matches(whole)


def test_without_a_checkpoint_the_run_begins_anew(tmp_path: Path) -> None:
    first = train(tmp_path, POLICY, resume="auto")
    assert first.controller is not None
    assert first.controller.resumed is None
    assert first.matches(train())


def test_a_run_that_came_to_its_end_is_not_trained_on(tmp_path: Path) -> None:
    whole = train(tmp_path, POLICY)
    again = train(tmp_path, POLICY, resume="auto")
    assert again.losses == []
    assert again.matches(whole)


def test_a_loop_that_counts_itself_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"count with controller.epochs\(n\)"):
        train(tmp_path, POLICY, resume="auto", owned=False)


def test_resume_without_a_folder_is_told() -> None:
    with pytest.raises(ValueError, match="needs the run_dir"):
        Controller(Accelerator(cpu=True), resume="auto")


def test_another_model_is_told_by_its_first_tensor(tmp_path: Path) -> None:
    with pytest.raises(Died):
        train(tmp_path, POLICY, die_at=12)
    with pytest.raises(ValueError, match=r"another model: 3 tensors differ, the first is 'model.0.bias'"):
        train(tmp_path, POLICY, resume="auto", build=lambda: network(12))


def test_a_chosen_checkpoint_is_gone_on_from_and_is_the_newest_from_then_on(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", POLICY)
    broken = tmp_path / "broken"
    with pytest.raises(Died):
        train(broken, POLICY, die_at=33)
    with pytest.raises(Died):
        train(broken, POLICY, die_at=22, resume=broken / "checkpoints" / "tick-00000020")
    resumed = train(broken, POLICY, resume="auto")
    assert [event.detail["step"] for event in events(broken, "resumed")] == [20, 20]
    assert resumed.matches(whole)
    with pytest.raises(ValueError, match="not among the checkpoints of this run"):
        train(broken, POLICY, resume=tmp_path / "whole" / "checkpoints" / "tick-00000020")


@pytest.mark.parametrize("loop", [{}, {"mixture": True, "schedule": SCHEDULES["lambda"]}])
def test_accelerates_own_format_can_be_resumed_from(tmp_path: Path, loop: dict[str, Any]) -> None:
    policy = POLICY.replace("keep: 100", "keep: 2, format: accelerate")
    whole = train(tmp_path / "whole", policy, **loop)
    broken = tmp_path / "broken"
    with pytest.raises(Died):
        train(broken, policy, die_at=33, **loop)
    assert any((broken / "checkpoints").glob("tick-00000030/accelerate.*/optimizer.bin"))
    flip(next((broken / "checkpoints").glob("tick-00000030/accelerate.*/model.safetensors")))
    resumed = train(broken, policy, resume="auto", **loop)
    assert resumed.controller is not None
    assert resumed.controller.resumed == 25
    assert resumed.matches(whole)
    assert len(list((broken / "checkpoints").iterdir())) == 2


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "flipped byte": lambda folder: flip(next(folder.glob("*.safetensors"))),
    "flipped state": lambda folder: flip(next(folder.glob("*.state"))),
    "torn": lambda folder: os.truncate(next(folder.glob("*.safetensors")), 100),
    "missing": lambda folder: next(folder.glob("*.state")).unlink(),
    "no manifest": lambda folder: (folder / "rank-0.json").unlink(),
    "manifest torn": lambda folder: os.truncate(folder / "rank-0.json", 50),
    "manifest odd": lambda folder: (folder / "rank-0.json").write_text("[1, 2]"),
    "other format": lambda folder: edit(folder / "rank-0.json", format=99),
}


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_checkpoint_is_told_and_the_one_before_serves(
    tmp_path: Path, damage: Callable[[Path], Any]
) -> None:
    whole = train(tmp_path / "whole", POLICY)
    broken = tmp_path / "broken"
    with pytest.raises(Died):
        train(broken, POLICY, die_at=33)
    damage(broken / "checkpoints" / "tick-00000030")
    resumed = train(broken, POLICY, resume="auto")
    assert resumed.controller is not None
    assert resumed.controller.resumed == 25
    assert resumed.matches(whole)
    assert [event.detail["name"] for event in events(broken, "checkpoint_failed")] == ["tick-00000030"]
    with pytest.raises(ValueError, match="resume: "):
        train(broken, POLICY, resume=broken / "checkpoints" / "nothing")


def test_a_stopped_run_goes_on_from_its_good_state(tmp_path: Path) -> None:
    policy = POLICY.replace("      - [rollback: {to: {steps: 12}, data: replay}]\n", "      - [stop: {}]\n")
    policy = policy.replace("acts: 3", "acts: 1")
    stopped = train(tmp_path, policy, triggers={17: 1.0, 25: 1.0})
    assert stopped.controller is not None
    assert "stopped the run" in str(stopped.controller.stopped)
    resumed = train(tmp_path, policy, resume=tmp_path / "checkpoints" / "stopped")
    assert resumed.controller is not None
    assert resumed.controller.resumed == events(tmp_path, "resumed")[0].detail["step"] < 25
    assert resumed.controller.stopped is None
    assert len(resumed.losses) >= 35
