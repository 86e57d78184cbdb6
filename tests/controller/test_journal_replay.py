"""A run's own journal, replayed: the same samples and outcomes give the same decisions and verdicts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from small_loop import train

from midcourse.controller.journal.reader import JournalReader
from midcourse.monitors.types import Sample
from midcourse.policies.policy import parse_policy
from midcourse.policies.replay import Event, replay
from midcourse.policies.types import Disposition, Outcome, Status

POLICY = """
version: 1
signals: [trigger]
snapshots: {keep: 6, reach: 160, every: 5}
monitors:
  guard: {type: guard}
  rise: {type: sustained_rise, signal: loss}
  source: {type: sustained_rise, signal: "loss/source=*"}
rules:
  - name: bad-step
    when: guard.bad
    budget: {acts: 3, per: 1000}
    ladder:
      - [skip_step: {}]
      - [notify: {message: too many}]
  - name: back
    when: trigger.value > 0.5
    budget: {acts: 5, per: 1000}
    ladder:
      - [rollback: {to: {steps: 500}, data: replay}]
      - [rollback: {to: {steps: 12}, data: skip}]
      - [rollback: {to: {steps: 12}, data: replay}, scale_lr: {factor: 0.5, hold: 10}]
    verify: {within: 15, expect: loss.level <= target.loss.level + 3 * target.loss.noise}
  - name: off-course
    when: rise.bad
    mode: observe
    ladder:
      - [scale_lr: {factor: 0.1}]
"""


def test_a_journal_replayed_gives_its_own_decisions(tmp_path: Path) -> None:
    def spoil(tick: int, loss: torch.Tensor) -> torch.Tensor:
        return loss * float("nan") if tick in (30, 31, 70) else loss * (1 + 9 * (tick > 150))

    trace = train(
        tmp_path, POLICY, triggers={20: 1.0, 21: 1.0, 45: 1.0, 100: 1.0}, epochs=9, spoil=spoil, mixture=True
    )
    assert trace.controller is not None
    with JournalReader(tmp_path) as journal:
        decisions, verdicts = journal.decisions(), journal.verdicts()
        again = replay(parse_policy(POLICY), list(events(journal)))
    assert len({d.rule for d in decisions}) == 3
    assert len(decisions) >= 7
    assert verdicts
    assert again.decisions == list(decisions)
    assert again.verdicts == list(verdicts)


def test_a_skip_and_a_rollback_at_one_tick_are_told_in_their_order(tmp_path: Path) -> None:
    def spoil(tick: int, loss: torch.Tensor) -> torch.Tensor:
        return loss * float("nan") if tick in (30, 31) else loss

    policy = POLICY.replace("steps: 500", "steps: 12")
    trace = train(tmp_path, policy, triggers={30: 1.0, 31: 1.0}, spoil=spoil, mixture=True)
    with JournalReader(tmp_path) as journal:
        told, outcomes = journal.decisions(), journal.outcomes()
        again = replay(parse_policy(policy), list(events(journal)))
    decisions = [decision for decision in told if decision.rule != "off-course"]  # that only watches
    assert [d.id for d in decisions] == ["bad-step@30", "back@30", "bad-step@31", "back@31"]
    assert [d.disposition for d in decisions] == [
        *(Disposition.ACT, Disposition.SUPPRESSED, Disposition.ACT, Disposition.ACT),
    ]
    assert decisions[1].reason == "bad-step goes first"
    assert [outcome.decision_id for outcome in outcomes] == ["bad-step@30", "bad-step@31", "back@31"]
    assert {outcome.status for outcome in outcomes} == {Status.APPLIED}
    assert outcomes[2].details["rollback"]["target_tick"] == 15
    assert again.decisions == list(told)
    assert trace.matches(train(mixture=True)), "all was taken again, and nothing was skipped then"


def events(journal: JournalReader) -> Iterator[Event]:
    for entry in journal.entries():
        if isinstance(entry.item, Sample | Outcome):
            yield entry.item
