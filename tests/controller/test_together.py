"""Trials, regulators, the kill switch, questions and edited policies, where they meet in one run."""

from __future__ import annotations

import os
import signal
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from small_loop import Died, train
from test_outside import BACK, COOLER, Steps, check_replay, policy, told
from test_trial import ARMS, STEPS, TRIGGER, trial_policy

import midcourse
from midcourse.controller.journal.reader import JournalReader
from midcourse.controller.outside import OFF_VARIABLE, switch_off, switch_on, waiting
from midcourse.controller.recorded.backtest import backtest
from midcourse.controller.recorded.journal_runs import read_journal
from midcourse.policies.engine import Engine
from midcourse.policies.policy import load_policy, parse_policy
from midcourse.policies.types import Disposition, Result, Status

torch.set_num_threads(1)

LOOP: dict[str, Any] = {"epochs": 4, "mixture": True}


@pytest.fixture(autouse=True)
def not_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(OFF_VARIABLE, raising=False)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "policy.yaml"


def check_all_replayed(run: Path, text: str) -> None:
    """Every process life of a run gives its own decisions and verdicts again."""
    for course in backtest(parse_policy(text), read_journal(run, "run")).courses:
        assert course.comparison is not None
        assert course.comparison.identical, course.comparison


def edits(file: Path, text: str, at: int) -> Steps:
    return Steps(**{f"step{at}": lambda: file.write_text(text)})


def test_a_policy_edited_while_a_trial_runs_is_taken_up_after_it(tmp_path: Path, file: Path) -> None:
    """Else some arms would be judged by one number and some by another."""
    text = trial_policy(["cooler"])
    file.write_text(text)
    other = text.replace("judge: score.value", "judge: trigger.value")
    steps = edits(file, other, 30)
    before = load_policy(file)
    steps.train(tmp_path / "run", file, {TRIGGER}, also={"score": {}}, **LOOP)
    _, [outcome], events = told(tmp_path / "run")
    assert outcome.status is Status.APPLIED
    assert outcome.details["trial"]["arms"]["cooler"]["pairs"] == STEPS // 2
    [(kind, tick)] = events
    assert (kind, tick > outcome.tick) == ("policy", True)
    check_replay(tmp_path / "run", before)


def test_a_rule_removed_while_its_trial_runs_goes_after_it(tmp_path: Path, file: Path) -> None:
    text = trial_policy(["cooler"])
    file.write_text(text)
    other = text.replace("name: which", "name: other")
    before = load_policy(file)
    edits(file, other, 30).train(tmp_path / "run", file, {TRIGGER, 40}, **LOOP)
    decisions, outcomes, events = told(tmp_path / "run")
    assert [d.rule for d in decisions][:1] == ["which"]
    assert events[0][1] > outcomes[0].tick
    check_replay(tmp_path / "run", before)


def test_the_switch_ends_a_trial_at_once(tmp_path: Path) -> None:
    text = trial_policy(list(ARMS)).replace("- [notify: {message: next}]", "- [stop: {}]")
    steps = Steps(step60=lambda: switch_off(tmp_path), step120=lambda: switch_on(tmp_path))
    trace = steps.train(tmp_path, text, {TRIGGER}, **LOOP)
    _, [outcome], events = told(tmp_path)
    assert events[0] == ("command", 61)
    assert outcome.tick <= 62
    assert outcome.status is not Status.APPLIED
    assert "switched off" in outcome.reason
    assert trace.matches(train(**LOOP))
    check_replay(tmp_path, parse_policy(text))


def test_a_trial_that_was_switched_off_is_no_reason_for_the_next_rung(tmp_path: Path) -> None:
    text = trial_policy(list(ARMS)).replace("- [notify: {message: next}]", "- [stop: {}]")
    text = text.replace("    ladder:", "    cooldown: 5\n    ladder:")
    steps = Steps(step60=lambda: switch_off(tmp_path), step70=lambda: switch_on(tmp_path))
    trace = steps.train(tmp_path, text, set(range(TRIGGER, 90)), **LOOP)
    assert trace.controller is not None
    assert trace.controller.stopped is None
    check_replay(tmp_path, parse_policy(text))


def test_withdrawing_after_switching_off_takes_back_what_is_in_force(tmp_path: Path) -> None:
    steps = Steps(step20=lambda: switch_off(tmp_path), step30=lambda: switch_off(tmp_path, withdraw=True))
    steps.train(tmp_path, policy(), {10})
    with JournalReader(tmp_path) as journal:
        rates = [sample.signals["lr"] for sample in journal.samples()]
    assert rates[25] == 5e-3
    assert set(rates[32:]) == {1e-2}
    check_replay(tmp_path, parse_policy(policy()))


def test_off_holds_for_what_a_resumed_run_has_still_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trial was put off by SIGTERM; when the run goes on the switch is off."""
    text = trial_policy(list(ARMS)).replace("rules:", "checkpoints: {every: 5, keep: 100}\nrules:")
    with pytest.raises(SystemExit):
        Steps(step40=lambda: os.kill(os.getpid(), signal.SIGTERM)).train(tmp_path, text, {TRIGGER}, **LOOP)
    monkeypatch.setenv(OFF_VARIABLE, "1")
    trace = train(tmp_path, text, resume="auto", **LOOP)
    _, outcomes, _ = told(tmp_path)
    assert [outcome.status for outcome in outcomes] == [Status.REFUSED]
    assert trace.matches(train(**LOOP))
    check_all_replayed(tmp_path, text)


def test_the_verdict_of_a_rule_that_was_edited_away_is_given(tmp_path: Path, file: Path) -> None:
    """Else its snapshot stays pinned, and the journal waits for a verdict for ever."""
    file.write_text(policy(COOLER, "verify: {within: 60, expect: trigger.value < 2}"))
    before = load_policy(file)
    for name, other in (
        ("gone", policy(COOLER).replace("name: pull", "name: other")),
        ("unverified", policy(COOLER)),
    ):
        file.write_text(before.text)
        run = tmp_path / name
        edits(file, other, 20).train(run, file, {10})
        with JournalReader(run) as journal:
            verdicts = journal.verdicts()
        assert [(v.decision_id, v.result) for v in verdicts] == [("pull@10", Result.INCONCLUSIVE)], name
        assert "edited" in verdicts[0].reason
        check_replay(run, before)


@pytest.mark.parametrize("change", ["gone", "unasked", "another act"])
def test_a_question_lapses_when_its_rule_is_edited(tmp_path: Path, file: Path, change: str) -> None:
    asks = policy(BACK, "approve: {within: 100}")
    file.write_text(asks)
    before = load_policy(file)
    other = {
        "gone": asks.replace("name: pull", "name: other"),
        "unasked": policy(COOLER),
        "another act": policy(COOLER, "approve: {within: 100}"),
    }[change]
    run = tmp_path / "run"
    edits(file, other, 20).train(run, file, set(range(10, 60)))
    ids = [decision.id for decision in waiting(run)]
    assert "pull@10" not in ids
    check_replay(run, before)
    with JournalReader(run) as journal:
        lapsed = [e.detail for e in journal.events() if e.kind == "approval"]
    assert (lapsed[0]["decision"], lapsed[0]["reply"]) == ("pull@10", "lapsed")


def test_an_edited_quiet_period_is_kept(tmp_path: Path, file: Path) -> None:
    file.write_text(policy())
    other = policy(top="quiet: {start: 40}")
    edits(file, other, 10).train(tmp_path / "run", file, {20, 50})
    decisions, _, _ = told(tmp_path / "run")
    assert [(d.tick, d.disposition) for d in decisions] == [
        (20, Disposition.SUPPRESSED),
        (50, Disposition.ACT),
    ]


def test_a_policy_that_comes_to_act_has_snapshots_to_go_back_to(tmp_path: Path, file: Path) -> None:
    acts = policy(BACK)
    file.write_text(acts.replace("version: 1", "version: 1\nmode: observe"))
    edits(file, acts, 10).train(tmp_path / "run", file, {40})
    _, outcomes, events = told(tmp_path / "run")
    if events[0][0] == "policy":
        assert [o.status for o in outcomes] == [Status.APPLIED]


def test_an_answer_counts_for_the_run_in_which_it_was_given(tmp_path: Path) -> None:
    """Not for another one in the same folder, nor for another act under the same name."""
    asks = policy(COOLER, "approve: {within: 100}")
    steps = Steps(step20=lambda: midcourse.approve(tmp_path, "pull@10"))
    steps.train(tmp_path, asks, set(range(10, 40)))
    Steps().train(tmp_path, asks, set(range(10, 40)))
    _, outcomes, _ = told(tmp_path)
    assert len(outcomes) == 1


def test_an_answer_counts_for_the_act_that_was_asked_about(tmp_path: Path) -> None:
    asks = policy(COOLER, "approve: {within: 100}", "checkpoints: {every: 5}")
    steps = Steps(step14=lambda: midcourse.approve(tmp_path, "pull@13"))
    with pytest.raises(Died):
        steps.train(tmp_path, asks, set(range(13, 40)), die_at=15)
    other = asks.replace(COOLER, "set_lr: {to: 1}")
    Steps().train(tmp_path, other, set(range(13, 40)), resume="auto")
    _, outcomes, _ = told(tmp_path)
    assert [o.details for o in outcomes if "set_lr" in o.details] == []


def test_what_was_put_off_is_replayed_as_it_went_on(tmp_path: Path) -> None:
    """The rule fires all the while: were the trial told to have failed, the next rung would follow."""
    text = trial_policy(list(ARMS)).replace("rules:", "checkpoints: {every: 5, keep: 100}\nrules:")
    firing = set(range(TRIGGER, 300))
    with pytest.raises(SystemExit):
        Steps(step40=lambda: os.kill(os.getpid(), signal.SIGTERM)).train(tmp_path, text, firing, **LOOP)
    Steps().train(tmp_path, text, firing, resume="auto", also={"score": {}}, **LOOP)
    _, outcomes, _ = told(tmp_path)
    assert outcomes[0].status is Status.APPLIED
    assert outcomes[0].details["trial"]["kept"] == "nothing"
    check_all_replayed(tmp_path, text)


def test_another_policy_is_tried_on_a_run_that_was_told_things(tmp_path: Path, file: Path) -> None:
    """Edits, answers and the switch are the run's own affair, except an answer to the same question."""
    run, asks = tmp_path / "run", policy(COOLER, "approve: {within: 100}")
    file.write_text(asks)
    steps = Steps(
        step15=lambda: midcourse.approve(run, "pull@10"),
        step25=lambda: file.write_text(policy()),
        step40=lambda: switch_off(run),
    )
    steps.train(run, file, {*range(10, 20), 30, 45})
    recording = read_journal(run, "run")
    other = parse_policy(policy(COOLER.replace("0.5", "0.25")))
    [course] = backtest(other, recording).courses
    assert course.difference is not None
    assert course.difference.by_policy
    assert course.decisions[0].actions[0].params["factor"] == 0.25
    same_but_later = parse_policy(asks.replace("cooldown: 3", "cooldown: 4"))
    [course] = backtest(same_but_later, recording).courses
    assert course.difference is not None
    assert course.difference.tick > 20


CALM = """
version: 1
signals: [trigger]
{mode}
regulators:
  calm:
    {{law: proportional, signal: update_ratio, target: 1e-4, actuator: lr, every: 4, floor: 0.02, rate: 0.05}}
monitors:
  guard: {{type: guard}}
rules:
  - name: pull
    when: trigger.value > 0.5
    ladder:
      - [{actions}]
"""


def rates(run: Path) -> list[float]:
    with JournalReader(run) as journal:
        return [sample.signals["lr"] for sample in journal.samples()]


def largest_move(seen: list[float]) -> float:
    return max(abs(now - was) for was, now in pairwise(seen)) / 1e-2


@pytest.mark.parametrize("withdraw", [False, True])
def test_regulators_rest_while_the_switch_is_off(tmp_path: Path, withdraw: bool) -> None:
    """On again they go on from what is in force, within their rate."""
    steps = Steps(step20=lambda: switch_off(tmp_path, withdraw=withdraw), step60=lambda: switch_on(tmp_path))
    steps.train(tmp_path, CALM.format(mode="", actions=COOLER), set(), norms_every=1, epochs=4)
    seen = rates(tmp_path)
    assert seen[19] < 0.9e-2
    assert set(seen[23:60]) == {1e-2 if withdraw else seen[22]}
    assert seen[-1] < seen[59]
    assert largest_move(seen[23:]) < 0.051


def test_regulators_begin_anew_when_the_policy_comes_to_act(tmp_path: Path, file: Path) -> None:
    """What they came to while nobody obeyed them would be put in force at once."""
    acts = CALM.format(mode="mode: act", actions=COOLER)
    file.write_text(acts.replace("mode: act", "mode: observe"))
    edits(file, acts, 40).train(tmp_path / "run", file, set(), norms_every=1, epochs=4)
    seen = rates(tmp_path / "run")
    assert set(seen[:41]) == {1e-2}
    assert seen[-1] < 0.9e-2
    assert largest_move(seen) < 0.051


def test_a_checkpoint_of_an_earlier_version_is_gone_on_from() -> None:
    """Its engine knew no kill switch, no questions, no quiet period, and called open verdicts trials."""
    plan = parse_policy(policy(COOLER, "verify: {within: 60, expect: trigger.value < 2}"))
    engine = Engine(plan, lambda name: 0)
    state = engine.state_dict()
    for name in ("off", "questions", "quiet", "open_verdicts"):
        del state[name]
    act = {"decision_id": "pull@3", "rule": "pull", "instance": "", "applied": 3, "due": 63}
    other = Engine(plan, lambda name: 0)
    other.load_state_dict({**state, "trials": [{**act, "before": {}, "target": {}}]})
    assert not other.off
    assert not other.waiting
    assert [each["decision_id"] for each in other.state_dict()["open_verdicts"]] == ["pull@3"]


def test_what_waits_to_be_done_is_not_done_under_a_policy_that_decides_otherwise(tmp_path: Path) -> None:
    text = trial_policy(list(ARMS)).replace("rules:", "checkpoints: {every: 5, keep: 100}\nrules:")
    with pytest.raises(SystemExit):
        Steps(step40=lambda: os.kill(os.getpid(), signal.SIGTERM)).train(tmp_path, text, {TRIGGER}, **LOOP)
    trace = train(tmp_path, text.replace("steps: 32", "steps: 40"), resume="auto", **LOOP)
    _, [outcome], _ = told(tmp_path)
    assert outcome.status is Status.REFUSED
    assert "the policy has changed" in outcome.reason
    assert trace.matches(train(**LOOP))
