"""Ladders on real training runs: what does not help is followed by the next rung, and nothing loops."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_loop import Trace, train
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR

from midcourse.controller.journal.reader import JournalReader
from midcourse.policies.types import Decision, Outcome, Verdict

POLICY = """
version: 1
snapshots: {keep: 6, reach: 200, every: 10}
monitors:
  rise: {type: sustained_rise, signal: loss}
  blowup: {type: divergence, signal: loss}
rules:
  - name: off-course
    when: rise.bad or blowup.bad
    for: 3
    cooldown: 10
    budget: {acts: 6, per: 100000}
    ladder:
      - [rollback: {to: before_onset, data: skip}]
      - [rollback: {to: before_onset, data: replay}, scale_lr: {factor: 0.02}]
      - [stop: {}]
    verify: {within: 60, expect: loss.level <= target.loss.level + 3 * target.loss.noise}
"""
FAULT = 250


def told(run: Path) -> tuple[list[Decision], list[Outcome], list[Verdict]]:
    with JournalReader(run) as journal:
        return journal.decisions(), journal.outcomes(), journal.verdicts()


def linear() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))


def course(run: Path, rate_at_fault: float = 1.0, **kwargs: object) -> Trace:
    """A regression by plain SGD whose schedule raises the rate so many times at step ``FAULT``."""
    return train(
        run,
        POLICY,
        epochs=40,
        build=linear,
        optimizer=lambda p: SGD(p, lr=0.02),
        schedule=lambda o: LambdaLR(o, lambda step: rate_at_fault if step >= FAULT else 1.0),
        clips=False,
        **kwargs,
    )


@pytest.mark.slow
def test_what_did_not_help_is_followed_by_the_next_rung_and_what_helped_is_kept(tmp_path: Path) -> None:
    """The schedule raises the rate a hundredfold: to leave out data is wrong, a lower rate is right."""
    clean = course(tmp_path / "clean")
    assert told(tmp_path / "clean")[0] == []
    trace = course(tmp_path / "run", rate_at_fault=100.0)
    decisions, _, verdicts = told(tmp_path / "run")
    assert [decision.rung for decision in decisions] == [0, 1]
    assert [verdict.result.value for verdict in verdicts] == ["did_not_help", "helped"]
    assert trace.rates[-1] == pytest.approx(2.0)  # the schedule is as wrong as ever
    with JournalReader(tmp_path / "run") as journal:
        last = list(journal.samples())[-1].signals
    assert last["lr"] == pytest.approx(0.04)  # and the correction that helped is still in force
    tail = slice(-100, None)
    assert sum(trace.losses[tail]) < 1.2 * sum(clean.losses[tail])


@pytest.mark.slow
def test_a_fault_that_returns_after_every_rollback_ends_at_the_last_rung(tmp_path: Path) -> None:
    """No rung can help: the loss itself is wrong from a step on, whatever was rolled back."""

    def spoiled(tick: int, loss: torch.Tensor) -> torch.Tensor:
        return loss + 5.0 if tick >= FAULT else loss

    trace = course(tmp_path, spoil=spoiled)
    assert trace.controller is not None
    assert trace.controller.stopped is not None
    assert "rule 'off-course' stopped the run" in trace.controller.stopped
    decisions, _, verdicts = told(tmp_path)
    assert [decision.actions[0].name for decision in decisions] == ["rollback", "rollback", "stop"]
    assert [verdict.result.value for verdict in verdicts] == ["did_not_help", "did_not_help"]
    assert trace.ticks[-1] < FAULT + 100  # of 800
    assert (tmp_path / "checkpoints" / "stopped").is_dir()


def test_what_did_not_help_is_taken_back_to_where_the_first_act_went(tmp_path: Path) -> None:
    """The snapshots thin out meanwhile: that of the first act is kept until the next one."""
    policy = """
version: 1
signals: [trigger]
snapshots: {keep: 2, reach: 40, every: 3}
monitors:
  told: {type: guard, signals: [trigger]}
rules:
  - name: told
    when: told.bad
    budget: {acts: 9, per: 1000}
    ladder:
      - [rollback: {to: last_good, data: replay}, scale_lr: {factor: 0.5}]
      - [rollback: {to: before_first_act, data: replay}]
    verify: {within: 30, expect: loss.value < -1}
"""
    trace = train(tmp_path, policy, epochs=20, triggers={70: float("nan"), 150: float("nan")})
    assert trace.controller is not None
    _, outcomes, verdicts = told(tmp_path)
    first, second = (outcome.details["rollback"] for outcome in outcomes)
    assert second["target_tick"] == first["target_tick"] < 70
    assert second["steps_undone"] > 70
    assert verdicts[0].result.value == "did_not_help"
