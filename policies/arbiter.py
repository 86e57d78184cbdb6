"""The arbiter: of all rules that fire at a tick it lets one act, and tells what holds the others back.

A rule that fires and wants to act is heard in this order:

1. A quiet period, or a rule of the same group that is at work: it waits (``guardrails``).
2. The policy's limits, if its act would be one too many: they end all acting, or the run (``limits``).
3. Another act at this tick, or one whose outcome has not come: it waits.
4. Its own ``approve``: it asks, and waits for the answer (``approvals``).

Then it takes its turn: it acts, or where nothing may act says what it would have done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..monitors.types import Sample
from .amendments import NONE_AMENDED
from .approvals import Questions
from .evidence import decide
from .expressions import Readings
from .guardrails import Guardrails
from .limits import LIMITS, Limiter
from .model import Approval, Mode, Policy, Rule
from .phases import Machine, is_last_resort, note, only_skips
from .types import Action, Decision, Disposition, Phase, Reply, Turn
from .verification import OpenVerdicts

NONE_YET = (-1, "", 0)


@dataclass(slots=True)
class Now:
    """What is measured at a call of the engine, and what is said about it."""

    sample: Sample
    readings: Readings
    turn: Turn


class Arbiter:
    """Lets rules act, one at a time.

    Args:
        policy: the one that is decided by.
        lateness: for each monitor, the ticks by which its onset comes after the true one.
        machines: all machines of its rules, as they stand.
        verdicts: those that are open; that of a rule which acts again is closed.

    ``mode`` is OBSERVE when nothing may act, ``off`` the kill switch. ``amendments`` are what a fork decides
    otherwise, and no part of the state. ``in_flight`` is the act whose outcome has not come, ``last_act`` the
    tick at which the last one was let go, whose, and how many ticks in a row there was nothing but skips.
    """

    def __init__(
        self,
        policy: Policy,
        lateness: Callable[[str], int],
        machines: Callable[[], Iterable[Machine]],
        verdicts: OpenVerdicts,
    ) -> None:
        self.mode = policy.mode
        self.off = False
        self.amendments = NONE_AMENDED
        self.limiter = Limiter(policy.limits) if policy.limits else None
        self.guardrails = Guardrails(policy, machines, verdicts.__contains__)
        self.questions = Questions()
        self.in_flight: Decision | None = None
        self.last_act = NONE_YET
        self._lateness = lateness
        self._verdicts = verdicts

    @property
    def acting(self) -> bool:
        """Whether decisions change the run."""
        return self.mode is Mode.ACT and not self.off

    def plan(self, machine: Machine, tick: int) -> tuple[int | None, str]:
        """The rung that it takes now, and why none: the ladder's next, unless a fork names another."""
        amended = self.amendments.rung(machine.label, tick)
        if amended is not None and amended < len(machine.rule.ladder):
            return amended, ""
        return machine.plan(tick, machine.key in self._verdicts)

    def grant(self, machine: Machine, now: Now) -> None:
        """Hear a rule that fires: it takes its turn, or is held back."""
        rung, why = self.plan(machine, now.sample.tick)
        if rung is None:
            if not self._waits_for_a_rival(machine, len(machine.rule.ladder) - 1, now):
                self._begin_turn(machine, now)
                before, machine.phase = machine.phase, Phase.EXHAUSTED
                self._suppress(machine, len(machine.rule.ladder) - 1, why, now)
                note(machine, before, now.sample.tick, now.turn)
        elif not self._held_back(machine, rung, now):
            self._let_act(machine, rung, now)

    def _held_back(self, machine: Machine, rung: int, now: Now) -> bool:
        """Whether this rule has to wait: see the order in which rules are heard."""
        tick, actions = now.sample.tick, machine.rule.ladder[rung].actions
        if objection := self.guardrails.objection(machine, actions, tick):
            self._suppress(machine, rung, objection, now)
            return True
        if not self._observes(machine, tick) and not self._rival(tick):
            self._keep_limits(actions, now)
        return self._waits_for_a_rival(machine, rung, now)

    def _waits_for_a_rival(self, machine: Machine, rung: int, now: Now) -> bool:
        rival = self._rival(now.sample.tick)
        if rival:
            self._suppress(machine, rung, f"{rival} goes first", now)
        return bool(rival)

    def _let_act(self, machine: Machine, rung: int, now: Now) -> None:
        """Nobody is in the way: the rule acts, asks first, or says what it would have done."""
        tick, before = now.sample.tick, machine.phase
        if self._observes(machine, tick):
            self._begin_turn(machine, now, rung)
            machine.observed(rung, tick)
            now.turn.decisions.append(self._decision(machine, rung, Disposition.OBSERVE, now))
            self.lapse(machine, tick, now.turn, "nothing is done any more")
            if not self.acting:  # as if it had acted: the others come later, as they would have
                self._acted(tick, machine.rule.name, machine.rule.ladder[rung].actions)
            note(machine, before, tick, now.turn)
            return
        decision = self._decided(machine, rung, now)
        if decision is not None:
            self._begin_turn(machine, now, rung)
            if machine.rule.approve is not None and not is_last_resort(machine.rule, decision.rung):
                machine.rung = decision.rung  # as it was asked about, whatever would be next by now
            machine.flying = True
            self._fly(decision, now)

    def _begin_turn(self, machine: Machine, now: Now, rung: int | None = None) -> None:
        """The rule's turn has come. If the verdict of its last act is open, that act did not help."""
        tick = now.sample.tick
        act = self._verdicts.close(machine.key)
        if act is not None:
            now.turn.verdicts.append(act.returned(tick))
        machine.take_turn(act is not None)
        if rung is not None and self.amendments.rung(machine.label, tick) == rung:
            machine.rung = rung

    def _decided(self, machine: Machine, rung: int, now: Now) -> Decision | None:
        """The decision to act; None while it waits for a yes, and after a no."""
        if machine.rule.approve is None:
            return self._decision(machine, rung, Disposition.ACT, now)
        return self._approved(machine, machine.rule.approve, rung, now)

    def _approved(self, machine: Machine, approval: Approval, rung: int, now: Now) -> Decision | None:
        key, tick = machine.key, now.sample.tick
        if key not in self.questions:
            decision = self._decision(machine, rung, Disposition.AWAITING_APPROVAL, now)
            self.questions.ask(decision)
            now.turn.decisions.append(decision)
            return None
        question = self.questions[key]
        reply = question.settle(approval, tick)
        if reply is None:
            return None
        self.questions.close(key)
        now.turn.answers.append(question.answer(reply, tick, question.by))
        if reply is Reply.YES:
            reason = f"{question.decision.reason}; approved: {question.by}"
            return replace(question.decision, disposition=Disposition.ACT, reason=reason)
        before = machine.phase
        machine.declined(tick)
        note(machine, before, tick, now.turn)
        return None

    def lapse(self, machine: Machine, tick: int, turn: Turn, why: str) -> None:
        """A decision that waits for approval is not asked about any more."""
        question = self.questions.close(machine.key)
        if question is not None:
            turn.answers.append(question.answer(Reply.LAPSED, tick, why))

    def _keep_limits(self, actions: tuple[Action, ...], now: Now) -> None:
        if self.limiter is None or not self.limiter.forbids(actions, now.sample.tick):
            return
        decision = self.limiter.decision(now.sample, now.readings)
        if decision.disposition is Disposition.ACT:
            self._fly(decision, now)
        else:
            self.mode = Mode.OBSERVE
            now.turn.decisions.append(decision)

    def _observes(self, machine: Machine, tick: int) -> bool:
        rule = machine.rule
        if not self.acting or rule.mode is Mode.OBSERVE:
            return True
        return self.amendments.withholds(rule.name, machine.label, tick)

    def _rival(self, tick: int) -> str:
        """Whose act keeps all others from acting now; empty if nobody's.

        A skipped step is over before its tick is, and a lone bad one is dealt with; from the second in a row
        on the others may act as well.
        """
        if self.in_flight is not None:
            return self.in_flight.rule
        last_tick, rule, in_a_row = self.last_act
        return "" if last_tick != tick or in_a_row > 1 else rule

    def _fly(self, decision: Decision, now: Now) -> None:
        self.in_flight = decision
        self._acted(now.sample.tick, decision.rule, decision.actions)
        now.turn.decisions.append(decision)

    def _acted(self, tick: int, rule: str, actions: tuple[Action, ...]) -> None:
        last_tick, _, in_a_row = self.last_act
        before = in_a_row if last_tick == tick - 1 else 0
        self.last_act = (tick, rule, before + 1 if only_skips(actions) else 0)

    def _suppress(self, machine: Machine, rung: int, why: str, now: Now) -> None:
        """Record, once, why a rule that fires does not act."""
        if machine.said != why:
            machine.said = why
            now.turn.decisions.append(self._decision(machine, rung, Disposition.SUPPRESSED, now, why))

    def _decision(
        self, machine: Machine, rung: int, disposition: Disposition, now: Now, why: str = ""
    ) -> Decision:
        decision = decide(
            machine.rule,
            machine.instance,
            rung,
            disposition,
            now.sample,
            now.readings,
            self._lateness,
            why,
            machine.first_act,
        )
        if self.amendments and disposition is not Disposition.SUPPRESSED:
            said = self.amendments.said_of(machine.rule.name, machine.label, now.sample.tick)
            return replace(decision, reason=decision.reason + said)
        return decision

    def state_dict(self) -> dict[str, Any]:
        """All of its state, as JSON."""
        return {
            "mode": self.mode.value,
            "off": self.off,
            "last_act": list(self.last_act),
            "limits": self.limiter and self.limiter.ledger.state_dict(),
            "in_flight": self.in_flight and self.in_flight.to_json(),
            "questions": self.questions.state_dict(),
            "quiet": self.guardrails.state_dict(),
        }

    def load_state_dict(
        self, state: Mapping[str, Any], rule_of: Callable[[Mapping[str, Any]], Rule | None]
    ) -> None:
        """Take over a state, but for what it says of rules that ``rule_of`` does not find."""
        # What may be missing was not there in checkpoints of earlier versions.
        self.mode, self.off = Mode(state["mode"]), state.get("off", False)
        tick, rule, *in_a_row = state["last_act"]
        self.last_act = (tick, rule, in_a_row[0] if in_a_row else 0)
        if self.limiter is not None and state["limits"] is not None:
            self.limiter.ledger.load_state_dict(state["limits"])
        flying = state["in_flight"]
        known = flying and (flying["rule"] == LIMITS or rule_of(flying))
        self.in_flight = Decision.from_json(flying) if known else None
        asked = state.get("questions", ())
        self.questions.load_state_dict(
            [question for question in asked if (rule := rule_of(question["decision"])) and rule.approve]
        )
        self.guardrails.load_state_dict(state.get("quiet", 0))
