"""The engine against a naive model of it, and what no sequence of samples may ever do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from engine_kit import MONITORS, Run, acts, policy, rule, verdicts
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_engine import CORRECTIONS, Plan, ReferenceEngine

from midcourse.policies import phases
from midcourse.policies.model import Approval, Budget, LimitResponse, Limits, Mode, Policy, Quiet
from midcourse.policies.types import Decision, Disposition, Reply, Status, Turn

QUIET_TICKS = 12
"""Instead of a thousand: short episodes then meet the end of a quiet period from both sides."""


@pytest.fixture(autouse=True, scope="module")
def _quiet_soon() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(phases, "QUIET_TICKS", QUIET_TICKS)
        yield


plans = st.builds(
    Plan,
    name=st.just("r"),
    ladder=st.lists(
        st.sampled_from(["skip_step", "scale_lr", "reweight", "rollback", "notify", "stop"]),
        min_size=1,
        max_size=4,
    ).map(tuple),
    needed=st.integers(1, 3),
    cooldown=st.sampled_from([0, 0, 1, 4]),
    acts=st.integers(1, 4),
    per=st.sampled_from([1, 5, 20]),
    max=st.none() | st.integers(1, 6),
    within=st.none() | st.integers(1, 6),
    observe=st.sampled_from([False, False, False, True]),
    group=st.sampled_from([None, None, "g"]),
    approve=st.sampled_from([None, None, (3, "no"), (8, "yes"), (50, "no")]),
)
limits = st.none() | st.tuples(st.integers(1, 4), st.sampled_from([5, 30]))

# An episode is a stretch of ticks that are alike: bad, fine, unknown or unmeasured, for each monitor.
states = st.sampled_from(["bad", "bad", "fine", "fine", "unknown", "bad unmeasured"])
episodes = st.lists(
    st.tuples(
        st.sampled_from([1, 1, 2, 3, 7, 20]),
        st.tuples(states, states, states),
        st.sampled_from([0.0, 1.0, None]),
        st.sampled_from(["applied", "applied", "applied", "refused", "failed"]),
        st.sampled_from([None, None, None, "yes", "yes", "no", "off", "on", "on"]),
    ),
    max_size=14,
)


def built(drawn: list[Plan], limit: tuple[int, int] | None, start: int = 0) -> Policy:
    """The same rules for the real engine: the rule in place i reads monitor i."""
    rules = []
    for place, plan in enumerate(drawn):
        plan.name = f"rule-{place}"
        rules.append(
            rule(
                plan.name,
                f"{MONITORS[place]}.bad",
                *plan.ladder,
                for_measurements=plan.needed,
                cooldown=plan.cooldown,
                budget=Budget(plan.acts, plan.per, plan.max),
                verify=plan.within and (plan.within, "c.level < 0.5"),
                mode=Mode.OBSERVE if plan.observe else Mode.ACT,
                exclusive=plan.group,
                approve=plan.approve and Approval(plan.approve[0], Reply(plan.approve[1])),
            )
        )
    return policy(*rules, limits=limit and Limits(*limit, then=LimitResponse.OBSERVE), quiet=Quiet(start))


def command(run: Run, told: str) -> None:
    """Tell the engine what ``ReferenceEngine.told`` understands."""
    if told in ("off", "on"):
        run.engine.command(told, run.tick)
    for decision in run.engine.waiting if told in ("yes", "no") else ():
        run.engine.command("approve" if told == "yes" else "reject", run.tick, decision.id)


def inputs(episode: tuple[int, tuple[str, str, str], float | None, str, str | None]) -> dict[str, Any]:
    """One tick of an episode, for ``Run.step``."""
    _, each, level, *_ = episode
    return {
        "unmeasured": [name for name, state in zip(MONITORS, each, strict=True) if "unmeasured" in state],
        "unknown": [name for name, state in zip(MONITORS, each, strict=True) if state == "unknown"],
        "level": float("nan") if level is None else level,
    }


def said(turn: Turn) -> tuple[list[tuple[str, str, str]], list[tuple[str, str]]]:
    """Decisions and verdicts, as the reference model tells them."""
    decisions = [
        (decision.rule, decision.disposition.value, "".join(action.name for action in decision.actions))
        for decision in turn.decisions
        if decision.disposition is not Disposition.SUPPRESSED
    ]
    rules = [verdict.decision_id.split("@")[0] for verdict in turn.verdicts]
    return decisions, list(zip(rules, verdicts(turn), strict=True))


@settings(max_examples=500, deadline=None)
@given(st.lists(plans, min_size=1, max_size=3), limits, st.sampled_from([0, 0, 5, 30]), episodes)
def test_it_says_what_the_naive_model_says(
    drawn: list[Plan], limit: tuple[int, int] | None, start: int, story: list[Any]
) -> None:
    run, model = Run(built(drawn, limit, start)), ReferenceEngine(drawn, limit, QUIET_TICKS, start)
    for episode in story:
        count, each, level, status, told = episode
        if told is not None:
            command(run, told)
            model.told(told)
        bad = [name for name, state in zip(MONITORS, each, strict=True) if state.startswith("bad")]
        run.status = Status(status)
        for _ in range(count):
            turn = run.step(*bad, **inputs(episode))
            holds = [None if state == "unknown" else state.startswith("bad") for state in each]
            fresh = [state in ("bad", "fine") for state in each]
            helped = None if level is None or each[2] == "unknown" else level < 0.5
            expected = model.tick(run.tick, holds, fresh, helped, status)
            assert said(turn) == expected
        assert [run.phase(one.name) for one in drawn] == [one.phase for one in model.stories]
        answers = [(answer.decision_id.split("@")[0], answer.reply.value) for answer in run.said.answers]
        assert answers == model.answers
        assert (run.engine.mode is Mode.OBSERVE) == model.observing


@settings(max_examples=150, deadline=None)
@given(
    st.lists(plans, min_size=1, max_size=3),
    limits,
    st.lists(
        st.tuples(
            st.sets(st.sampled_from(MONITORS)), st.integers(0, 3), st.sampled_from([None, "yes", "no"])
        ),
        max_size=80,
    ),
)
def test_no_sequence_exceeds_a_budget_or_acts_twice_a_tick(
    drawn: list[Plan], limit: tuple[int, int] | None, ticks: list[tuple[set[str], int, str | None]]
) -> None:
    """Outcomes come late, twice or at once, and are of every kind; so are answers to those that ask."""
    run = Run(built(drawn, limit), status=None)
    flying: tuple[int, Decision] | None = None
    applied: list[tuple[int, Decision]] = []
    for bad, delay, reply in ticks:
        if reply is not None:
            command(run, reply)
        turn = run.step(*bad)
        decided = [decision for decision in turn.decisions if decision.disposition is Disposition.ACT]
        assert len(decided) <= 1
        assert not (decided and flying), "one act at a time"
        flying = flying or ((run.tick, decided[0]) if decided else None)
        if flying and run.tick >= flying[0] + delay:
            status = [Status.APPLIED, Status.APPLIED, Status.REFUSED, Status.APPLIED][delay]
            for _ in range(2):
                run.record(flying[1], status)
            applied += [flying] if status is Status.APPLIED else []
            flying = None
    ids = Counter((decision.id, decision.disposition) for decision in run.said.decisions)
    assert max(ids.values(), default=1) == 1
    for one in drawn:
        charged = [
            tick
            for tick, decision in applied
            if decision.rule == one.name and not (one.last_resort and decision.rung == len(one.ladder) - 1)
        ]
        assert one.max is None or len(charged) <= one.max
        assert fullest(charged, one.per) <= one.acts
    corrections = [tick for tick, decision in applied if decision.actions[0].name in CORRECTIONS]
    assert limit is None or fullest(corrections, limit[1]) <= limit[0]


def fullest(ticks: list[int], per: int) -> int:
    """The most that any window of so many ticks holds."""
    return max((sum(end - per < tick <= end for tick in ticks) for end in ticks), default=0)


@settings(max_examples=100, deadline=None)
@given(
    ladder=st.lists(
        st.sampled_from(["rollback", "scale_lr", "reweight", "skip_step"]), min_size=1, max_size=4
    ),
    budget=st.builds(Budget, acts=st.integers(1, 6), per=st.just(5000)),
    cooldown=st.integers(0, 20),
    verify=st.none() | st.tuples(st.integers(1, 30), st.just("a.level < 0.5")),
    gap=st.integers(0, 40),
    level=st.sampled_from([0.0, 1.0]),
)
def test_a_fault_that_always_returns_ends_at_the_last_rung_within_the_budget(
    ladder: list[str], budget: Budget, cooldown: int, verify: tuple[int, str] | None, gap: int, level: float
) -> None:
    """Whether the verdict in between was that the act helped (level 0), or that it did not."""
    plan = policy(rule("r", "a.bad", *ladder, "stop", budget=budget, cooldown=cooldown, verify=verify))
    run = Run(plan)
    done: list[str] = []
    for _ in range(400):
        done += acts(run.step("a", level=level))
        if "stop" in done:
            break
        if done:
            run.steps(gap, level=level)
    assert done[-1] == "stop"
    assert len(done) - 1 <= budget.acts


@settings(max_examples=200, deadline=None)
@given(st.lists(plans, min_size=1, max_size=3), limits, st.sampled_from([0, 5]), episodes)
def test_where_nothing_is_bad_it_may_be_told_so_and_says_the_same(
    drawn: list[Plan], limit: tuple[int, int] | None, start: int, story: list[Any]
) -> None:
    """Also where one more rule is woken by a level alone, which may be high while no reading is bad."""
    plan = built(drawn, limit, start)
    plan = replace(plan, rules=(*plan.rules, rule("level", "a.level > 0.5", "notify", for_measurements=2)))
    asked, told = Run(plan), Run(plan, tells_calm=True)
    for episode in story:
        count, each, _, status, said_to_it = episode
        bad = [name for name, state in zip(MONITORS, each, strict=True) if state.startswith("bad")]
        for run in (asked, told):
            run.status = Status(status)
            if said_to_it is not None:
                command(run, said_to_it)
            run.steps(count, *bad, **inputs(episode))
        assert told.engine.state_dict() == asked.engine.state_dict()
    assert told.said == asked.said


@settings(max_examples=100, deadline=None)
@given(
    st.lists(plans, min_size=1, max_size=3), limits, st.lists(st.sets(st.sampled_from(MONITORS)), max_size=60)
)
def test_the_same_samples_outcomes_and_commands_give_the_same_decisions(
    drawn: list[Plan], limit: tuple[int, int] | None, ticks: list[set[str]]
) -> None:
    """With ``test_it_says...`` going through JSON at every call, this is replay from any point of a run."""
    plan = built(drawn, limit)
    first, second = Run(plan), Run(plan)
    for tick, bad in enumerate(ticks):
        if tick == 20:
            first.engine.command("observe", tick)
            second.engine.command("observe", tick)
        first.step(*bad)
        second.step(*bad)
    assert first.said == second.said
    assert first.engine.state_dict() == second.engine.state_dict()
