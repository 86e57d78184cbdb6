"""While arms are tried the engine says nothing; what it does after a trial depends on what was kept."""

from __future__ import annotations

from typing import Any

import pytest
from engine_kit import Run, acts, policy, rule, verdicts

from midcourse.policies.model import Rung
from midcourse.policies.trials import NOTHING
from midcourse.policies.types import Action, Status

ARMS = {"cooler": [["scale_lr", {"factor": 0.1}]], "out": [["reweight", {"source": "this", "to": 0.0}]]}
TRIAL = Rung((Action("trial", {"arms": ARMS, "steps": 60, "judge": "a.value", "from": "here"}),))


def kept(arm: str) -> dict[str, Any]:
    return {"details": {"trial": {"kept": arm}}}


def trying(*others: Any, **fields: Any) -> Run:
    """A run whose rule has decided on a trial."""
    which = rule("which", "a.bad", "notify", **fields)
    ladder = (TRIAL, *which.ladder)
    run = Run(policy(type(which)(which.name, which.when, ladder, verify=which.verify), *others), status=None)
    run.steps(3)
    assert acts(run.step("a")) == ["trial"]
    return run


def test_nothing_is_said_while_arms_are_tried() -> None:
    run = trying(rule("other", "b.bad", "scale_lr"), rule("step", "guard.bad", "skip_step", before_step=True))
    for _ in range(50):
        turn = run.step("a", "b", "guard")
        assert (turn.decisions, turn.verdicts, turn.phases) == ([], [], [])
    assert run.engine.in_flight is not None
    run.record(run.engine.in_flight, **kept("cooler"))
    assert acts(run.step("b")) == ["scale_lr"]


def test_a_verdict_that_is_due_waits_until_the_trial_is_over() -> None:
    run = Run(
        policy(
            rule("first", "b.bad", "scale_lr", verify=(5, "a.value < 1")), rule("which", "a.bad", "notify")
        ),
    )
    run.plan = policy(run.plan.rules[0], type(run.plan.rules[1])("which", run.plan.rules[1].when, (TRIAL,)))
    run.engine = type(run.engine)(run.plan, lambda name: 0)
    run.step("b")
    run.status = None
    assert acts(run.step("a")) == ["trial"]
    assert verdicts(run.steps(20)) == []
    decision = run.engine.in_flight
    assert decision is not None
    assert verdicts(run.record(decision, Status.REFUSED, reason="no")) == []
    assert verdicts(run.step()) == ["helped"]


@pytest.mark.parametrize("arm", ["cooler", NOTHING])
def test_where_nothing_was_best_an_alarm_that_still_sounds_is_no_news(arm: str) -> None:
    run = trying()
    assert run.engine.in_flight is not None
    run.record(run.engine.in_flight, **kept(arm))
    again = acts(run.steps(30, "a"))
    assert again == ([] if arm == NOTHING else ["notify"])
    run.steps(2)
    assert acts(run.step("a")) == (["notify"] if arm == NOTHING else [])


def test_this_is_the_instance_in_every_arm() -> None:
    [action] = TRIAL.resolve("code")
    assert action.params["arms"]["out"] == [["reweight", {"source": "code", "to": 0.0}]]
    assert action.params["arms"]["cooler"] == ARMS["cooler"]
    assert TRIAL.actions[0].params["arms"] == ARMS
