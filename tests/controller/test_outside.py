"""What reaches a run from outside while it goes on: the kill switch, answers, an edited policy."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest
from click.testing import CliRunner
from small_loop import Died, Trace, train

import midcourse
from midcourse.controller.cli import main
from midcourse.controller.journal.reader import JournalReader
from midcourse.controller.outside import OFF_VARIABLE, switch_off, switch_on, waiting
from midcourse.controller.recorded.backtest import backtest
from midcourse.controller.recorded.journal_runs import read_journal
from midcourse.policies.policy import Policy, load_policy, parse_policy
from midcourse.policies.types import Decision, Disposition, Outcome, Status

POLICY = """
version: 1
signals: [trigger]
snapshots: {{keep: 6, reach: 160, every: 5}}
{top}
rules:
  - name: pull
    when: trigger.value > 0.5
    budget: {{acts: 5, per: 1000}}
    cooldown: 3
    {rule}
    ladder:
      - [{actions}]
"""
BACK = "rollback: {to: before_onset, data: replay}"
COOLER = "scale_lr: {factor: 0.5, hold: 500}"


def policy(actions: str = COOLER, rule: str = "", top: str = "") -> str:
    return POLICY.format(actions=actions, rule=rule, top=top)


class Steps:
    """Calls what is to be done after an optimizer step, by its number; a second passes at every look."""

    def __init__(self, **at: Callable[[], object]) -> None:
        self._at = {int(key.removeprefix("step")): do for key, do in at.items()}
        self._made = 0
        self._seconds = count(step=0.5)

    def __call__(self) -> None:
        self._made += 1
        self._at.get(self._made, lambda: None)()

    def clock(self) -> float:
        return next(self._seconds)

    def train(self, run: Path, text: str | Path, triggers: set[int], **kwargs: object) -> Trace:
        return train(
            run,
            text,
            triggers=dict.fromkeys(triggers, 1.0),
            after_step=self,
            clock=self.clock,
            **kwargs,
        )


def told(run: Path) -> tuple[list[Decision], list[Outcome], list[tuple[str, int]]]:
    with JournalReader(run) as journal:
        kinds = ("command", "approval", "policy", "policy_refused")
        events = [(event.kind, event.tick) for event in journal.events() if event.kind in kinds]
        return journal.decisions(), journal.outcomes(), events


def check_replay(run: Path, own: Policy) -> None:
    """The run's own journal gives its own decisions again, commands, answers and edits included."""
    tried = backtest(own, read_journal(run, "run"))
    first = tried.courses[0].comparison
    assert first is not None
    assert first.identical, first


@pytest.fixture(autouse=True)
def not_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(OFF_VARIABLE, raising=False)


def test_the_kill_switch_holds_until_it_is_taken_away(tmp_path: Path) -> None:
    steps = Steps(step5=lambda: switch_off(tmp_path), step25=lambda: switch_on(tmp_path))
    steps.train(tmp_path, policy(), {10, 30})
    decisions, outcomes, events = told(tmp_path)
    assert [(d.tick, d.disposition) for d in decisions] == [
        (10, Disposition.OBSERVE),
        (30, Disposition.ACT),
    ]
    assert [o.decision_id for o in outcomes] == ["pull@30"]
    assert events == [("command", 6), ("command", 26)]
    check_replay(tmp_path, parse_policy(policy()))


def test_what_is_in_force_stays_unless_it_is_to_be_withdrawn(tmp_path: Path) -> None:
    rates: dict[bool, list[float]] = {}
    for withdraw in (False, True):
        run = tmp_path / str(withdraw)
        seen: list[float] = []
        steps = Steps(step20=lambda run=run, withdraw=withdraw: switch_off(run, withdraw=withdraw))  # type: ignore[misc]
        steps.train(run, policy(), {10})
        with JournalReader(run) as journal:
            seen = [sample.signals["lr"] for sample in journal.samples()]
        rates[withdraw] = seen
    assert rates[False][9] == 1e-2
    assert set(rates[False][10:]) == {5e-3}
    assert rates[True][20] == 5e-3
    assert set(rates[True][21:]) == {1e-2}


def test_the_variable_keeps_a_process_from_acting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(OFF_VARIABLE, "1")
    trace = train(tmp_path / "run", policy(BACK), triggers={10: 1.0})
    assert trace.matches(train())
    decisions, _, events = told(tmp_path / "run")
    assert [d.disposition for d in decisions] == [Disposition.OBSERVE]
    assert events == [("command", 0)]


def test_the_switch_outlives_the_process(tmp_path: Path) -> None:
    checkpoints = "checkpoints: {every: 5}"
    with pytest.raises(Died):
        Steps(step3=lambda: switch_off(tmp_path)).train(tmp_path, policy(top=checkpoints), set(), die_at=12)
    train(tmp_path, policy(top=checkpoints), triggers={20: 1.0}, resume="auto")
    assert [d.disposition for d in told(tmp_path)[0]] == [Disposition.OBSERVE]
    switch_on(tmp_path)
    shutil.rmtree(tmp_path / "checkpoints")
    train(tmp_path, policy(top=checkpoints), triggers={20: 1.0}, resume="auto")
    assert told(tmp_path)[0][-1].disposition is Disposition.ACT


def test_an_approved_act_goes_back_to_where_it_was_asked_about(tmp_path: Path) -> None:
    """Forty ticks later the ring has thinned out, but what the decision needs was kept."""
    steps = Steps(step50=lambda: midcourse.approve(tmp_path, "pull@11", by="ada"))
    trace = steps.train(tmp_path, policy(BACK, "approve: {within: 100}"), set(range(11, 54)))
    decisions, outcomes, events = told(tmp_path)
    assert [(d.id, d.disposition) for d in decisions] == [("pull@11", Disposition.AWAITING_APPROVAL)]
    [outcome] = outcomes
    assert outcome.status is Status.APPLIED
    assert outcome.details["rollback"]["target_tick"] == 10
    assert events == [("command", 51), ("approval", 52)]
    assert trace.matches(train())
    check_replay(tmp_path, parse_policy(policy(BACK, "approve: {within: 100}")))
    said = CliRunner().invoke(main, ["journal", str(tmp_path), "--decision", "pull@11"]).output
    assert "It asked for approval of rollback" in said
    assert "The answer was yes 41 ticks later: ada. It rolled back to step 10" in said


def test_a_rejected_act_is_not_made(tmp_path: Path) -> None:
    steps = Steps(step15=lambda: midcourse.reject(tmp_path, "pull@10"))
    trace = steps.train(tmp_path, policy(BACK, "approve: true"), set(range(10, 60)))
    _, outcomes, events = told(tmp_path)
    assert outcomes == []
    assert events == [("command", 16), ("approval", 17)]
    assert trace.matches(train())


def test_only_what_waits_can_be_answered(tmp_path: Path) -> None:
    run = CliRunner()
    assert run.invoke(main, ["approve", str(tmp_path)]).output == (
        f"Error: {tmp_path}/journal.sqlite: there is no journal\n"
    )
    asked = policy(BACK, "approve: true")
    Steps(step12=lambda: run.invoke(main, ["reject", str(tmp_path), "pull@9"])).train(tmp_path, asked, {10})
    assert waiting(tmp_path) == []  # its condition held no more, so it lapsed
    with pytest.raises(ValueError, match="no decision 'pull@10' waits for approval; waiting: none"):
        midcourse.approve(tmp_path, "pull@10")
    assert run.invoke(main, ["approve", str(tmp_path)]).output == "Error: no decision waits\n"


def test_the_command_answers_the_one_that_waits(tmp_path: Path) -> None:
    said: list[str] = []

    def ask() -> None:
        said.append(CliRunner().invoke(main, ["approve", str(tmp_path), "--by", "ada"]).output)

    Steps(step14=ask).train(tmp_path, policy(COOLER, "approve: true"), set(range(10, 20)))
    assert said == ["pull@10: yes, by ada\n"]
    assert [o.status for o in told(tmp_path)[1]] == [Status.APPLIED]


def test_an_answer_outlives_the_process(tmp_path: Path) -> None:
    """The process dies after the answer and before its checkpoint: the decision falls again, answered."""
    asked = policy(COOLER, "approve: true", "checkpoints: {every: 20}")
    triggers = set(range(25, 60))
    steps = Steps(step30=lambda: midcourse.approve(tmp_path, "pull@25", by="ada"))
    with pytest.raises(Died):
        steps.train(tmp_path, asked, triggers, die_at=33)
    Steps().train(tmp_path, asked, triggers, resume="auto")
    decisions, outcomes, _ = told(tmp_path)
    assert [d.id for d in decisions][:2] == ["pull@25", "pull@25"]
    assert [(o.decision_id, o.status) for o in outcomes] == [("pull@25", Status.APPLIED)] * 2


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "policy.yaml"
    path.write_text(policy())
    return path


def test_an_edited_policy_is_in_force_from_the_next_tick(tmp_path: Path, file: Path) -> None:
    run, before = tmp_path / "run", load_policy(file)
    other = policy("scale_lr: {factor: 0.25, hold: 5}")
    Steps(step20=lambda: file.write_text(other)).train(run, file, {10, 30})
    decisions, outcomes, events = told(run)
    assert [d.actions[0].params["factor"] for d in decisions] == [0.5, 0.25]
    assert [o.status for o in outcomes] == [Status.APPLIED] * 2
    assert events == [("policy", 22)]  # not while the file may still be being written
    with JournalReader(run) as journal:
        [edit] = [event for event in journal.events() if event.kind == "policy"]
    assert "+      - [scale_lr: {factor: 0.25, hold: 5}]" in edit.detail["diff"]
    check_replay(run, before)
    assert "the policy was edited: " in CliRunner().invoke(main, ["journal", str(run)]).output


def test_an_edit_keeps_budgets_and_what_monitors_have_learnt(tmp_path: Path, file: Path) -> None:
    file.write_text(policy(rule="budget: {acts: 1, per: 1000}").replace("budget: {acts: 5, per: 1000}", ""))
    other = file.read_text().replace("factor: 0.5", "factor: 0.25")
    Steps(step20=lambda: file.write_text(other)).train(tmp_path / "run", file, {10, 30})
    decisions, outcomes, events = told(tmp_path / "run")
    assert events == [("policy", 22)]
    assert len(outcomes) == 1
    assert decisions[-1].disposition is Disposition.SUPPRESSED
    assert decisions[-1].reason == "the budget is spent: 1 act in 1000 ticks"


def test_a_broken_edit_changes_nothing_and_says_so_once(tmp_path: Path, file: Path) -> None:
    broken = policy("scale_lr: {fctor: 0.25}")
    Steps(step20=lambda: file.write_text(broken)).train(tmp_path / "run", file, {10, 30})
    decisions, _, events = told(tmp_path / "run")
    assert [d.actions[0].params["factor"] for d in decisions] == [0.5, 0.5]
    assert events == [("policy_refused", 22)]
    with JournalReader(tmp_path / "run") as journal:
        [refused] = [event for event in journal.events() if event.kind == "policy_refused"]
    assert refused.detail["problems"] == [
        f"{file}:13:20: rule 'pull': scale_lr needs the key 'factor'",
        f"{file}:13:21: rule 'pull': scale_lr has no key 'fctor': did you mean 'factor'?",
    ]


def test_what_cannot_change_in_a_run_that_goes_on_is_refused(tmp_path: Path, file: Path) -> None:
    other = policy().replace("keep: 6", "keep: 3").replace("[trigger]", "[trigger, other]")
    Steps(step20=lambda: file.write_text(other)).train(tmp_path / "run", file, set())
    with JournalReader(tmp_path / "run") as journal:
        [refused] = [event for event in journal.events() if event.kind == "policy_refused"]
    assert [problem.split(": ")[1] for problem in refused.detail["problems"]] == [
        "'snapshots' cannot change while the run goes on",
        "'signals' cannot change while the run goes on",
    ]


def test_a_file_that_is_gone_for_a_while_changes_nothing(tmp_path: Path, file: Path) -> None:
    aside = tmp_path / "aside"
    steps = Steps(step10=lambda: file.rename(aside), step30=lambda: aside.rename(file))
    steps.train(tmp_path / "run", file, {40})
    decisions, _, events = told(tmp_path / "run")
    assert [d.disposition for d in decisions] == [Disposition.ACT]
    assert [kind for kind, _ in events] == ["policy_refused"]
