"""A recorded run replayed gives the decisions that were made live."""

from __future__ import annotations

import json
from random import Random

import pytest

from midcourse.monitors.bank import MonitorBank
from midcourse.monitors.types import Health, Sample
from midcourse.policies.engine import Engine
from midcourse.policies.policy import Mode, Policy, parse_policy
from midcourse.policies.replay import Commanded, Event, Replay, Resumed, StateLoaded, landmarks_of, replay
from midcourse.policies.types import Decision, Disposition, Outcome, Result, Status, Turn

POLICY = """
version: 1
mode: act
monitors:
  guard:  {type: guard}
  blowup: {type: divergence, signal: loss}
  rise:   {type: sustained_rise, signal: loss}
  source: {type: sustained_rise, signal: "loss/source=*"}
rules:
  - name: bad-step
    when: guard.bad
    budget: {acts: 20, per: 1000}
    ladder:
      - [skip_step: {}]
      - [stop: {}]
  - name: bad-source
    foreach: source
    when: this.bad
    for: 5
    cooldown: 200
    budget: {acts: 2, per: 5000}
    ladder:
      - [reweight: {source: this, to: 0, hold: 500, ramp: 200}]
  - name: off-course
    when: blowup.bad or rise.bad
    budget: {acts: 3, per: 5000, max: 10}
    ladder:
      - [rollback: {to: before_onset, data: skip}]
      - [rollback: {to: before_onset, data: skip}, scale_lr: {factor: 0.5, hold: 200, ramp: 200}]
      - [stop: {}]
    verify: {within: 300, expect: "loss.level <= target.loss.level + 3 * target.loss.noise"}
limits: {acts: 10, per: 10000, then: observe}
"""


class Live:
    """A run with faults: NaN now and then, a bad source, a loss that twice diverges until rolled back."""

    def __init__(self, policy: Policy) -> None:
        self.bank = MonitorBank(policy.monitors, policy.baselines)
        self.engine = Engine(policy, self.bank.lateness)
        self.events: list[Event] = []
        self.said = Turn()
        self.diverges = False
        self.snapshots = [(-1, json.dumps(self.bank.state_dict()), self.bank.facts())]

    def run(self, ticks: int) -> None:
        noise = Random(0)
        for tick in range(ticks):
            self.diverges = self.diverges or tick in (400, 900)
            loss = 2 + noise.gauss(0, 0.1) + 3 * self.diverges
            code = 2 + noise.gauss(0, 0.1) + 2 * (600 <= tick < 640)
            signals = {"loss": float("nan") if tick % 97 == 96 else loss, "loss/source=code": code}
            sample = Sample(tick, tick, 0, signals)
            self.take(self.engine.judge_step(sample, self.bank.judge_step(sample)), tick)
            self.events.append(sample)
            self.take(self.engine.tick(sample, self.bank.update(sample)), tick)
            if tick == 1000:
                self.said.extend(self.engine.command("observe", tick))
                self.events.append(Commanded("observe", tick))
            if tick % 50 == 0:
                self.snapshots.append((tick, json.dumps(self.bank.state_dict()), self.bank.facts()))

    def take(self, turn: Turn, tick: int) -> None:
        self.said.extend(turn)
        for decision in turn.decisions:
            if decision.disposition is Disposition.ACT:
                applied = Outcome(decision.id, Status.APPLIED, tick)
                outcome = self.roll_back(decision, tick) if decision.rule == "off-course" else applied
                self.said.extend(self.engine.record(outcome))
                self.events.append(outcome)

    def roll_back(self, decision: Decision, tick: int) -> Outcome:
        assert decision.onset is not None
        target, state, facts = max(each for each in self.snapshots if each[0] < decision.onset)
        self.bank.load_state_dict(json.loads(state))
        self.diverges = False
        details = {"rollback": {"target_tick": target}}
        return Outcome(decision.id, Status.APPLIED, tick, facts=facts, details=details)


def test_a_run_replayed_decides_the_same() -> None:
    policy = parse_policy(POLICY)
    live = Live(policy)
    live.run(1300)
    events, said = live.events, live.said
    actions = {action.name for decision in said.decisions for action in decision.actions}
    assert {"skip_step", "reweight", "rollback"} <= actions
    assert {verdict.result for verdict in said.verdicts} == {Result.INCONCLUSIVE, Result.HELPED}
    again = replay(policy, events)
    assert again.decisions == said.decisions
    assert again.verdicts == said.verdicts


SKIPS = """
version: 1
monitors:
  guard: {type: guard}
rules:
  - name: bad-step
    when: guard.bad
    budget: {acts: 4, per: 100}
    ladder: [[skip_step: {}]]
  - name: hot
    when: heat.value > 0.5
    for: 2
    budget: {acts: 3, per: 100}
    ladder: [[scale_lr: {factor: 0.5}]]
signals: [heat]
"""


def test_what_another_rule_did_at_the_tick_of_a_skip_it_does_again() -> None:
    """A skip's outcome is written before the sample of its tick: between the two, as it was live."""
    policy = parse_policy(SKIPS)
    bank = MonitorBank(policy.monitors, policy.baselines)
    engine = Engine(policy, bank.lateness)
    said, events = Turn(), list[Event]()

    def take(turn: Turn, tick: int) -> None:
        said.extend(turn)
        for decision in turn.decisions:
            if decision.disposition is Disposition.ACT:
                events.append(Outcome(decision.id, Status.APPLIED, tick))
                said.extend(engine.record(Outcome(decision.id, Status.APPLIED, tick)))

    for tick in range(10):
        bad = tick in (2, 3, 5, 6, 8)
        signals = {"loss": float("nan") if bad else 2.0, "heat": float(tick in (2, 3, 5, 6))}
        sample = Sample(tick, tick, 0, signals)
        take(engine.judge_step(sample, bank.judge_step(sample)), tick)
        events.append(sample)
        take(engine.tick(sample, bank.update(sample)), tick)
    acts = [decision.id for decision in said.decisions if decision.disposition is Disposition.ACT]
    assert acts == ["bad-step@2", "bad-step@3", "hot@3", "bad-step@5", "bad-step@6", "hot@6"]
    again = replay(policy, events)
    assert again.decisions == said.decisions
    assert again.phases == said.phases


def test_another_policy_can_be_tried_on_an_old_run() -> None:
    watching = parse_policy(POLICY.replace("mode: act", "mode: observe"))
    live = Live(parse_policy(POLICY))
    live.run(500)
    said = replay(watching, [event for event in live.events if isinstance(event, Sample)])
    assert Disposition.ACT not in {decision.disposition for decision in said.decisions}
    assert {"bad-step", "off-course"} == {
        d.rule for d in said.decisions if d.disposition is Disposition.OBSERVE
    }


def test_a_rollback_to_a_tick_that_was_not_replayed_is_refused() -> None:
    details = {"rollback": {"target_tick": 7}}
    with pytest.raises(ValueError, match="r@9 goes back to tick 7, which was not replayed"):
        replay(parse_policy(POLICY), [Outcome("r@9", Status.APPLIED, 9, details=details)])


ROLLED_BACK = {"rollback": {"target_tick": 450}}


def samples(first: int, last: int, branch: int = 0, shift: float = 0.0) -> list[Event]:
    return [
        Sample(tick, tick, branch, {"loss": 2 + shift + 0.1 * Random(tick).gauss(0, 1)})
        for tick in range(first, last)
    ]


def test_a_rollback_by_another_s_act_takes_the_monitors_and_the_rules_back() -> None:
    replayed = Replay(parse_policy(POLICY), {450})
    for event in samples(0, 503, shift=0.0):
        replayed.take(event)
    for event in samples(503, 509, shift=0.5):  # CUSUM has gathered, and alarms soon
        replayed.take(event)
    gathered = replayed.bank.readings["rise"][""].score
    replayed.take(Outcome("other@508", Status.APPLIED, 508, details=ROLLED_BACK))
    assert replayed.bank.readings["rise"][""].tick == 450
    assert replayed.bank.readings["rise"][""].score < gathered / 2
    assert not replayed.engine.suspects


def test_a_new_process_goes_on_as_one_that_never_ended() -> None:
    policy = parse_policy(POLICY)
    whole = [*samples(0, 480), *samples(480, 520, shift=3)]
    broken = [*samples(0, 480), *samples(480, 500, shift=3), Resumed(470), *whole[471:]]
    for events in (broken, [*whole[:471], Resumed(470), *whole[471:]]):
        replayed = Replay(policy, landmarks_of(events))
        said = [replayed.take(event) for event in events][-len(whole[471:]) :]
        decided = [decision for turn in said for decision in turn.decisions]
        assert decided == replay(policy, whole).decisions
        assert decided


def test_a_state_that_the_loop_loaded_has_the_monitors_begin_anew() -> None:
    replayed = Replay(parse_policy(POLICY))
    for event in samples(0, 100):
        replayed.take(event)
    assert replayed.bank.readings["rise"][""].health is Health.OK
    replayed.take(StateLoaded(99))
    replayed.take(samples(100, 101)[0])
    assert replayed.bank.readings["rise"][""].health is Health.WARMUP


def test_a_state_is_that_before_the_next_sample_whatever_was_told_in_between() -> None:
    """A rollback at tick 508 to 450, and later one to 508: to what 450 was, which the run stood at then."""
    events = [*samples(0, 509), Outcome("other@508", Status.APPLIED, 508, details=ROLLED_BACK)]
    events += samples(509, 520, branch=1)
    to_508 = {"rollback": {"target_tick": 508}}
    events.append(Outcome("other@519", Status.APPLIED, 519, details=to_508))
    replayed = Replay(parse_policy(POLICY), landmarks_of(events))
    for event in events:
        replayed.take(event)
    assert replayed.bank.readings["rise"][""].tick == 450


def test_an_act_that_nobody_carries_out_counts_as_observed() -> None:
    policy, watching = parse_policy(POLICY), parse_policy(POLICY.replace("mode: act", "mode: observe"))
    acting, observing = Replay(policy), Replay(watching)
    said: dict[str, list[tuple[str, str]]] = {"acting": [], "observing": []}
    for event in [*samples(0, 480), *samples(480, 1200, shift=3), *samples(1200, 2000, shift=9)]:
        for name, replayed in (("acting", acting), ("observing", observing)):
            turn = replayed.take(event)
            if replayed.engine.in_flight is not None:
                turn.extend(replayed.dismiss(event.tick))
            said[name] += [(each.id, each.reason) for each in turn.decisions]
    assert said["acting"] == said["observing"]
    assert len(said["acting"]) > 1
    assert acting.engine.mode is Mode.OBSERVE
    states = [replayed.engine.state_dict()["machines"] for replayed in (acting, observing)]
    assert states[0] == states[1]
