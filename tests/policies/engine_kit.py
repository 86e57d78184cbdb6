"""Small policies and hand-made readings, to drive an engine tick by tick."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from midcourse.monitors.types import Health, Reading, Sample
from midcourse.policies.engine import Engine
from midcourse.policies.expression_compiler import compile_expression
from midcourse.policies.expression_references import Scope
from midcourse.policies.expressions import Expression
from midcourse.policies.model import Budget, Policy, Rule, Rung, Verify
from midcourse.policies.types import Action, Decision, Disposition, Outcome, Status, Turn

MONITORS = ("a", "b", "c")
AMPLE = Budget(acts=1000, per=1000)

PARAMS: dict[str, dict[str, Any]] = {
    "rollback": {"to": "before_onset", "data": "skip"},
    "scale_lr": {"factor": 0.5, "hold": None, "ramp": 0},
    "reweight": {"source": "this", "to": 0.0, "scale": None, "hold": 500, "ramp": 200},
    "notify": {"message": "look", "url": None},
}


def expression(text: str, foreach: str | None = None, verifies: bool = False) -> Expression:
    """A condition on the monitors a, b, c, guard and source (one instance a source)."""
    monitors = {**dict.fromkeys((*MONITORS, "guard"), False), "source": True}
    mistakes: list[str] = []
    scope = Scope(monitors=monitors, foreach=foreach, verifies=verifies)
    compiled = compile_expression(text, scope, lambda offset, message: mistakes.append(message))
    assert compiled is not None, mistakes
    return compiled


def rule(name: str, when: str, *ladder: str, verify: tuple[int, str] | None = None, **fields: Any) -> Rule:
    """A rule whose rungs are written as ``"rollback+scale_lr"``."""
    rungs = tuple(
        Rung(tuple(Action(action, PARAMS.get(action, {})) for action in rung.split("+"))) for rung in ladder
    )
    if verify:
        fields["verify"] = Verify(verify[0], expression(verify[1], verifies=True))
    fields.setdefault("budget", AMPLE)
    return Rule(name, expression(when, fields.get("foreach")), rungs, **fields)


def policy(*rules: Rule, **fields: Any) -> Policy:
    """A policy of these rules."""
    return Policy(version=1, rules=rules, **fields)


def reborn(engine: Engine, plan: Policy, lateness: Mapping[str, int]) -> Engine:
    """Another engine with the same state, by way of JSON."""
    state = json.loads(json.dumps(engine.state_dict()))
    other = Engine(plan, lambda name: lateness.get(name, 0))
    other.load_state_dict(state)
    other.amend(engine.amendments)  # of a fork: its process is told them anew
    assert other.state_dict() == state
    return other


class Run:
    """A run under a policy. After every call the engine goes through JSON, and must not notice.

    ``status`` is what becomes of acts at once; None leaves them in flight. An engine that ``tells_calm`` is
    told where no reading is bad, and stays the same one.
    """

    def __init__(
        self,
        plan: Policy,
        status: Status | None = Status.APPLIED,
        lateness: Mapping[str, int] | None = None,
        *,
        tells_calm: bool = False,
    ) -> None:
        self.plan = plan
        self.tells_calm = tells_calm
        self.status = status
        self.lateness = lateness or {}
        self.engine = Engine(plan, lambda name: self.lateness.get(name, 0))
        self.tick = -1
        self.said = Turn()

    def step(
        self,
        *bad: str,
        unmeasured: Sequence[str] = (),
        unknown: Sequence[str] = (),
        level: float = 0.0,
    ) -> Turn:
        """One tick: these monitors (``source[x]`` for an instance) are bad, the others fine."""
        self.tick += 1
        sample = Sample(step=self.tick, tick=self.tick, branch=0)
        readings = {
            name: {"": self._reading(name in bad, name in unmeasured, name in unknown, level)}
            for name in (*MONITORS, "guard")
        }
        readings["source"] = {
            name: self._reading(f"source[{name}]" in bad, f"source[{name}]" in unmeasured, False, level)
            for name in ("code", "docs")
        }
        read = (readings[name] for name in self.engine.wakers & readings.keys())
        calm = self.tells_calm and not any(r.bad for each in read for r in each.values())
        turn = Turn()
        turn.extend(self._settled(self.engine.judge_step(sample, readings, calm=calm)))
        turn.extend(self._settled(self.engine.tick(sample, readings, calm=calm)))
        self.said.extend(turn)
        return turn

    def steps(self, count: int, *bad: str, **more: Any) -> Turn:
        """Several equal ticks."""
        turn = Turn()
        for _ in range(count):
            turn.extend(self.step(*bad, **more))
        return turn

    def record(self, decision: Decision, status: Status = Status.APPLIED, **more: Any) -> Turn:
        """Tell an outcome."""
        turn = self.engine.record(Outcome(decision.id, status, self.tick, **more))
        self.said.extend(turn)
        self._reborn()
        return turn

    def phase(self, name: str, instance: str = "") -> str:
        """The phase of a rule by now."""
        changes = [c for c in self.said.phases if (c.rule, c.instance) == (name, instance)]
        for before, after in pairwise(changes):
            assert before.after is after.before
        return changes[-1].after.value if changes else "inactive"

    def _reborn(self) -> None:
        if not self.tells_calm:
            self.engine = reborn(self.engine, self.plan, self.lateness)

    def _settled(self, turn: Turn) -> Turn:
        self._reborn()
        acts = [d for d in turn.decisions if d.disposition is Disposition.ACT]
        if acts and self.status is not None:
            turn.extend(self.engine.record(Outcome(acts[0].id, self.status, self.tick)))
            self._reborn()
        return turn

    def _reading(self, bad: bool, unmeasured: bool, unknown: bool, level: float) -> Reading:
        health = Health.STALE if unknown else Health.ALARM if bad else Health.OK
        tick = self.tick - 1 if unmeasured or unknown else self.tick
        return Reading(
            health, tick=tick, value=level, score=1.0, threshold=2.0, level=level, noise=1.0,
            onset=max(self.tick - 3, 0) if bad else None, reason="too high" if bad else "",
        )  # fmt: skip


def acts(turn: Turn) -> list[str]:
    """What was decided to be done: ``"skip_step"`` or ``"rollback+scale_lr"``."""
    return _actions(turn, Disposition.ACT)


def observed(turn: Turn) -> list[str]:
    """What was decided in observe mode."""
    return _actions(turn, Disposition.OBSERVE)


def suppressed(turn: Turn) -> list[tuple[str, str]]:
    """Who was suppressed, and why."""
    return [(d.rule, d.reason) for d in turn.decisions if d.disposition is Disposition.SUPPRESSED]


def verdicts(turn: Turn) -> list[str]:
    """The verdicts, as words."""
    return [verdict.result.value for verdict in turn.verdicts]


def _actions(turn: Turn, disposition: Disposition) -> list[str]:
    return [
        "+".join(action.name for action in decision.actions)
        for decision in turn.decisions
        if decision.disposition is disposition
    ]
