"""A run that goes on in a process unlike the one before: what fits goes on, what does not is told."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from small_loop import Died, network, train
from test_resume import POLICY, acts, events

from midcourse.controller.durable import checkpoints, files
from midcourse.controller.journal.reader import JournalReader
from midcourse.controller.journal.tell import stories
from midcourse.policies.types import Disposition

torch.set_num_threads(1)

SAVES = """
  - name: save
    when: save.value > 0.5
    budget: {acts: 1, per: 1000}
    ladder:
      - [checkpoint: {name: best}]
"""
OBSERVED = POLICY.replace("version: 1", "version: 1\nmode: observe")
LATER = {"triggers": {30: 1.0}}


def died(folder: Path, policy: str, at: int, **loop: Any) -> None:
    with pytest.raises(Died):
        train(folder, policy, die_at=at, **loop)


def test_a_run_that_goes_on_from_a_rules_checkpoint_is_steered_on(tmp_path: Path) -> None:
    policy = POLICY.replace("every: 5, keep: 100", "every: 1000")
    policy = policy.replace("[trigger]", "[trigger, save]") + SAVES
    loop: dict[str, Any] = {**LATER, "also": {"save": {13: 1.0, 40: 1.0}}}
    whole = train(tmp_path / "whole", policy, **loop)
    died(tmp_path / "broken", policy, 17, **loop)
    resumed = train(tmp_path / "broken", policy, resume="auto", **loop)
    assert events(tmp_path / "broken", "resumed")[0].detail["step"] == 13
    assert resumed.matches(whole)
    # The act that wrote the checkpoint was charged: one a thousand ticks.
    assert acts(tmp_path / "broken") == [(1, "save@13", "applied"), (2, "back@30", "applied")]


def test_a_stopped_run_that_goes_on_is_steered_on(tmp_path: Path) -> None:
    policy = POLICY.replace("rollback: {to: {steps: 12}, data: replay}, scale_lr", "scale_lr")
    policy = policy.replace("rollback: {to: {steps: 12}, data: replay}", "stop: {}")
    train(tmp_path, policy, triggers=dict.fromkeys(range(17, 27), 1.0))
    train(tmp_path, policy, resume=tmp_path / "checkpoints" / "stopped", triggers={40: 1.0})
    assert (2, "back@40", "applied") in acts(tmp_path)


@pytest.mark.parametrize(("first", "then"), [(OBSERVED, POLICY), (POLICY, OBSERVED)])
def test_the_policys_mode_can_be_edited(tmp_path: Path, first: str, then: str) -> None:
    died(tmp_path, first, 17)
    train(tmp_path, then, resume="auto", **LATER)
    with JournalReader(tmp_path) as reader:
        (decision,) = reader.decisions()
    assert decision.disposition is (Disposition.ACT if then is POLICY else Disposition.OBSERVE)


def test_rules_and_monitors_can_be_edited(tmp_path: Path) -> None:
    died(tmp_path, POLICY, 22, triggers={19: 1.0})
    edited = POLICY.replace("name: back", "name: other").replace("sustained_rise", "divergence")
    train(tmp_path, edited, resume="auto", triggers={40: 1.0})
    assert acts(tmp_path) == [(1, "back@19", "applied"), (2, "other@40", "applied")]
    assert events(tmp_path, "error") == []


class MakesBuffers(torch.nn.Module):
    """Makes one buffer at its first forward pass, and lets another grow."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()
        self.register_buffer("made", None)
        self.register_buffer("grown", torch.zeros(0))

    def forward(self, x: torch.Tensor) -> Any:
        if self.made is None:
            self.made, self.grown = torch.zeros(3), torch.zeros(5)
        self.made = self.made + 1
        return self.net(x) + 1e-3 * self.made.mean()


def test_buffers_that_are_made_when_first_needed_are_resumed(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", POLICY, build=MakesBuffers)
    died(tmp_path / "broken", POLICY, 17, build=MakesBuffers)
    assert train(tmp_path / "broken", POLICY, resume="auto", build=MakesBuffers).matches(whole)


class Counter:
    """Something to register."""

    def state_dict(self) -> dict[str, Any]:
        return {"n": 1}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        assert state == {"n": 1}


def step_schedule(optimizer: Any) -> Any:
    return torch.optim.lr_scheduler.StepLR(optimizer, 10)


def narrow_and_deep() -> torch.nn.Module:
    return torch.nn.Sequential(*network(), torch.nn.Identity())


MISSING: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "registered": ({"registered": {"ema": Counter()}}, {}, r"holds ema, which this run does not have"),
    "schedule": ({"schedule": step_schedule}, {}, r"holds scheduler 0, which this run"),
    "optimizer": (
        {},
        {"optimizer": lambda p: torch.optim.SGD(p, lr=1e-2)},
        r"checkpoint's optimizer: AdamW; this run's: SGD",
    ),
    "groups": (
        {},
        {"optimizer": lambda p: torch.optim.AdamW([{"params": [x]} for x in p])},
        r"parameter groups: 1; this run's: 4",
    ),
    "modules": ({}, {"build": narrow_and_deep}, r"it had 4 modules, now 5"),
}


@pytest.mark.parametrize(("before", "after", "message"), MISSING.values(), ids=MISSING)
def test_what_the_new_process_lacks_is_told(
    tmp_path: Path, before: dict[str, Any], after: dict[str, Any], message: str
) -> None:
    died(tmp_path, POLICY, 12, **before)
    with pytest.raises(ValueError, match=message):
        train(tmp_path, POLICY, resume="auto", **after)


def test_another_number_of_processes_does_not_begin_anew_over_the_run(tmp_path: Path) -> None:
    died(tmp_path, POLICY, 17)
    for path in (tmp_path / "checkpoints").glob("*/rank-0.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "world": 2}))
    with pytest.raises(ValueError, match="tick-00000015 was written by 2 processes and this run has 1"):
        train(tmp_path, POLICY, resume="auto")


def test_a_clock_that_went_back_does_not_make_the_newest_the_oldest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    died(tmp_path, POLICY, 17)
    now = time.time()
    monkeypatch.setattr(files.time, "time", lambda: now - 7200)
    died(tmp_path, POLICY, 33, resume="auto")
    resumed = train(tmp_path, POLICY, resume="auto")
    assert resumed.controller is not None
    assert resumed.controller.resumed == 30


def test_a_verdict_of_a_later_attempt_belongs_to_its_decision(tmp_path: Path) -> None:
    loop = {"triggers": {17: 1.0}}
    died(tmp_path, POLICY, 20, **loop)
    train(tmp_path, POLICY, resume="auto", **loop)
    with JournalReader(tmp_path) as reader:
        (story,) = stories(reader)
        assert stories(reader, attempt=2) == []
    assert story.attempt == 1
    assert [verdict.tick for verdict in story.verdicts] == [23]


def test_a_checkpoint_that_was_being_written_is_of_the_course_that_a_rollback_gives_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = checkpoints.write

    def slowly(*args: Any) -> Any:
        time.sleep(0.3)
        return write(*args)

    monkeypatch.setattr(checkpoints, "write", slowly)
    trace = train(tmp_path, POLICY, triggers={16: 1.0})
    assert trace.controller is not None
    assert trace.controller._wiring.cycle is not None
    kept = [entry.tick for entry in trace.controller._wiring.cycle.run.checkpoints.entries]
    assert 15 not in kept
    assert 16 in kept


def test_a_state_that_cannot_be_given_keeps_no_buffer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from midcourse.controller.overrides import Layers

    def fails(self: Layers) -> None:
        raise RuntimeError("no")

    monkeypatch.setattr(Layers, "state_dict", fails)
    trace = train(tmp_path, POLICY)
    assert trace.errors == 12
    assert trace.controller is not None
    assert trace.controller._wiring.cycle is not None
    ring = trace.controller._wiring.cycle.run.ring
    assert len(ring._buffers._lent) == len(ring)
