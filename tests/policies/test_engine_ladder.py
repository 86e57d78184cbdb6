"""Ladders, budgets, limits and verdicts: every correction is on trial, and nothing loops for ever."""

from __future__ import annotations

from dataclasses import replace

import pytest
from engine_kit import PARAMS, Run, acts, observed, policy, rule, suppressed, verdicts

from midcourse.policies.model import Budget, LimitResponse, Limits, Mode, Rule, Rung
from midcourse.policies.phases import QUIET_TICKS
from midcourse.policies.types import Action, Decision, Outcome, Status

BAD_STEP = rule(
    "bad-step", "guard.bad", "skip_step", "stop", budget=Budget(acts=20, per=1000), before_step=True
)
BAD_SOURCE = rule(
    "bad-source",
    "this.bad",
    "reweight",
    foreach="source",
    for_measurements=5,
    cooldown=200,
    budget=Budget(acts=2, per=5000),
)
OFF_COURSE = rule(
    "off-course",
    "a.bad or b.bad",
    "rollback",
    "rollback+scale_lr",
    "stop",
    budget=Budget(acts=3, per=5000, max=10),
    verify=(300, "a.level <= target.a.level + 3 * target.a.noise"),
)
TARGET = {"a": {"level": 1.0, "noise": 0.1}}


# The policy that the design prints


def test_bad_step_skips_twenty_in_a_thousand_then_stops() -> None:
    run = Run(policy(BAD_STEP))
    assert acts(run.steps(21, "guard")) == ["skip_step"] * 20 + ["stop"]
    assert run.phase("bad-step") == "exhausted"


def test_bad_step_goes_on_as_long_as_bad_batches_are_rare() -> None:
    run = Run(policy(BAD_STEP))
    for _ in range(60):
        assert acts(run.step("guard")) == ["skip_step"]
        run.steps(49)


def test_bad_source_comes_back_on_probation_and_is_set_aside_twice() -> None:
    run = Run(policy(BAD_SOURCE))
    bad = "source[code]"
    assert acts(run.steps(5, bad)) == ["reweight"]
    assert acts(run.steps(500, bad, unmeasured=[bad])) == [], "latched, but nothing new is measured"
    assert acts(run.steps(5, bad)) == ["reweight"]
    turn = run.steps(700, bad)
    assert acts(turn) == []
    assert suppressed(turn) == [("bad-source", "the budget is spent: 2 acts in 5000 ticks")]
    assert run.phase("bad-source", "code") == "exhausted"
    assert acts(run.steps(5, "source[docs]")) == ["reweight"], "each source has a budget of its own"


def test_off_course_climbs_when_the_fault_returns_within_the_window() -> None:
    run = Run(policy(OFF_COURSE))
    run.steps(50)
    turn = run.step("a")
    for _ in range(2):
        run.steps(40)
        turn.extend(run.step("a"))
    assert acts(turn) == ["rollback", "rollback+scale_lr", "stop"]
    assert verdicts(run.said) == ["did_not_help", "did_not_help"]


def test_off_course_starts_anew_after_it_helped_until_the_budget_is_spent() -> None:
    run = Run(policy(OFF_COURSE), status=None)
    done = []
    for _ in range(4):
        (decision,) = run.step("a").decisions
        done += ["+".join(action.name for action in decision.actions)]
        run.record(decision, facts=TARGET)
        run.steps(400, level=1.2)
    assert done == ["rollback", "rollback", "rollback", "stop"]
    assert verdicts(run.said) == ["helped"] * 3


# Ladder


@pytest.mark.parametrize("status", [Status.REFUSED, Status.FAILED])
def test_what_was_not_applied_is_followed_by_the_next_rung_at_once_and_not_charged(status: Status) -> None:
    plan = policy(rule("r", "a.bad", "rollback", "scale_lr", "stop", cooldown=50, budget=Budget(1, 1000)))
    run = Run(plan, status=status)
    turn = run.steps(2, "a")
    assert acts(turn) == ["rollback", "scale_lr"]
    run.status = Status.APPLIED
    assert acts(run.step("a")) == ["stop"]


def test_a_ladder_of_refusals_ends_exhausted() -> None:
    run = Run(policy(rule("r", "a.bad", "rollback", "scale_lr")), status=Status.REFUSED)
    turn = run.steps(100, "a")
    assert acts(turn) == ["rollback", "scale_lr"]
    assert suppressed(turn) == [("r", "every rung of the ladder was tried")]
    assert run.phase("r") == "exhausted"


def test_a_refused_rung_waits_for_its_condition() -> None:
    run = Run(policy(rule("r", "a.bad", "rollback", "scale_lr")), status=Status.REFUSED)
    run.step("a")
    assert acts(run.steps(9)) == []
    assert acts(run.step("a")) == ["scale_lr"]


def test_a_fault_that_is_still_there_after_the_cooldown_meets_the_next_rung() -> None:
    run = Run(policy(rule("r", "a.bad", "scale_lr", "reset_moments", "stop", cooldown=10)))
    assert [(d.tick, d.rung) for d in run.steps(30, "a").decisions] == [(0, 0), (10, 1), (20, 2)]


def test_skipping_steps_is_no_climb_however_many_batches_are_bad() -> None:
    run = Run(policy(rule("r", "a.bad", "skip_step+notify", "scale_lr")))
    assert acts(run.steps(50, "a")) == ["skip_step+notify"] * 50


def test_the_last_rung_is_repeated_within_the_budget() -> None:
    run = Run(policy(rule("r", "a.bad", "notify", "scale_lr", cooldown=10, budget=Budget(4, 1000))))
    assert acts(run.steps(200, "a")) == ["notify", "scale_lr", "scale_lr", "scale_lr"]
    assert run.phase("r") == "exhausted"


def test_after_a_quiet_period_the_ladder_starts_anew() -> None:
    plan = policy(rule("r", "a.bad", "scale_lr", "stop", cooldown=10))
    run = Run(plan)
    run.step("a")
    run.steps(QUIET_TICKS + 9)
    assert acts(run.step("a")) == ["scale_lr"]
    run.steps(QUIET_TICKS - 1)
    assert acts(run.step("a")) == ["stop"], "sooner, it may be the same fault"


def test_firing_without_a_turn_does_not_disturb_the_quiet() -> None:
    plan = policy(BAD_STEP, rule("r", "a.bad or guard.bad", "scale_lr", "stop"))
    run = Run(plan)
    run.step("a")
    for _ in range(11):
        run.steps(99)
        assert acts(run.step("guard")) == ["skip_step"]
    assert acts(run.step("a")) == ["scale_lr"]


# Budgets


def test_exhausted_ends_when_the_window_has_room_and_the_condition_has_cleared() -> None:
    run = Run(policy(rule("r", "a.bad", "skip_step", budget=Budget(acts=2, per=100))))
    assert acts(run.steps(150, "a")) == ["skip_step"] * 2
    assert run.phase("r") == "exhausted", "the window has room, but nothing has cleared"
    run.step()
    assert run.phase("r") == "inactive"
    assert acts(run.step("a")) == ["skip_step"]

    run = Run(policy(rule("r", "a.bad", "skip_step", budget=Budget(acts=2, per=100))))
    run.steps(3, "a")
    run.steps(97)
    assert run.phase("r") == "exhausted", "it has cleared, but the window is full until tick 100"
    run.step()
    assert run.phase("r") == "inactive"


def test_max_is_for_ever() -> None:
    run = Run(policy(rule("r", "a.bad", "skip_step", budget=Budget(acts=1, per=10, max=3))))
    for _ in range(5):
        run.step("a")
        run.steps(50)
    assert acts(run.said) == ["skip_step"] * 3
    assert run.phase("r") == "exhausted"


def test_a_last_resort_that_only_records_is_taken_once() -> None:
    run = Run(policy(rule("r", "a.bad", "skip_step", "notify", budget=Budget(acts=2, per=100))))
    assert acts(run.steps(90, "a")) == ["skip_step", "skip_step", "notify"]
    assert run.phase("r") == "exhausted"
    run.steps(20)
    assert acts(run.step("a")) == ["skip_step"], "a new window"


def test_a_last_resort_reached_by_climbing_comes_again_only_after_quiet() -> None:
    run = Run(policy(rule("r", "a.bad", "scale_lr", "notify", cooldown=10)))
    assert acts(run.steps(90, "a")) == ["scale_lr", "notify"]
    for _ in range(5):
        run.step()
        assert acts(run.steps(20, "a")) == []
    assert suppressed(run.said) == [("r", "every rung of the ladder was tried")], "said once"
    run.steps(QUIET_TICKS + 1)
    assert acts(run.step("a")) == ["scale_lr"]


def test_an_outcome_told_twice_is_charged_once() -> None:
    run = Run(policy(rule("r", "a.bad", "skip_step", budget=Budget(acts=2, per=100))), status=None)
    (first,) = run.step("a").decisions
    run.record(first)
    assert run.record(first).phases == []
    assert run.engine.record(Outcome("nobody@7", Status.APPLIED, 7)).phases == []
    (second,) = run.step("a").decisions
    run.record(second)
    assert acts(run.step("a")) == []


def test_a_tick_done_again_after_a_restart_is_charged_once() -> None:
    run = Run(policy(rule("r", "a.bad", "skip_step", budget=Budget(acts=3, per=100))))
    run.steps(2, "a")
    run.engine.command("resume", 1)
    run.tick = -1
    done_again = [decision.id for decision in run.steps(4, "a").decisions]
    assert done_again == ["r@1", "r@2", "r@3"], (
        "r@1 is the decision of before; the last finds the budget spent"
    )
    assert acts(run.said) == ["skip_step"] * 4


# Verification


def verified(*ladder: str, within: int = 20, expect: str = "a.level < 2", **fields: object) -> Run:
    return Run(policy(rule("r", "a.bad", *ladder, verify=(within, expect), **fields)))


def test_helped_is_said_when_the_window_closes_and_the_rung_starts_anew() -> None:
    run = verified("scale_lr", "stop")
    run.step("a")
    assert verdicts(run.steps(19, level=1.0)) == []
    turn = run.step(level=1.0)
    assert verdicts(turn) == ["helped"]
    assert turn.verdicts[0].decision_id == "r@0"
    assert turn.verdicts[0].numbers == {"a.level": 1.0}
    assert acts(run.step("a")) == ["scale_lr"]


def test_did_not_help_climbs_and_waives_the_cooldown() -> None:
    run = verified("scale_lr", "set_lr", "stop", cooldown=100)
    turn = run.steps(22, "a", level=5.0)
    assert verdicts(turn) == ["did_not_help"]
    assert [(d.tick, d.actions[0].name) for d in turn.decisions] == [(0, "scale_lr"), (20, "set_lr")]


def test_an_alarm_that_never_ceased_waits_for_the_verdict() -> None:
    run = verified("scale_lr", "set_lr")
    assert acts(run.steps(20, "a", level=1.0)) == ["scale_lr"]
    turn = run.step("a", level=1.0)
    assert verdicts(turn) == ["helped"]
    assert acts(turn) == ["scale_lr"]


def test_a_fault_that_returns_within_the_window_was_not_helped() -> None:
    run = verified("scale_lr", "set_lr")
    run.step("a")
    run.step()
    turn = run.step("a")
    assert verdicts(turn) == ["did_not_help"]
    assert turn.verdicts[0].reason == "fired again 2 ticks after the act was applied"
    assert acts(turn) == ["set_lr"]


def test_a_bad_batch_that_another_rule_skips_is_no_return() -> None:
    alarmed = rule("r", "a.bad or guard.bad", "scale_lr", "stop", verify=(20, "a.level < 2"))
    run = Run(policy(BAD_STEP, alarmed))
    run.step("a")
    run.step()
    turn = run.step("guard")
    assert acts(turn) == ["skip_step"]
    assert verdicts(turn) == []
    assert verdicts(run.steps(18)) == ["helped"]


def test_after_a_rollback_any_firing_is_a_return() -> None:
    run = verified("rollback", "rollback+scale_lr", "stop")
    assert acts(run.steps(3, "a")) == ["rollback", "rollback+scale_lr", "stop"]
    assert verdicts(run.said) == ["did_not_help"] * 2


def test_a_ladder_whose_last_rung_did_not_help_is_exhausted() -> None:
    run = verified("scale_lr")
    assert acts(run.steps(100, "a", level=5.0)) == ["scale_lr"]
    assert run.phase("r") == "exhausted"


def test_before_and_target_are_what_was_known_then() -> None:
    plan = policy(
        rule("r", "a.bad", "rollback", verify=(5, "a.level < before.a.level and a.level <= target.a.level"))
    )
    run = Run(plan, status=None)
    (decision,) = run.step("a", level=5.0).decisions
    run.record(decision, facts=TARGET)
    turn = run.steps(5, level=0.5)
    assert verdicts(turn) == ["helped"]
    assert turn.verdicts[0].numbers == {"a.level": 0.5, "before.a.level": 5.0, "target.a.level": 1.0}


def test_what_cannot_be_known_is_inconclusive_and_the_next_time_climbs() -> None:
    run = verified("scale_lr", "set_lr", expect="a.level < target.a.level")
    run.step("a")
    assert verdicts(run.steps(20)) == ["inconclusive"]
    assert acts(run.step("a")) == ["set_lr"]


def test_another_correction_within_the_window_makes_it_inconclusive() -> None:
    one = rule("one", "a.bad", "scale_lr", verify=(20, "a.level < 2"))
    run = Run(policy(one, rule("two", "b.bad", "reweight"), rule("three", "c.bad", "notify")))
    run.step("a")
    assert verdicts(run.step("c")) == [], "recording is no overlap"
    turn = run.step("b")
    assert verdicts(turn) == ["inconclusive"]
    assert turn.verdicts[0].reason == "two@2 was applied within the window"
    assert verdicts(run.steps(30)) == []


def test_an_overlapped_act_no_longer_waits_for_its_window() -> None:
    one = rule("one", "a.bad", "scale_lr", "set_lr", verify=(20, "a.level < 2"))
    run = Run(policy(one, rule("two", "b.bad", "reweight")))
    run.step("a")
    assert acts(run.step("a", "b")) == ["reweight"]
    assert acts(run.step("a")) == ["set_lr"]


def test_skipped_steps_are_no_overlap() -> None:
    one = rule("one", "a.bad", "scale_lr", verify=(20, "a.level < 2"))
    run = Run(policy(one, BAD_STEP))
    run.step("a")
    assert acts(run.steps(10, "guard")) == ["skip_step"] * 10
    assert verdicts(run.steps(10)) == ["helped"]


def test_only_corrections_are_verifies() -> None:
    for action in ("skip_step", "notify", "checkpoint", "stop"):
        run = verified(action, action)
        run.steps(50, "a")
        assert run.said.verdicts == []


def test_an_expectation_that_raises_is_an_error_and_the_run_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    run = verified("scale_lr", "set_lr")
    run.step("a")
    expect = run.plan.rules[0].verify.expect  # type: ignore[union-attr]

    def broken(*_: object) -> bool:
        raise OverflowError("too large")

    object.__setattr__(expect, "verdict", broken)
    turn = run.steps(20)
    assert verdicts(turn) == ["error"]
    assert turn.verdicts[0].reason == "a.level < 2: OverflowError: too large"
    assert acts(run.step("a")) == ["set_lr"]


# Limits


def limited(then: LimitResponse, status: Status = Status.APPLIED) -> Run:
    scale = rule("scale", "a.bad", "scale_lr", cooldown=10)
    return Run(policy(scale, BAD_STEP, limits=Limits(acts=2, per=1000, then=then)), status=status)


def test_spent_limits_end_in_observe_mode_and_say_so() -> None:
    run = limited(LimitResponse.OBSERVE)
    run.steps(5, "guard")
    assert acts(run.steps(20, "a")) == ["scale_lr"] * 2
    turn = run.step("a")
    assert run.engine.mode is Mode.OBSERVE
    limits, decision = turn.decisions
    assert (limits.id, limits.actions) == ("limits@25", ())
    assert limits.reason == "the limits of all rules are spent: 2 acts in 1000 ticks"
    assert decision.disposition.value == "observe"
    assert observed(run.step("guard")) == ["skip_step"]
    run.engine.command("act", run.tick)
    run.steps(1000)
    assert acts(run.step("a")) == ["scale_lr"]


def test_spent_limits_may_stop_the_run() -> None:
    run = limited(LimitResponse.STOP)
    run.steps(20, "a")
    turn = run.step("a")
    assert acts(turn) == ["stop"]
    assert turn.decisions[0].rule == "limits"
    assert suppressed(turn) == [("scale", "limits goes first")]


def test_a_stop_that_fails_ends_in_observe_mode() -> None:
    run = limited(LimitResponse.STOP)
    run.steps(20, "a")
    run.status = Status.FAILED
    run.step("a")
    assert run.engine.mode is Mode.OBSERVE


def test_decisions_survive_json() -> None:
    run = Run(policy(rule("r", "a.bad", "rollback+scale_lr")), status=None)
    (decision,) = run.step("a").decisions
    assert Decision.from_json(decision.to_json()) == decision
    assert decision.actions[1].params == PARAMS["scale_lr"]


# Back to before the first act


def undone() -> Rule:
    """Two corrections, and a rung that takes back what they did."""
    made = rule("undone", "a.bad", "scale_lr", "rollback", "rollback", verify=(20, "a.level < 0"))
    undo = Rung((Action("rollback", {"to": "before_first_act", "data": "replay"}),))
    return replace(made, ladder=(*made.ladder[:2], undo))


def test_a_rung_can_take_back_all_that_the_ladder_has_done() -> None:
    run = Run(policy(undone()), lateness={"a": 2})
    run.steps(50)
    decisions = []
    for _ in range(3):
        decisions += run.step("a").decisions
        run.steps(30)
    assert verdicts(run.said) == ["did_not_help"] * 3
    assert [decision.tick for decision in decisions] == [50, 81, 112]
    assert [decision.onset for decision in decisions] == [50 - 5, 81 - 5, 50]


def test_what_helped_is_not_taken_back_with_what_comes_later() -> None:
    run = Run(policy(undone()))
    run.steps(50)
    run.step("a")
    run.steps(30, level=-1.0)
    assert verdicts(run.said) == ["helped"]
    decisions = []
    for _ in range(3):
        decisions += run.step("a").decisions
        run.steps(30)
    assert [decision.onset for decision in decisions] == [81 - 3, 112 - 3, 81]


def test_after_a_quiet_period_a_ladder_has_no_first_act() -> None:
    run = Run(policy(undone()))
    run.step("a")
    run.steps(QUIET_TICKS + 40)
    first = run.tick + 1
    decisions = []
    for _ in range(3):
        decisions += run.step("a").decisions
        run.steps(30)
    assert [decision.rung for decision in decisions] == [0, 1, 2]
    assert decisions[2].onset == first
