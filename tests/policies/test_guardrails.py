"""What holds a rule back: quiet, a rule of the same group at work, the kill switch, an open question."""

from __future__ import annotations

import pytest
from engine_kit import Run, acts, observed, policy, rule, suppressed

from midcourse.policies.model import Approval, Limits, Mode, Policy, Quiet
from midcourse.policies.types import Answer, Disposition, Outcome, Reply, Status, Turn


def test_in_the_quiet_at_the_start_rules_only_tell() -> None:
    run = Run(policy(rule("r", "a.bad", "scale_lr"), quiet=Quiet(start=10)))
    early = run.steps(11, "a")  # ticks 0 to 10
    assert acts(early) == []
    assert suppressed(early) == [("r", "quiet until tick 11, since the run began")]
    assert acts(run.step("a")) == ["scale_lr"]


def test_skipping_and_recording_are_free_of_the_quiet() -> None:
    plan = policy(
        rule("skip", "guard.bad", "skip_step", before_step=True),
        rule("tell", "a.bad", "notify"),
        quiet=Quiet(start=100),
    )
    assert acts(Run(plan).step("guard")) == ["skip_step"]
    assert acts(Run(plan).step("a")) == ["notify"]


def test_after_a_restart_it_is_quiet_again() -> None:
    run = Run(policy(rule("r", "a.bad", "scale_lr"), quiet=Quiet(restart=5)))
    run.steps(20)
    run.engine.restarted(run.tick)
    held = run.steps(5, "a")
    assert acts(held) == []
    assert suppressed(held) == [("r", "quiet until tick 25, since the run went on in a new process")]
    assert acts(run.step("a")) == ["scale_lr"]


def test_of_a_group_one_rule_is_at_work_at_a_time() -> None:
    run = Run(
        policy(
            rule("first", "a.bad", "scale_lr", cooldown=20, exclusive="recovery"),
            rule("second", "b.bad", "reset_moments", exclusive="recovery"),
            rule("apart", "c.bad", "reset_moments"),
        )
    )
    assert acts(run.step("a")) == ["scale_lr"]
    held = run.steps(10, "b", "c")
    assert acts(held) == ["reset_moments"] * 10  # of the rule that is not in the group
    assert suppressed(held)[0] == ("second", "first of the group 'recovery' is at work")
    run.steps(10)
    assert acts(run.step("b")) == ["reset_moments"]


def test_a_group_waits_for_an_open_verdict() -> None:
    run = Run(
        policy(
            rule("first", "a.bad", "rollback", verify=(30, "a.ok"), exclusive="x"),
            rule("second", "b.bad", "scale_lr", exclusive="x"),
        )
    )
    run.step("a")
    assert acts(run.steps(30, "b")) == ["scale_lr"]  # once, when the window has closed
    assert run.tick == 30


def test_the_kill_switch_holds_whatever_the_mode() -> None:
    run = Run(policy(rule("r", "a.bad", "scale_lr")))
    run.engine.command("off", 0)
    assert not run.engine.acting
    said = run.step("a")
    assert acts(said) == []
    assert observed(said) == ["scale_lr"]
    run.step()
    run.engine.command("on", run.tick)
    assert acts(run.step("a")) == ["scale_lr"]


def test_the_switch_does_not_turn_on_what_the_policy_only_observes() -> None:
    run = Run(policy(rule("r", "a.bad", "scale_lr"), mode=Mode.OBSERVE))
    run.engine.command("off", 0)
    run.engine.command("on", 0)
    assert not run.engine.acting
    assert acts(run.step("a")) == []


def asking(within: int = 50, otherwise: Reply = Reply.NO, **fields: object) -> Policy:
    return policy(
        rule("r", "a.bad", "rollback", cooldown=10, approve=Approval(within, otherwise)),
        rule("other", "b.bad", "scale_lr"),
        rule("back", "c.bad", "rollback"),
        **fields,
    )


def replies(turn: Turn) -> list[tuple[str, Reply]]:
    return [(answer.decision_id, answer.reply) for answer in turn.answers]


def test_a_decision_waits_and_is_taken_after_a_yes_under_its_own_id() -> None:
    run = Run(asking())
    run.steps(5)
    said = run.step("a")
    assert [(d.id, d.disposition) for d in said.decisions] == [("r@5", Disposition.AWAITING_APPROVAL)]
    assert run.steps(9, "a").decisions == []
    run.engine.command("approve", run.tick, "r@5", by="ada")
    said = run.step("a")
    [act] = said.decisions
    assert (act.id, act.tick, act.disposition) == ("r@5", 5, Disposition.ACT)
    assert act.onset == 2  # as seen when it was decided, not when the answer came
    assert act.reason.endswith("approved: ada")
    assert said.answers == [Answer("r@5", Reply.YES, 15, "ada")]
    assert run.phase("r") == "cooldown"


def test_a_no_is_not_charged_and_not_asked_again_while_the_alarm_lasts() -> None:
    run = Run(asking())
    run.step("a")
    run.engine.command("reject", run.tick, "r@0", by="ada")
    said = run.steps(100, "a")
    assert said.decisions == []
    assert said.answers == [Answer("r@0", Reply.NO, 1, "ada")]
    run.step()
    assert [d.id for d in run.step("a").decisions] == ["r@102"]
    assert run.engine.state_dict()["machines"][0]["budget"]["total"] == 0


@pytest.mark.parametrize(("otherwise", "done"), [(Reply.NO, []), (Reply.YES, ["rollback"])])
def test_silence_means_what_the_policy_says(otherwise: Reply, done: list[str]) -> None:
    run = Run(asking(within=20, otherwise=otherwise))
    said = run.steps(20, "a")
    assert said.answers == []
    said = run.step("a")
    assert said.answers == [Answer("r@0", otherwise, 20, "nobody answered within 20 ticks")]
    assert acts(said) == done


def test_the_first_answer_holds_and_a_wrong_one_is_refused() -> None:
    run = Run(asking())
    with pytest.raises(ValueError, match="no decision 'r@0' waits for approval; waiting: none"):
        run.engine.command("approve", 0, "r@0")
    run.step("a")
    run.engine.command("reject", run.tick, "r@0")
    run.engine.command("approve", run.tick, "r@0")
    assert replies(run.step("a")) == [("r@0", Reply.NO)]


def test_a_question_lapses_with_its_condition() -> None:
    run = Run(asking())
    run.step("a")
    assert run.step().answers == [Answer("r@0", Reply.LAPSED, 1, "its condition holds no more")]
    assert run.engine.waiting == []


def test_a_question_lapses_when_another_rule_takes_the_run_back() -> None:
    run = Run(asking())
    run.step("a")
    assert replies(run.step("a", "c")) == [("r@0", Reply.LAPSED)]


def test_while_one_waits_others_act() -> None:
    run = Run(asking())
    run.step("a")
    assert acts(run.step("a", "b")) == ["scale_lr"]
    assert [d.id for d in run.engine.waiting] == ["r@0"]


def test_nobody_is_asked_where_nothing_acts() -> None:
    run = Run(asking(mode=Mode.OBSERVE))
    assert observed(run.step("a")) == ["rollback"]


def test_an_approved_act_is_charged_when_it_is_taken() -> None:
    """Two rules that were decided at the same tick are two acts to the limits of all rules."""
    run = Run(asking(limits=Limits(acts=2, per=100)))
    run.step("a", "b")
    assert acts(run.said) == ["scale_lr"]
    run.engine.command("approve", run.tick, "r@0")
    assert acts(run.step("a")) == ["rollback"]
    run.steps(15)
    assert acts(run.step("b")) == []  # the limits of two acts are spent


def test_the_answer_outlives_the_process() -> None:
    """``Run`` takes the engine through JSON at every call: here in the midst of a question with its reply."""
    run = Run(asking(), status=None)
    run.step("a")
    run.engine.command("approve", run.tick, "r@0", by="ada")
    said = run.step("a")
    assert acts(said) == ["rollback"]
    run.engine.record(Outcome("r@0", Status.REFUSED, run.tick, "no snapshot"))
    assert run.engine.in_flight is None
