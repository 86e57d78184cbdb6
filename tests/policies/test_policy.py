"""Typed policies: what the schema reads, what it refuses, and in which words."""

from __future__ import annotations

from pathlib import Path

import pytest

from midcourse.monitors.bank import MonitorBank
from midcourse.monitors.types import Health, MonitorSpec, Sample
from midcourse.policies.actions import ACTIONS, Priority
from midcourse.policies.model import Store
from midcourse.policies.policy import (
    DEFAULT_BUDGET,
    Budget,
    LimitResponse,
    Limits,
    Mode,
    PolicyError,
    Rung,
    SnapshotPlan,
    load_policy,
    packaged_policy,
    parse_policy,
)
from midcourse.policies.types import Action

HERE = Path(__file__).parent

SHORT = """
version: 1
monitors:
  guard: {type: guard}
  rise: {type: sustained_rise, signal: loss}
  source: {type: sustained_rise, signal: "loss/source=*"}
rules:
  - name: off-course
    when: rise.bad
    ladder:
      - %s
"""


def ladder_of(rung: str) -> Rung:
    return parse_policy(SHORT % rung).rules[0].ladder[0]


def problems_of(text: str) -> list[str]:
    with pytest.raises(PolicyError) as caught:
        parse_policy(text, "p.yaml")
    return str(caught.value).splitlines()


def test_problems_are_in_the_order_of_their_places() -> None:
    with pytest.raises(PolicyError) as caught:
        load_policy(HERE / "bad" / "ten_mistakes.yaml")
    places = [problem.place for problem in caught.value.problems]
    assert len(places) == 10
    assert places == sorted(places)


def test_a_rule_on_a_forecast_checks_and_fires() -> None:
    policy = parse_policy(
        """
version: 1
monitors:
  outcome: {type: forecast, signal: loss, horizon: 1000, schedule: [[0, 0], [0.1, 1], [1, 0]], target: 2.4}
rules:
  - name: hopeless
    when: outcome.final > 2.5 and outcome.low > 2.4
    ladder: [[stop: {}]]
    verify: {within: 100, expect: outcome.final < before.outcome.final}
"""
    )
    bank, rule = MonitorBank(policy.monitors), policy.rules[0]
    answers = []
    for tick in range(400):
        signals = {"loss": 3.2 + 3 * (tick + 10) ** -0.5, "lr": min(1.0, (1000 - tick) / 900)}
        answers.append(rule.when(bank.update(Sample(tick, tick, 0, signals))))
    assert set(answers[:100]) == {None}
    assert answers[-1] is True
    assert bank.readings["outcome"][""].health is Health.WARNING


def test_the_policy_printed_in_the_design_works_as_it_stands() -> None:
    policy = load_policy(HERE / "design.yaml")
    assert policy.mode is Mode.ACT
    assert policy.snapshots == SnapshotPlan(keep=6, reach=1000, max_overhead=0.01)
    assert policy.limits == Limits(acts=10, per=10_000, then=LimitResponse.OBSERVE)
    assert policy.monitors[3] == MonitorSpec("source", "sustained_rise", {"signal": "loss/source=*"})
    assert policy.baselines == ("loss",)
    bad_step, bad_source, off_course = policy.rules
    assert [rule.before_step for rule in policy.rules] == [True, False, False]
    assert bad_step.budget == Budget(acts=20, per=1000)
    assert (bad_source.foreach, bad_source.for_measurements, bad_source.cooldown) == ("source", 5, 200)
    assert off_course.budget == Budget(acts=3, per=5000, max=10)
    assert [rung.priority for rung in off_course.ladder] == [
        Priority.ROLLBACK,
        Priority.ROLLBACK,
        Priority.STOP,
    ]
    assert off_course.ladder[1].actions == (
        Action("rollback", {"to": "before_onset", "data": "skip"}),
        Action("scale_lr", {"factor": 0.5, "hold": 200, "ramp": 200}),
    )
    assert off_course.verify is not None
    assert off_course.verify.within == 300
    assert off_course.verify.expect.uses_target
    assert policy.text.startswith("version: 1")


def test_the_shipped_baseline_loads_by_its_bare_name() -> None:
    policy = load_policy("baseline")
    assert policy == packaged_policy("baseline")
    assert policy.source == "baseline.yaml"
    assert {"bad-step", "bad-source", "off-course"} <= {rule.name for rule in policy.rules}
    with pytest.raises(ValueError, match="no policy 'nonesuch' is shipped"):
        packaged_policy("nonesuch")


def test_regulators_are_read_with_their_laws_constants() -> None:
    mix, calm = parse_policy(
        """
version: 1
regulators:
  mix: {law: group_dro, signal: "loss/source=*", floor: 0.05, ceiling: 0.7}
  calm: {law: proportional, signal: update_ratio, target: 1e-3, actuator: lr, every: 10, floor: 0.2}
"""
    ).regulators
    assert (mix.actuator, mix.every, mix.floor, mix.ceiling, mix.rate) == ("weight/*", 20, 0.05, 0.7, 0.1)
    assert mix.params == {"step": 0.2, "smoothing": 0.5}
    assert (calm.actuator, calm.every, calm.floor, calm.ceiling) == ("lr", 10, 0.2, 1.0)
    assert calm.params == {"target": 0.001, "gain": 0.5, "dead_band": 0.1}


def test_the_smallest_policy_only_watches() -> None:
    policy = parse_policy("version: 1")
    assert (policy.rules, policy.monitors, policy.limits) == ((), (), None)
    assert policy.snapshots == SnapshotPlan()


def test_snapshots_may_lie_on_the_device() -> None:
    assert parse_policy("{version: 1, snapshots: {store: device}}").snapshots.store is Store.DEVICE


def test_a_rule_without_a_budget_has_a_bounded_one() -> None:
    rule = parse_policy(SHORT % "[scale_lr: {factor: 0.5}]").rules[0]
    assert rule.budget == DEFAULT_BUDGET
    assert rule.budget.max is not None
    assert (rule.for_measurements, rule.cooldown, rule.mode) == (1, 0, Mode.ACT)


def test_parameters_are_complete_and_plain() -> None:
    assert ladder_of("[rollback: {}]").actions == (
        Action("rollback", {"to": "before_onset", "data": "forward"}),
    )
    assert ladder_of("[rollback: {to: {steps: 50}}]").actions[0].params["to"] == {"steps": 50}
    assert ladder_of("[set_lr: {to: 1e-4}]").actions[0].params == {"to": 1e-4, "hold": None, "ramp": 0}
    assert ladder_of("[reset_moments:, checkpoint: ]").actions == (
        Action("reset_moments", {}),
        Action("checkpoint", {"name": None}),
    )
    assert ladder_of("[notify: {message: look, url: 'https://example.org/hook'}]").priority is Priority.RECORD


def test_this_becomes_the_instance_when_the_rung_is_taken() -> None:
    text = (SHORT % "[reweight: {source: this, scale: 0.5}, reweight: {source: prose, to: 1}]").replace(
        "when: rise.bad", "foreach: source\n    when: this.bad"
    )
    rung = parse_policy(text).rules[0].ladder[0]
    assert [action.params["source"] for action in rung.resolve("code")] == ["code", "prose"]
    assert rung.resolve("code")[1] is rung.actions[1]


def test_one_rule_may_observe_while_the_others_act() -> None:
    text = SHORT % "[stop: {}]" + "    mode: observe\n"
    policy = parse_policy(text)
    assert (policy.mode, policy.rules[0].mode) == (Mode.ACT, Mode.OBSERVE)


def test_signals_of_the_user_are_declared() -> None:
    text = """
version: 1
signals: [eval/loss, "acc/group=*"]
monitors:
  eval: {type: sustained_rise, signal: eval/loss}
  group: {type: sustained_rise, signal: "acc/group=*"}
  one: {type: sustained_rise, signal: acc/group=a}
rules:
  - name: worse
    when: signal("eval/loss").z > 3 and any(group.bad) and signal("acc/group=b").value < 0.5
    ladder: [[checkpoint: {}]]
"""
    policy = parse_policy(text)
    assert policy.baselines == ("acc/group=b", "eval/loss")
    assert len(problems_of(text.replace("signals: [eval/loss", "signals: [eval/acc"))) == 2


def test_a_mistake_in_a_monitor_makes_no_second_one_in_the_rules_that_name_it() -> None:
    text = (SHORT % "[skip_step: {}]").replace("guard: {type: guard}", "guard: {type: gaurd}")
    assert problems_of(text.replace("rise.bad", "guard.bad")) == [
        "p.yaml:4:17: monitor 'guard': there is no monitor type 'gaurd': did you mean 'guard'?"
    ]


def test_a_mistake_in_an_expression_is_pointed_at() -> None:
    assert problems_of((SHORT % "[stop: {}]").replace("rise.bad", '"rise.bad or los.z > 3"')) == [
        "p.yaml:9:24: rule 'off-course': when: there is no monitor or signal 'los': did you mean 'loss'?"
    ]


@pytest.mark.parametrize("name", ACTIONS)
def test_an_unknown_key_of_any_action_is_told(name: str) -> None:
    [problem] = [line for line in problems_of(SHORT % f"[{name}: {{bogus_key: 1}}]") if "bogus" in line]
    assert f"{name} has no key 'bogus_key'" in problem
