"""What a fork decides otherwise: a decision withheld, or another rung, and all else as the policy has it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from engine_kit import Run, acts, observed, policy, rule, verdicts
from hypothesis import given
from hypothesis import strategies as st

from midcourse.policies.amendments import NONE_AMENDED, Amendments
from midcourse.policies.model import Budget, Limits, Mode, Policy
from midcourse.policies.types import Decision, Disposition, Turn

CUT = rule("cut", "a.bad", "scale_lr", "rollback", "stop", cooldown=3, verify=(4, "a.level <= 1"))
BAD_SOURCE = rule("bad-source", "this.bad", "reweight", foreach="source", cooldown=2)
SECOND = rule("second", "b.bad", "scale_lr", budget=Budget(acts=2, per=50))
PLAN = policy(CUT, BAD_SOURCE, SECOND, limits=Limits(acts=6, per=100))


def amended(plan: Policy, *withheld: str, **instead: int) -> Run:
    run = Run(plan)
    rungs = {name.replace("_at_", "@"): rung for name, rung in instead.items()}
    run.engine.amend(Amendments("runs/7", frozenset(withheld), rungs))
    return run


def test_a_withheld_decision_is_only_observed_and_says_of_what_it_is_a_fork() -> None:
    run = amended(PLAN, "cut@2")
    run.steps(2)
    turn = run.step("a")
    assert (acts(turn), observed(turn)) == ([], ["scale_lr"])
    assert turn.decisions[0].reason.endswith("; withheld in this fork of runs/7")
    assert run.phase("cut") == "cooldown"
    run.steps(5)
    turn = run.step("a")  # the ladder was not climbed: nothing was done that could have failed
    assert acts(turn) == ["scale_lr"]
    assert "fork" not in turn.decisions[0].reason


def test_the_rules_that_are_not_named_act_in_its_stead() -> None:
    turn = amended(PLAN, "cut@0").step("a", "b")
    assert {each.id: each.disposition for each in turn.decisions} == {
        "cut@0": Disposition.OBSERVE,
        "second@0": Disposition.ACT,
    }


def test_a_rule_or_one_of_its_instances_may_be_withheld_as_a_whole() -> None:
    for name, kept in (("bad-source", []), ("bad-source[code]", ["docs"])):
        run = amended(PLAN, name)
        turn = run.step("source[code]")
        turn.extend(run.step("source[docs]"))
        assert [each.instance for each in turn.decisions if each.disposition is Disposition.ACT] == kept


def test_another_rung_is_taken_and_the_ladder_goes_on_from_it() -> None:
    run = amended(PLAN, cut_at_0=1)
    turn = run.step("a", level=5.0)
    assert acts(turn) == ["rollback"]
    assert turn.decisions[0].reason.endswith("; rung 1 by this fork of runs/7")
    assert acts(run.steps(5, "a", level=5.0)) == ["stop"], "a rung that did not help is followed by the next"
    assert verdicts(run.said) == ["did_not_help"]


def test_a_rung_that_the_policy_does_not_have_is_not_taken() -> None:
    assert acts(amended(PLAN, cut_at_0=7).step("a")) == ["scale_lr"]


def test_a_withheld_act_is_no_act_for_the_limits() -> None:
    plan = policy(replace(SECOND, budget=Budget(acts=9, per=50)), limits=Limits(acts=1, per=100))
    run = amended(plan, "second@0")
    assert acts(run.step("b")) == []
    run.steps(2)
    assert acts(run.step("b")) == ["scale_lr"]


@given(
    st.lists(st.sets(st.sampled_from(["a", "b", "source[code]", "source[docs]"])), min_size=1, max_size=40),
    st.sampled_from([CUT, BAD_SOURCE, SECOND]),
)
def test_a_rule_that_is_withheld_does_what_it_would_in_observe_mode(bad: list[set[str]], kept: Any) -> None:
    watching = replace(kept, mode=Mode.OBSERVE)
    rules = tuple(watching if each is kept else each for each in PLAN.rules)
    ours, theirs = amended(PLAN, kept.name), Run(replace(PLAN, rules=rules))
    for now in bad:
        assert plain(ours.step(*now)) == plain(theirs.step(*now))
    assert ours.engine.state_dict() == theirs.engine.state_dict()


def plain(turn: Turn) -> list[Any]:
    """What was said, without the words that tell of the fork."""
    said = [
        replace(each, reason=each.reason.removesuffix("; withheld in this fork of runs/7"))
        for each in turn.decisions
    ]
    return [*said, *turn.verdicts, *turn.phases]


def test_what_amends_nothing_changes_nothing() -> None:
    said: list[list[Decision]] = []
    for amendments in (NONE_AMENDED, Amendments("x", frozenset({"other", "cut@9"}), {"cut@8": 1})):
        run = Run(PLAN)
        run.engine.amend(amendments)
        said.append(run.steps(8, "a", "b").decisions)
    assert said[0] == said[1]


names = st.sampled_from(["a", "a@3", "b[x]", "b[x]@4"])
made = st.builds(Amendments, st.text(), st.frozensets(names), st.dictionaries(names, st.integers(0, 3)))


@given(made, made)
def test_amendments_are_json_and_join(one: Amendments, two: Amendments) -> None:
    assert Amendments.from_json(json.loads(json.dumps(one.to_json()))) == one
    both = one.joined(two)
    assert both.withheld == one.withheld | two.withheld
    assert both.of == two.of
    assert all(both.instead[id] == rung for id, rung in two.instead.items())
