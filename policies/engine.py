"""The engine: what should be done, decided from readings alone.

A pure state machine whose only time is the tick of the samples. One tick goes like this:

1. ``judge_step``, before the optimizer's step: the rules that read nothing but the guard.
2. ``tick``, after it: acts whose window closes get their verdicts, then all other rules are evaluated.
3. Of the rules that fire, the strongest rung acts: stop > rollback > skip > learning rate > data > record,
   then the first in the policy. The others stay firing, unpaid, and are recorded as suppressed, once. What
   else may hold a rule back is told in ``arbiter``.
4. ``record`` takes the outcome, now or some ticks later. Until then nobody else acts. While the arms of a
   trial are tried out nothing is judged at all: what is measured belongs to courses that may be left again.

How one rule moves through its phases and up its ladder is told in ``phases``. Here is what all of them go
through together: outcomes, verdicts, acts that overlap, and the rollback that sends all of them back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from typing import Any

from ..monitors.types import Sample
from .actions import GO_BACK
from .amendments import Amendments
from .arbiter import NONE_YET, Arbiter, Now
from .evidence import measured_now
from .expressions import Readings
from .lanes import Lane, Lanes
from .limits import LIMITS
from .model import Mode, Policy
from .phases import Machine, corrects, note
from .trials import NOTHING, kept_arm
from .types import Decision, Outcome, Phase, Reply, Result, Status
from .types import Turn as Turn
from .verification import OpenVerdict, OpenVerdicts

_PLAIN = ("",)

NOTHING_SAID = Turn()
"""At most ticks; who passes ``calm`` compares with it, and does not add to it."""


class Command(Enum):
    """What the engine may be told from outside.

    OBSERVE and ACT change the mode. OFF keeps everything from acting, whatever the mode, until ON. RESUME
    says that the run goes on from an earlier state in a new process. APPROVE and REJECT answer a decision.
    """

    OBSERVE = "observe"
    ACT = "act"
    OFF = "off"
    ON = "on"
    RESUME = "resume"
    APPROVE = "approve"
    REJECT = "reject"


class Engine:
    """Decides by a policy.

    Args:
        policy: the checked policy.
        lateness: for each monitor, the ticks by which its onset comes after the true one.

    ``mode`` is OBSERVE when nothing may act: by the policy, by command, or by the limits; ``off`` is the kill
    switch. All of its state is in ``state_dict``, which belongs outside the snapshots that a rollback
    restores: budgets and cooldowns that went back with the run would let a persistent fault roll it back for
    ever.
    """

    def __init__(self, policy: Policy, lateness: Callable[[str], int]) -> None:
        self._lateness = lateness
        self._start(policy)

    def _start(self, policy: Policy) -> None:
        """Stand at the beginning of a run under this policy."""
        self.policy = policy
        self._lanes = Lanes(policy.rules)
        self._open = OpenVerdicts()
        self._arbiter = Arbiter(policy, self._lateness, self._lanes.machines, self._open)
        self._judged_tick = -1
        self._at_rest = False  # nothing is open, and no rule is anywhere but at its beginning

    def take_policy(self, policy: Policy, tick: int) -> Turn:
        """Go on by an edited policy after a tick: rules that it still has stay where they stand, budgets too.

        Best not while an act is in flight. A verdict that the policy cannot come to any more is INCONCLUSIVE;
        what a rule has asked about lapses if it was changed, since a yes would be to the rule as it stood.
        """
        turn, mode, amendments = Turn(), self.policy.mode, self.amendments
        was = {rule.name: rule for rule in self.policy.rules}
        stays = {r.name: r for r in policy.rules if r.name in was and r.foreach == was[r.name].foreach}
        for act in self._open.close_where(lambda act: act.rule not in stays or not stays[act.rule].verify):
            self._machine(act).waiting = False
            reason = "the policy was edited and cannot judge it any more"
            turn.verdicts.append(act.verdict(Result.INCONCLUSIVE, tick, reason))
        for machine in self._lanes.machines():
            if stays.get(machine.rule.name) != machine.rule:
                self._arbiter.lapse(machine, tick, turn, "the policy was edited")
        state = self.state_dict()
        state["machines"] = [machine for machine in state["machines"] if machine["rule"] in stays]
        self._start(policy)
        self.load_state_dict(state)
        self.amend(amendments)
        if policy.mode is not mode:
            self.mode = policy.mode
        return turn

    @property
    def mode(self) -> Mode:
        """Whether rules may act, but for the kill switch."""
        return self._arbiter.mode

    @mode.setter
    def mode(self, mode: Mode) -> None:
        self._arbiter.mode = mode

    @property
    def off(self) -> bool:
        """Whether the kill switch is pulled."""
        return self._arbiter.off

    @property
    def acting(self) -> bool:
        """Whether decisions change the run."""
        return self._arbiter.acting

    @property
    def waiting(self) -> Sequence[Decision]:
        """The decisions that wait for approval."""
        return self._arbiter.questions.waiting

    @property
    def amendments(self) -> Amendments:
        """What is decided otherwise than by the policy alone."""
        return self._arbiter.amendments

    def amend(self, amendments: Amendments) -> None:
        """Decide by the policy, but for these decisions: the run is a fork. No part of ``state_dict``."""
        self._arbiter.amendments = amendments

    @property
    def in_flight(self) -> Decision | None:
        """The act whose outcome has not been recorded yet."""
        return self._arbiter.in_flight

    def still_takes(self, decision: Decision) -> bool:
        """Whether this is an act of the policy as it is by now."""
        lane = self._lanes.get(decision.rule)
        if lane is None:
            return decision.rule == LIMITS
        ladder = lane.rule.ladder
        return (
            decision.rung < len(ladder)
            and ladder[decision.rung].resolve(decision.instance) == decision.actions
        )

    def awaits_verdict(self, decision: Decision) -> bool:
        """Whether its verdict is open."""
        return self._open.waits_for(decision.id)

    @property
    def trying(self) -> bool:
        """Whether a trial is in flight."""
        act = self._arbiter.in_flight
        return act is not None and any(action.name == "trial" for action in act.actions)

    @property
    def suspects(self) -> bool:
        """Whether some rule's condition holds and nothing has been done about it: no state to return to."""
        return self._lanes.suspect

    @property
    def wakers(self) -> frozenset[str]:
        """Monitors and signals that conditions read; of anything else it is nothing to rules if it is bad."""
        return self._lanes.wakers

    @property
    def rests(self) -> bool:
        """Whether nothing is read at the next tick either, as long as it goes by ``calm``."""
        lanes = self._lanes
        return self._at_rest and not lanes.before_step[True] and not lanes.after_step[True]

    def judge_step(self, sample: Sample, readings: Readings, *, calm: bool = False) -> Turn:
        """Evaluate the rules that can still keep the optimizer from stepping.

        ``tick`` leaves them out at the same tick, so that a measurement counts once. Who knows that no
        reading of ``wakers`` is bad says so (``calm``): at rest, rules that nothing else wakes are left out.
        """
        rests = calm and self._at_rest
        if not rests and self._arbiter.in_flight is not None and self.trying:
            return Turn()
        self._judged_tick = sample.tick
        lanes = self._lanes.before_step[rests]
        if rests and not lanes:
            return NOTHING_SAID
        now = Now(sample, readings, Turn())
        self._evaluate(lanes, now)
        self._at_rest = rests and not now.turn.phases
        return now.turn

    def tick(self, sample: Sample, readings: Readings, *, calm: bool = False) -> Turn:
        """Give the verdicts that are due, then evaluate the rules; ``calm`` is as for ``judge_step``."""
        rests = calm and self._at_rest
        if not rests and self._arbiter.in_flight is not None and self.trying:
            return Turn()
        before = self._lanes.before_step[rests] if self._judged_tick < sample.tick else ()
        after = self._lanes.after_step[rests]
        if rests and not before and not after:
            return NOTHING_SAID
        now = Now(sample, readings, Turn())
        if self._open:
            self._judge_due(now)
        self._evaluate(before, now)
        self._evaluate(after, now)
        self._at_rest = self._arbiter.in_flight is None and not self._open and self._lanes.inactive
        return now.turn

    def record(self, outcome: Outcome) -> Turn:
        """Take the outcome of the act in flight; any other, such as one told before, changes nothing."""
        turn = Turn()
        decision = self._arbiter.in_flight
        if decision is None or decision.id != outcome.decision_id:
            return turn
        self._arbiter.in_flight = None
        applied = outcome.status is Status.APPLIED
        if decision.rule == LIMITS:
            self.mode = self.mode if applied else Mode.OBSERVE
        elif applied:
            self._applied(decision, outcome, turn)
        elif self.acting:
            self._machine(decision).climb(decision.rung, outcome.tick)
        else:  # it was not done because nothing may be done any more: no reason for a stronger one
            self._observed(decision, outcome.tick, turn)
        return turn

    def command(self, command: str, tick: int, subject: str = "", by: str = "") -> Turn:
        """Obey a command from outside, taken up at a tick.

        Whatever changes the mode, budgets and cooldowns stay, and an act in flight still gets its outcome.
        After ``resume`` an act in flight is forgotten, uncharged, for nobody knows what became of it, and
        rules count anew. ``approve`` and ``reject`` answer the decision ``subject``, for the one named by
        ``by``.

        Raises:
            ValueError: for another command, or an answer to a decision that does not wait.
        """
        turn = Turn()
        told = Command(command)
        if told in (Command.APPROVE, Command.REJECT):
            self._arbiter.questions.reply(subject, Reply.YES if told is Command.APPROVE else Reply.NO, by)
        elif told in (Command.OFF, Command.ON):
            self._arbiter.off = told is Command.OFF
        elif told is Command.RESUME:
            self._arbiter.in_flight = None
            self._arbiter.last_act = NONE_YET
            self._judged_tick = -1
            self._rewind(tick, turn)
        else:
            self.mode = Mode(command)
        return turn

    def restarted(self, tick: int) -> None:
        """A new process goes on from how the run stood after this tick."""
        self._arbiter.guardrails.restarted(tick)

    def dismiss(self, tick: int) -> Turn:
        """Nobody will carry out the act in flight: it counts as observed, and from now on nothing acts.

        For a policy that is tried on a run that took another course.
        """
        turn = Turn()
        decision, self._arbiter.in_flight = self._arbiter.in_flight, None
        self.mode = Mode.OBSERVE
        if decision is not None and decision.rule != LIMITS:
            self._observed(decision, tick, turn)
        return turn

    def _observed(self, decision: Decision, tick: int, turn: Turn) -> None:
        machine = self._machine(decision)
        before = machine.phase
        machine.observed(decision.rung, tick)
        note(machine, before, tick, turn)

    # Evaluating

    def _evaluate(self, lanes: Iterable[Lane], now: Now) -> None:
        """Move the machines of these rules on, and let those that fire act in the order of their strength."""
        readings = now.readings
        wishes: list[tuple[int, int, str, Machine]] = []
        for lane in lanes:
            rule = lane.rule
            for instance in _PLAIN if rule.foreach is None else readings.get(rule.foreach, ()):
                holds = rule.when(readings, instance)
                if holds and rule.unless is not None and rule.unless(readings, instance):
                    holds = None
                machine = lane.machines.get(instance)
                if not holds and (machine is None or machine.phase is Phase.INACTIVE):
                    continue
                machine = machine or lane.machine(instance)
                if self._advance(machine, holds, now):
                    wishes.append((-self._strength(machine, now), lane.place, instance, machine))
        if wishes:
            for *_, machine in sorted(wishes, key=lambda wish: wish[:3]):
                self._arbiter.grant(machine, now)

    def _advance(self, machine: Machine, holds: bool | None, now: Now) -> bool:
        tick, before = now.sample.tick, machine.phase
        fresh = holds is True and measured_now(machine.rule.when, now.readings, machine.instance, tick)
        wants = machine.advance(tick, holds, fresh)
        note(machine, before, tick, now.turn)
        if before is Phase.FIRING and not wants:
            self._arbiter.lapse(machine, tick, now.turn, "its condition holds no more")
        return wants

    def _strength(self, machine: Machine, now: Now) -> int:
        """The priority of the rung that it would take; who has none left comes last."""
        rung, _ = self._arbiter.plan(machine, now.sample.tick)
        return -1 if rung is None else machine.rule.ladder[rung].priority

    # Outcomes and verdicts

    def _applied(self, decision: Decision, outcome: Outcome, turn: Turn) -> None:
        machine = self._machine(decision)
        before = machine.phase
        charged = self._arbiter.last_act[0]  # not the decision's own tick: it may have waited for approval
        machine.applied(decision.rung, charged, outcome.tick)
        note(machine, before, outcome.tick, turn)
        if not corrects(decision.actions):
            return
        if machine.first_act is None:
            machine.first_act = charged
        if self._arbiter.limiter is not None:
            self._arbiter.limiter.ledger.charge(charged)
        for act in self._open.close_where(lambda verdict: True):
            turn.verdicts.append(act.overlapped(decision, outcome.tick))
            self._machine(act).waiting = False
        kept = kept_arm(outcome)
        went_back = kept != NOTHING and any(action.name in GO_BACK for action in decision.actions)
        if machine.rule.verify is not None:
            self._open.open(OpenVerdict.of(decision, outcome, machine.rule.verify))
            machine.waiting = not went_back
        if kept == NOTHING and machine.phase is Phase.COOLDOWN:
            machine.waiting = True  # as after an act that was only observed: the alarm still sounds
        if went_back:
            self._rewind(outcome.tick, turn)

    def _judge_due(self, now: Now) -> None:
        tick = now.sample.tick
        for act in self._open.close_where(lambda verdict: verdict.due <= tick):
            machine = self._machine(act)
            assert machine.rule.verify is not None
            verdict = act.judged(machine.rule.verify, now.readings, tick)
            now.turn.verdicts.append(verdict)
            machine.waiting = False
            if verdict.result is Result.HELPED:
                machine.helped()
            elif verdict.result is Result.DID_NOT_HELP:
                machine.climb(machine.rung, tick)

    def _rewind(self, tick: int, turn: Turn) -> None:
        for machine in self._lanes.machines():
            before = machine.phase
            machine.rewind()
            note(machine, before, tick, turn)
            self._arbiter.lapse(machine, tick, turn, "the run went back")

    def _machine(self, of: Decision | OpenVerdict) -> Machine:
        return self._lanes[of.rule].machine(of.instance)

    # State

    def state_dict(self) -> dict[str, Any]:
        """All of its state, as JSON."""
        return {
            **self._arbiter.state_dict(),
            "judged_tick": self._judged_tick,
            "open_verdicts": self._open.state_dict(),
            "machines": [machine.state_dict() for machine in self._lanes.machines()],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state. What it says of rules that this policy does not have is left out."""
        self._arbiter.load_state_dict(state, self._lanes.rule)
        self._judged_tick = state["judged_tick"]
        # Under another name, or not at all, in checkpoints of earlier versions.
        acts = state.get("open_verdicts", state.get("trials", ()))
        self._open.load_state_dict([act for act in acts if (rule := self._lanes.rule(act)) and rule.verify])
        self._lanes.load_state_dict(state["machines"])
        self._at_rest = False
