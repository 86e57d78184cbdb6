"""Phases, measurements, and who acts when several rules fire."""

from __future__ import annotations

import pytest
from engine_kit import Run, acts, expression, observed, policy, rule, suppressed

from midcourse.policies.model import Budget
from midcourse.policies.types import Disposition, Status


def test_fires_after_as_many_new_measurements_as_for_asks() -> None:
    run = Run(policy(rule("r", "a.bad", "scale_lr", for_measurements=3)))
    assert acts(run.steps(2, "a")) == []
    assert run.phase("r") == "pending"
    assert acts(run.steps(5, "a", unmeasured=["a"])) == []
    assert acts(run.step("a")) == ["scale_lr"]


def test_unknown_pauses_the_count_and_false_resets_it() -> None:
    run = Run(policy(rule("r", "a.bad", "scale_lr", for_measurements=3)))
    run.steps(2, "a")
    run.steps(4, unknown=["a"])
    assert run.phase("r") == "pending"
    assert acts(run.step("a")) == ["scale_lr"]

    run = Run(policy(rule("r", "a.bad", "scale_lr", for_measurements=3)))
    run.steps(2, "a")
    run.step()
    assert run.phase("r") == "inactive"
    assert acts(run.steps(2, "a")) == []


def test_unknown_neither_fires_nor_ends_a_firing_rule() -> None:
    run = Run(policy(rule("first", "a.bad", "rollback"), rule("second", "b.bad", "scale_lr")))
    run.step("a", "b")
    assert run.phase("second") == "inactive", "a rollback sends the others back"
    run = Run(policy(rule("first", "a.bad", "set_lr"), rule("second", "b.bad", "scale_lr")))
    run.step("a", "b")
    assert run.phase("second") == "firing"
    assert acts(run.steps(3, unknown=["b"])) == []
    assert run.phase("second") == "firing"
    run.step()
    assert run.phase("second") == "inactive"


@pytest.mark.parametrize(
    ("stronger", "weaker"),
    [
        ("stop", "rollback"),
        ("rollback", "skip_step"),
        ("skip_step", "scale_lr"),
        ("set_lr", "reweight"),
        ("reset_moments", "reweight"),
        ("reweight", "notify"),
        ("notify+rollback", "skip_step"),
    ],
)
def test_the_strongest_rung_goes_first(stronger: str, weaker: str) -> None:
    run = Run(policy(rule("weak", "a.bad", weaker), rule("strong", "a.bad", stronger)))
    turn = run.step("a")
    assert acts(turn) == [stronger]
    assert suppressed(turn) == [("weak", "strong goes first")]


def test_ties_go_by_the_order_of_the_policy() -> None:
    run = Run(policy(rule("one", "a.bad", "scale_lr"), rule("two", "a.bad", "set_lr")))
    assert acts(run.step("a")) == ["scale_lr"]


def test_who_lost_stays_firing_unpaid_and_acts_when_the_way_is_free() -> None:
    budget = Budget(acts=1, per=1000)
    run = Run(
        policy(
            rule("strong", "a.bad", "skip_step", before_step=False),
            rule("weak", "a.bad or b.bad", "scale_lr", budget=budget, cooldown=50),
        )
    )
    turn = run.steps(5, "a")
    assert acts(turn) == ["skip_step"] * 5
    assert suppressed(turn) == [("weak", "strong goes first")], "said once"
    assert run.phase("weak") == "firing"
    assert acts(run.step("b")) == ["scale_lr"]
    assert run.phase("weak") == "cooldown"


def test_an_act_in_flight_blocks_all_others_until_its_outcome_is_recorded() -> None:
    run = Run(policy(rule("one", "a.bad", "scale_lr"), rule("two", "b.bad", "stop")), status=None)
    (decision,) = run.step("a").decisions
    assert run.engine.in_flight is not None
    turn = run.steps(3, "a", "b")
    assert acts(turn) == []
    assert suppressed(turn) == [("two", "one goes first")]
    run.record(decision)
    assert run.engine.in_flight is None
    assert acts(run.step("a", "b")) == ["stop"]


def test_at_most_one_act_a_tick_though_the_first_was_recorded_at_once() -> None:
    first = rule("first", "guard.bad", "rollback", before_step=True)
    run = Run(policy(first, rule("lr", "a.bad", "scale_lr")))
    turn = run.step("guard", "a")
    assert acts(turn) == ["rollback"]
    assert suppressed(turn) == [("lr", "first goes first")]


def test_a_lone_step_that_is_skipped_is_dealt_with() -> None:
    skip = rule("skip", "guard.bad", "skip_step", before_step=True)
    run = Run(policy(skip, rule("back", "a.bad", "rollback")))
    for _ in range(3):
        assert acts(run.step("guard", "a")) == ["skip_step"]
        assert acts(run.step()) == []
    assert suppressed(run.said) == [("back", "skip goes first")], "said once"
    assert acts(run.step("a")) == ["rollback"], "of a tick at which nothing was skipped"


def test_from_the_second_skipped_step_in_a_row_on_another_rule_may_act_after_it() -> None:
    skip = rule("skip", "guard.bad", "skip_step", before_step=True, budget=Budget(acts=2, per=100))
    back = rule("back", "a.bad", "rollback", budget=Budget(acts=1, per=100))
    others = [rule("lr", "a.bad", "scale_lr"), rule("skip-late", "a.bad", "skip_step")]
    run = Run(policy(skip, back, *others))
    assert acts(run.step("guard", "a")) == ["skip_step"]
    turn = run.step("guard", "a")
    assert acts(turn) == ["skip_step", "rollback"], "in this order"
    assert [decision.id for decision in turn.decisions[:2]] == ["skip@1", "back@1"]
    assert suppressed(turn) == [("skip-late", "back goes first"), ("lr", "back goes first")]
    run.steps(2)
    assert acts(run.steps(3, "guard")) == [], "it has paid for both"
    assert run.phase("skip") == "exhausted"
    assert "rollback" not in acts(run.steps(3, "a")), "and the other for its own"


def test_a_rule_that_waited_for_measurements_acts_at_a_skip_as_soon_as_it_has_them() -> None:
    skip = rule("skip", "guard.bad", "skip_step", before_step=True)
    run = Run(policy(skip, rule("back", "a.bad", "rollback", for_measurements=3)))
    assert acts(run.steps(3, "guard", "a")) == ["skip_step"] * 3 + ["rollback"]


def test_a_skip_of_unknown_end_keeps_all_others_from_acting() -> None:
    skip = rule("skip", "guard.bad", "skip_step", before_step=True)
    run = Run(policy(skip, rule("back", "a.bad", "rollback")), status=None)
    assert acts(run.step("guard", "a")) == ["skip_step"]
    assert suppressed(run.said) == [("back", "skip goes first")]


def test_a_measurement_before_the_step_is_counted_once() -> None:
    run = Run(policy(rule("skip", "guard.bad", "skip_step", before_step=True, for_measurements=2)))
    assert acts(run.step("guard")) == []
    assert acts(run.step("guard")) == ["skip_step"]


def test_cooldown_keeps_a_rule_silent() -> None:
    run = Run(policy(rule("r", "a.bad", "skip_step", cooldown=10)))
    turn = run.steps(21, "a")
    assert [d.tick for d in turn.decisions] == [0, 10, 20]
    assert run.phase("r") == "cooldown"


def test_a_rollback_drops_what_others_counted_on_the_abandoned_branch() -> None:
    counting = rule("counting", "b.bad", "scale_lr", for_measurements=3)
    run = Run(policy(rule("back", "a.bad", "rollback", cooldown=100), counting))
    run.steps(2, "b")
    run.step("a", "b")
    assert run.phase("counting") == "inactive"
    assert acts(run.steps(2, "b")) == []
    assert acts(run.step("b")) == ["scale_lr"]


def test_a_refused_rollback_drops_nothing() -> None:
    counting = rule("counting", "b.bad", "scale_lr", for_measurements=3)
    run = Run(policy(rule("back", "a.bad", "rollback"), counting), status=Status.REFUSED)
    run.steps(2, "b")
    run.step("a", "b")
    assert run.phase("counting") == "firing"


def test_a_foreach_rule_lives_once_for_each_instance() -> None:
    budget = Budget(acts=1, per=1000)
    plan = policy(rule("bad-source", "this.bad", "reweight", foreach="source", cooldown=5, budget=budget))
    run = Run(plan)
    turn = run.step("source[docs]")
    (decision,) = turn.decisions
    assert decision.id == "bad-source[docs]@0"
    assert decision.instance == "docs"
    assert decision.actions[0].params["source"] == "docs"
    assert run.phase("bad-source", "docs") == "cooldown"
    assert run.phase("bad-source", "code") == "inactive"
    assert [d.id for d in run.step("source[code]").decisions] == ["bad-source[code]@1"]


def test_foreach_counts_the_measurements_of_its_own_instance() -> None:
    plan = policy(rule("r", "this.bad", "reweight", foreach="source", for_measurements=2))
    run = Run(plan)
    run.step("source[code]")
    assert acts(run.steps(3, "source[code]", unmeasured=["source[code]"])) == []
    assert acts(run.step("source[code]")) == ["reweight"]


def test_instances_that_fire_together_go_by_name() -> None:
    run = Run(policy(rule("r", "this.bad", "reweight", foreach="source")))
    turn = run.step("source[docs]", "source[code]")
    assert [(d.instance, d.disposition) for d in turn.decisions] == [
        ("code", Disposition.ACT),
        ("docs", Disposition.SUPPRESSED),
    ]


def test_the_onset_is_the_earliest_of_the_bad_monitors_less_their_lateness() -> None:
    run = Run(policy(rule("r", "a.bad or b.bad or c.bad", "rollback")), lateness={"a": 2, "b": 5, "c": 50})
    run.steps(99)
    (decision,) = run.step("a", "b").decisions
    assert decision.tick == 99
    assert decision.onset == 99 - 3 - 5


def test_the_onset_is_none_where_nothing_is_bad() -> None:
    run = Run(policy(rule("r", "a.level > 3", "rollback")))
    (decision,) = run.step(level=4.0).decisions
    assert decision.onset is None


def test_a_decision_brings_its_evidence() -> None:
    run = Run(policy(rule("r", "a.bad and a.level > 1", "scale_lr")))
    (decision,) = run.step("a", level=2.0).decisions
    assert decision.reason == "a.bad and a.level > 1; a alarm (too high); a.level = 2"
    assert decision.facts["a"]["level"] == 2.0
    assert decision.facts["source[code]"]["noise"] == 1.0


def test_observe_mode_records_and_changes_nothing() -> None:
    skip = rule("skip", "a.bad", "skip_step", "stop", budget=Budget(acts=3, per=10))
    run = Run(policy(skip))
    run.engine.command("observe", 0)
    turn = run.steps(6, "a")
    assert acts(turn) == []
    assert observed(turn) == ["skip_step"] * 3 + ["stop"], "the record shows what would have happened"
    assert run.phase("skip") == "exhausted"
    assert run.engine.in_flight is None


def test_an_observed_act_is_recorded_once_an_episode_and_climbs_no_ladder() -> None:
    plan = policy(rule("r", "a.bad", "scale_lr", "stop", verify=(5, "a.level < 1")))
    run = Run(plan)
    run.engine.command("observe", 0)
    turn = run.steps(50, "a")
    run.step()
    turn.extend(run.steps(50, "a"))
    assert observed(turn) == ["scale_lr", "scale_lr"]
    assert turn.verdicts == []


def test_in_observe_mode_too_another_may_follow_a_skip() -> None:
    plan = policy(rule("lr", "a.bad", "scale_lr"), rule("skip", "a.bad", "skip_step"))
    run = Run(plan)
    run.engine.command("observe", 0)
    assert observed(run.step("a")) == ["skip_step"]
    assert suppressed(run.said) == [("lr", "skip goes first")]
    run.step()
    assert observed(run.steps(2, "a")) == ["skip_step"] * 2 + ["scale_lr"], "as it would have been"


def test_in_observe_mode_too_one_rule_a_tick_goes_first() -> None:
    run = Run(policy(rule("lr", "a.bad", "scale_lr"), rule("back", "a.bad", "rollback")))
    run.engine.command("observe", 0)
    turn = run.step("a")
    assert observed(turn) == ["rollback"]
    assert suppressed(turn) == [("lr", "back goes first")]


def test_one_rule_may_observe_while_others_act() -> None:
    watching = rule("watching", "a.bad", "stop", mode=type(policy().mode).OBSERVE)
    run = Run(policy(watching, rule("doing", "a.bad", "scale_lr", cooldown=100)))
    turn = run.step("a")
    assert observed(turn) == ["stop"]
    assert acts(turn) == ["scale_lr"]


def test_commands_change_the_mode_and_others_are_refused() -> None:
    run = Run(policy(rule("r", "a.bad", "skip_step")))
    run.engine.command("observe", 0)
    assert observed(run.step("a")) == ["skip_step"]
    run.engine.command("act", 1)
    assert acts(run.step("a")) == ["skip_step"]
    with pytest.raises(ValueError, match="explode"):
        run.engine.command("explode", 2)


def test_resuming_forgets_the_act_in_flight_and_counts_anew() -> None:
    plan = policy(
        rule("one", "a.bad", "scale_lr", "stop"), rule("two", "b.bad", "set_lr", for_measurements=2)
    )
    run = Run(plan, status=None)
    (decision,) = run.step("a", "b").decisions
    run.said.extend(run.engine.command("resume", 0))
    assert run.engine.in_flight is None
    assert run.phase("one") == run.phase("two") == "inactive"
    assert run.record(decision).phases == [], "too late: it changes nothing"
    assert acts(run.step("a", "b")) == ["scale_lr"], "neither charged nor climbed"


def test_a_policy_without_a_rule_of_the_state_leaves_it_out() -> None:
    run = Run(
        policy(rule("gone", "a.bad", "scale_lr", verify=(9, "a.ok")), rule("kept", "b.bad", "skip_step"))
    )
    run.steps(2, "a", "b")
    smaller = Run(policy(rule("kept", "b.bad", "skip_step", budget=Budget(acts=1, per=99))))
    smaller.engine.load_state_dict(run.engine.state_dict())
    smaller.tick = run.tick
    assert acts(smaller.step("b")) == [], "what it did under the old policy is still charged"


def test_unless_pauses_a_rule_and_unknown_does_not() -> None:
    run = Run(policy(rule("r", "a.bad", "scale_lr", for_measurements=3, unless=expression("b.bad"))))
    run.step("a")
    assert acts(run.steps(5, "a", "b")) == []
    assert run.phase("r") == "pending"
    run.step("a", unknown=["b"])
    assert acts(run.step("a", unknown=["b"])) == ["scale_lr"]


def test_unless_may_come_before_the_rule_begins_to_count() -> None:
    run = Run(policy(rule("r", "a.bad", "scale_lr", unless=expression("b.bad"))))
    assert acts(run.steps(3, "a", "b")) == []
    assert run.phase("r") == "inactive"
    assert acts(run.step("a")) == ["scale_lr"]
