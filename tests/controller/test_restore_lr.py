"""``restore_lr``: after a rollback the rate is lowered by as much as it had risen since the target."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_loop import Trace, train
from torch.optim.lr_scheduler import LambdaLR

from midcourse.controller.journal.reader import JournalReader
from midcourse.controller.journal.tell import past
from midcourse.policies.types import Action, Status

torch.set_num_threads(1)

RATE, RISE, JUMP = 2**-7, 8.0, 20  # powers of two: products with them are exact
TRIGGER, TARGET = 28, 15
POLICY = """
version: 1
signals: [trigger]
snapshots: {keep: 6, reach: 160, every: 5}
rules:
  - name: too-hot
    when: trigger.value > 0.5
    ladder:
      - [rollback: {to: {steps: 12}, data: DATA}, restore_lr: {}]
      - [notify: {message: it was not the rate}]
"""

Schedule = Callable[[int], float]


def jumps(step: int) -> float:
    return RISE if step >= JUMP else 1.0


def run(run_dir: Path | None, schedule: Schedule, data: str = "replay", ticks: tuple[int, ...] = ()) -> Trace:
    return train(
        run_dir,
        POLICY.replace("DATA", data),
        triggers=dict.fromkeys(ticks, 1.0),
        optimizer=lambda p: torch.optim.AdamW(p, lr=RATE),
        schedule=lambda o: LambdaLR(o, schedule),
    )


def told(run_dir: Path) -> tuple[list[Any], list[Any], list[Any]]:
    with JournalReader(run_dir) as reader:
        return reader.decisions(), reader.outcomes(), list(reader.samples())


def test_what_made_the_rate_rise_leads_to_the_one_of_before(tmp_path: Path) -> None:
    trace = run(tmp_path, jumps, ticks=(TRIGGER,))
    _, (outcome,), samples = told(tmp_path)
    assert outcome.status is Status.APPLIED
    assert outcome.details["rollback"]["target_tick"] == TARGET
    rates = {sample.step: sample.signals["lr"] for sample in samples if sample.branch == 1}
    assert min(rates) == TARGET + 1
    assert {rate for step, rate in rates.items() if step > JUMP} == {RATE}, "and no lower one"
    assert {rate for step, rate in rates.items() if step <= JUMP} == {RATE / RISE}
    # As if the schedule had been so from there on, bit for bit.
    assert trace.matches(run(None, lambda step: jumps(step) / (RISE if step >= TARGET else 1.0)))


def test_so_it_is_where_the_guilty_data_are_left_out(tmp_path: Path) -> None:
    run(tmp_path, jumps, data="skip", ticks=(TRIGGER,))
    _, (outcome,), samples = told(tmp_path)
    assert outcome.status is Status.APPLIED
    assert samples[-1].signals["lr"] == RATE


OF_LATE = """
version: 1
rules:
  - name: too-hot
    when: lr.ratio > 2
    ladder: [[restore_lr: {}]]
"""


def test_without_a_rollback_it_is_its_level_of_late_that_counts(tmp_path: Path) -> None:
    train(
        tmp_path,
        OF_LATE,
        optimizer=lambda p: torch.optim.AdamW(p, lr=RATE),
        schedule=lambda o: LambdaLR(o, jumps),
    )
    (decision,), (outcome,), samples = told(tmp_path)
    assert outcome.status is Status.APPLIED
    rates = {sample.tick: sample.signals["lr"] for sample in samples}
    assert rates[decision.tick] == RISE * RATE
    assert {rate for tick, rate in rates.items() if tick != decision.tick} == {RATE}


TWICE = POLICY.replace("DATA", "replay").replace(
    "rules:",
    """rules:
  - name: of-late
    when: lr.ratio > 2
    ladder: [[restore_lr: {}]]""",
)


def test_a_rise_that_was_taken_back_already_is_not_taken_back_twice(tmp_path: Path) -> None:
    train(
        tmp_path,
        TWICE,
        triggers={TRIGGER: 1.0},
        optimizer=lambda p: torch.optim.AdamW(p, lr=RATE),
        schedule=lambda o: LambdaLR(o, jumps),
    )
    decisions, outcomes, samples = told(tmp_path)
    assert [decision.rule for decision in decisions[:2]] == ["of-late", "too-hot"]
    assert outcomes[1].status is Status.REFUSED
    assert "has not risen" in outcomes[1].reason
    assert samples[-1].signals["lr"] == RATE


def test_where_the_loop_allows_no_way_back_for_its_schedule_the_level_of_late_counts(tmp_path: Path) -> None:
    train(
        tmp_path,
        POLICY.replace("DATA", "replay").replace(
            "trigger.value > 0.5", "trigger.value > 0.5 and lr.ratio > 2"
        ),
        triggers={TRIGGER: 1.0},
        owned=False,
        optimizer=lambda p: torch.optim.AdamW(p, lr=RATE),
        schedule=lambda o: LambdaLR(o, jumps),
    )
    _, (outcome,), samples = told(tmp_path)
    assert outcome.status is Status.APPLIED
    assert outcome.details["rollback"]["data"] == "forward"
    assert samples[-1].signals["lr"] == RATE


NOT_RISEN: dict[str, tuple[Schedule, str]] = {
    "constant": (lambda step: 1.0, "the learning rate has not risen"),
    "falling": (lambda step: 0.9**step, "the learning rate has not risen"),
    "hardly": (lambda step: 1.0 + 0.05 * (step >= JUMP), "the learning rate has not risen"),
    "from nothing": (lambda step: float(step >= JUMP), "the learning rate was 0 before"),
}


@pytest.mark.parametrize("name", NOT_RISEN)
def test_where_it_has_not_risen_nothing_is_done_and_the_next_rung_follows_at_once(
    tmp_path: Path, name: str
) -> None:
    schedule, reason = NOT_RISEN[name]
    trace = run(tmp_path, schedule, ticks=(TRIGGER, TRIGGER + 1))
    decisions, outcomes, samples = told(tmp_path)
    assert [(decision.tick, decision.rung) for decision in decisions] == [(TRIGGER, 0), (TRIGGER + 1, 1)]
    assert [outcome.status for outcome in outcomes] == [Status.REFUSED, Status.APPLIED]
    assert reason in outcomes[0].reason
    assert {sample.branch for sample in samples} <= {0, 1}
    assert [sample.step for sample in samples] == list(range(1, 61)), "and nothing was done twice"
    assert trace.matches(run(None, schedule))


def test_the_journal_says_so_in_words() -> None:
    action = Action("restore_lr", {"hold": None, "ramp": 0})
    assert past(action, {}) == "took back the rise of the learning rate"
    assert "for 50" in past(Action("restore_lr", {"hold": 50, "ramp": 0}), {})
