"""The deciding side of a run, on rank 0: monitors, engine, journal and metrics around one sample."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from math import inf
from typing import Any

from ..monitors.bank import MonitorBank, Readings
from ..monitors.plan import Plan
from ..monitors.types import Health, Sample
from ..policies.engine import NOTHING_SAID, Command, Engine, Turn
from ..policies.evidence import measured_now
from ..policies.policy import Mode, Policy
from ..policies.regulators.bank import Move, Regulators
from ..policies.types import Decision, Disposition, Outcome, Reply, Status
from .journal.store import Journal, JournalError
from .metrics import Metrics
from .news import News
from .outside import LOOK_SECONDS, Outside, Switch, difference, objections
from .reference_losses import with_references

log = logging.getLogger("midcourse")

_NEVER_LOOKED = -inf
"""The first look comes before the first sample."""


class Pilot:
    """From a sample to at most one decision to act, with everything written down first.

    Args:
        policy: What to watch and what to do.
        journal: Where it is written; a journal that cannot be written puts the engine in observe mode.
        metrics: What is shown.
        clock: Seconds, for the overhead by part.
        outside: What may come from outside while the run goes on.
    """

    def __init__(
        self,
        policy: Policy,
        journal: Journal,
        metrics: Metrics,
        clock: Callable[[], float] = time.perf_counter,
        outside: Outside | None = None,
    ) -> None:
        self.policy = policy
        self.bank = MonitorBank(policy.monitors, policy.baselines)
        self.engine = Engine(policy, self.bank.lateness)
        self.regulators = Regulators(*with_references(policy.regulators))
        self._regulated = bool(policy.regulators)  # for good: an edit of them is refused
        self.news: News | None = None
        """What all processes must know of besides an act, if there is anything; who tells them takes it."""
        self._calm = False  # no reading is bad that could wake a rule
        self._outside = outside
        self._look_at = _NEVER_LOOKED
        self._withdrawn = False
        self._dry = policy.mode is Mode.OBSERVE  # regulators tell what they would do, in force is nothing
        self._journal = journal
        self._metrics = metrics
        self._clock = clock
        self._health: dict[str, dict[str, Health]] = {name: {} for name in self.bank.readings}
        self._decided: dict[str, Decision] = {}

    def state_dict(self) -> dict[str, Any]:
        """Engine, the policy's own mode, decisions without a verdict; the monitors are a snapshot's."""
        return {
            "mode": self.policy.mode.value,
            "engine": self.engine.state_dict(),
            "decided": dict(self._decided),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on deciding where another has left off.

        The policy's own mode holds, unless the other came to observe though its policy acted: by the limits,
        say.
        """
        mode = self.engine.mode
        self.engine.load_state_dict(state["engine"])
        if mode is Mode.OBSERVE or state["mode"] == Mode.OBSERVE.value:
            self.engine.mode = mode
        self._decided = dict(state["decided"])
        self._show_mode()

    def land(self, waiting: Decision | None, tick: int) -> bool:
        """Once the state was taken over: what is in flight and does not wait any more gets its outcome.

        A checkpoint that was written in the midst of an act does not hold it. Where the act ended with that
        checkpoint it was applied; of any other nobody knows what became of it, so it is forgotten, uncharged.
        True if what waits is still to be done; not so where the policy has changed since.
        """
        self.engine.restarted(tick)
        flying = self.engine.in_flight
        if flying is None:
            return False
        waits = waiting is not None and waiting.id == flying.id
        if waits and self.engine.still_takes(flying):
            return True
        if not waits and flying.actions and flying.actions[-1].name == "checkpoint":
            self._take(self.engine.record(Outcome(flying.id, Status.APPLIED, tick)))
        else:
            self._take(self.engine.command("resume", tick))
        if not waits and not self.engine.awaits_verdict(flying):
            self._decided.pop(flying.id, None)
        return False

    @property
    def acting(self) -> bool:
        """Whether decisions change the run."""
        return self.engine.acting

    def judge_step(self, sample: Sample) -> Decision | None:
        """Before the update: what the guard says of loss and gradients, and whether to skip the step."""
        if self._look_at == _NEVER_LOOKED:
            self.look_first(sample.tick - 1)
        bank = self.bank
        rests = self._calm and self.engine.rests
        readings = bank.judge_step(sample, lazily=rests)
        if rests and bank.news:
            bank.settle()
        turn = self.engine.judge_step(sample, readings, calm=self._calm and not bank.news)
        return None if turn is NOTHING_SAID else self._take(turn)

    def judge(self, sample: Sample) -> tuple[Decision | None, bool]:
        """After the update: the decision to act, if any, and whether the state is one to return to."""
        if self._look_at == _NEVER_LOOKED:
            self.look_first(sample.tick - 1)
        clock, spent, bank = self._clock, self._metrics.spent, self.bank
        began = clock()
        rests = self._calm and self.engine.rests
        readings = bank.update(sample, lazily=rests)
        news, bank.news = bank.news, False
        if news:
            bank.settle()
            read = (readings[name] for name in self.engine.wakers if name in readings)
            self._calm = not any(reading.bad for each in read for reading in each.values())
        moves = self.regulators.take(sample.signals) if self._regulated and self._regulates else ()
        sensed = clock()
        turn = self.engine.tick(sample, readings, calm=self._calm)
        decided = clock()
        self._journal.sample(sample)
        if news:
            self._follow_health(sample, readings)
        if self._regulated:
            self._regulate(moves, sample.tick)
        quiet = turn is NOTHING_SAID
        decision = None if quiet else self._take(turn)
        self._metrics.sample(sample, readings)
        ended = clock()
        spent["monitors"] += sensed - began
        spent["engine"] += decided - sensed
        spent["journal"] += ended - decided
        if ended >= self._look_at:
            self._look(sample.tick)
        return decision, quiet or not self.engine.suspects

    @property
    def _regulates(self) -> bool:
        """Whether regulators go on: not on what is only tried out, nor where they are not obeyed any more."""
        return (self._dry or self.acting) and not self.engine.trying

    def measure(self, decision: Decision, tick: int) -> float | None:
        """What a trial's judge says at this tick; None where nothing of it was measured."""
        rule = next((rule for rule in self.policy.rules if rule.name == decision.rule), None)
        judge = None if rule is None else rule.ladder[decision.rung].judge
        if judge is None or not measured_now(judge, self.bank.readings, decision.instance, tick):
            return None
        return judge.number(self.bank.readings, decision.instance)

    def settle(self, outcome: Outcome) -> None:
        """Write down what became of a decision, and let the engine go on from it."""
        decision = self._decided[outcome.decision_id]
        self._write(self._journal.outcome, outcome, decision)
        self._metrics.outcome(outcome, decision)
        if outcome.status is not Status.APPLIED:
            log.warning("%s %s: %s", decision.id, outcome.status.value, outcome.reason)
        else:
            log.warning("%s: %s", decision.id, _in_words(decision, outcome))
        self._take(self.engine.record(outcome))
        if not self.engine.awaits_verdict(decision):
            del self._decided[decision.id]

    def event(self, kind: str, tick: int, detail: Mapping[str, Any]) -> None:
        """Write down something that is neither a sample nor a decision."""
        self._write(self._journal.event, kind, tick, detail)

    def plan(self, plan: Plan, tick: int) -> None:
        """Tell the monitors what is known ahead of the run, from this tick on."""
        self.event("plan", tick, plan.to_json())
        self.bank.plan(plan)

    def _to_tell(self) -> News:
        """The news, to add to."""
        if self.news is None:
            self.news = News()
        return self.news

    def look_first(self, tick: int) -> None:
        """Before anything is done or judged: see what has come from outside, unless that was done."""
        if self._look_at == _NEVER_LOOKED:
            if self._outside is not None and tick == 0:
                self._outside.forget_answers()
            self._look(tick)

    def _look(self, tick: int) -> None:
        """Between two ticks: take up what has come from outside since the last look.

        An edited policy waits for the outcome of what is in flight: a trial must not be judged by two.
        """
        outside = self._outside
        self._look_at = self._clock() + LOOK_SECONDS
        if outside is None:
            return
        self._obey_switch(outside.switch(), tick)
        for decision in self.engine.waiting:
            if answer := outside.answer(decision):
                reply, by = answer
                told = Command.APPROVE if reply is Reply.YES else Command.REJECT
                self._command(told, tick, decision.id, by)
        edited = outside.edited() if self.engine.in_flight is None else None
        if isinstance(edited, Policy):
            self._edit(edited, outside, tick)
        elif edited is not None:
            self._refuse([str(problem) for problem in edited.problems], tick)

    def _obey_switch(self, switch: Switch, tick: int) -> None:
        """Follow the kill switch; what is in force may be withdrawn later than it was thrown."""
        withdraws = switch.withdraw and not self._withdrawn
        self._withdrawn = switch.withdraw
        if switch.off is self.engine.off and not withdraws:
            return
        self._command(Command.OFF if switch.off else Command.ON, tick, by=switch.by)
        if withdraws:
            self.regulators.load_state_dict({})
        elif self.acting:  # what regulators had in force, should anything have come between
            self._to_tell().moves |= self.regulators.ordered()
        self._to_tell().extend(News(halt=switch.off, withdraw=withdraws, anew=withdraws))

    def _command(self, command: Command, tick: int, subject: str = "", by: str = "") -> None:
        """Obey a command from outside, which a replay must find in the journal."""
        detail = {"command": command.value, "subject": subject, "by": by}
        if not self._write(self._journal.event, "command", tick, detail):
            return
        log.warning("%s", " ".join(filter(None, (command.value, subject, f"(by {by})" if by else ""))))
        self._take(self.engine.command(command.value, tick, subject, by))
        self._show_mode()

    def _edit(self, policy: Policy, outside: Outside, tick: int) -> None:
        """Take up an edited policy from the next tick on, or say why not."""
        if problems := objections(self.policy, policy):
            self._refuse([f"{policy.source}: {problem}" for problem in problems], tick)
            return
        changed = difference(self.policy, policy)
        detail = {"source": policy.source, "text": policy.text, "diff": changed}
        if not self._write(self._journal.event, "policy", tick, detail):
            return
        log.warning("the policy was edited and is in force from the next tick on:\n%s", "\n".join(changed))
        outside.take(policy)
        self.policy = policy
        self.bank.take_specs(policy.monitors, policy.baselines)
        self._take(self.engine.take_policy(policy, tick))
        if self._dry and policy.mode is Mode.ACT:
            # What regulators came to unheard may lie far from what is in force.
            self._dry = False
            self.regulators.load_state_dict({})
            self._to_tell().extend(News(anew=True))
        self._health = {name: self._health.get(name, {}) for name in self.bank.readings}
        self._metrics.edited(policy)
        self._show_mode()

    def _refuse(self, problems: Sequence[str], tick: int) -> None:
        """An edit that cannot be taken up changes nothing and says so."""
        log.error(
            "the edited policy is not taken up, the one before stays in force:\n%s", "\n".join(problems)
        )
        self._metrics.edited(None)
        self._write(self._journal.event, "policy_refused", tick, {"problems": list(problems)})

    def _show_mode(self) -> None:
        self._metrics.mode(Mode.ACT if self.engine.acting else Mode.OBSERVE)

    def start_regulators(self, shares: Mapping[str, float] | None, tick: int) -> list[str]:
        """The training loader is known, and the user's own shares if it is a mixture: what is to be said."""
        cannot = self.regulators.start(shares)
        for name, reason in cannot.items():
            self.event("regulator_refused", tick, {"regulator": name, "reason": reason})
        if self.acting:  # another loader may read the same mixture, which knows nothing of them
            self._to_tell().moves |= self.regulators.ordered()
        self._metrics.regulators(self.regulators.shown())
        return [f"regulator {name} refused: {reason}" for name, reason in cannot.items()]

    def _regulate(self, moves: Sequence[Move], tick: int) -> None:
        """Write down what regulators want; once nothing may be changed it is not put in force."""
        for move in moves:
            detail = {"regulator": move.regulator, "values": move.values, "in_force": self.acting}
            if self._write(self._journal.event, "regulated", tick, detail) and self.acting:
                self._to_tell().moves |= move.values
        if moves:
            self._metrics.regulators(self.regulators.shown())
        for error in self.regulators.take_errors():
            log.error("%s", error)
            self._metrics.error("regulator")
            self._write(self._journal.event, "error", tick, {"component": "regulator", "message": error})

    def _take(self, turn: Turn) -> Decision | None:
        for change in turn.phases:
            self._write(
                self._journal.phase, change.tick, change.rule, change.instance, change.before, change.after
            )
            self._metrics.phase(change.rule, change.instance, change.after)
        for verdict in turn.verdicts:
            decision = self._decided.pop(verdict.decision_id)
            self._write(self._journal.verdict, verdict)
            self._metrics.verdict(verdict, decision)
            log.warning("%s: %s (%s)", decision.id, verdict.result.value.replace("_", " "), verdict.reason)
            self._to_tell().verdicts.append(verdict)
        for answer in turn.answers:
            detail = {"decision": answer.decision_id, "reply": answer.reply.value, "by": answer.by}
            self._write(self._journal.event, "approval", answer.tick, detail)
            log.warning("%s: %s (%s)", answer.decision_id, answer.reply.value, answer.by)
            self._to_tell().answered.append(answer.decision_id)
        act: Decision | None = None
        for decision in turn.decisions:
            written = self._write(self._journal.decision, decision)
            self._metrics.decision(decision)
            if decision.disposition is Disposition.AWAITING_APPROVAL:
                log.warning("%s waits for approval: midcourse approve RUN %s", decision.id, decision.id)
                self._to_tell().asked.append(decision)
            if decision.disposition is not Disposition.ACT:
                continue
            self._decided[decision.id] = decision
            if written:
                act = decision
            else:
                reason = "it could not be written to the journal first"
                self.engine.record(Outcome(decision.id, Status.FAILED, decision.tick, reason))
        if turn.decisions or turn.answers:
            self._metrics.waiting(len(self.engine.waiting))
        return act

    def _write(self, write: Callable[..., None], *args: Any) -> bool:
        """Write to the journal; once that fails the run goes on observed only (law 5)."""
        try:
            write(*args)
        except JournalError as error:
            if self.acting:
                log.error("the journal cannot be written, so nothing will be changed any more: %s", error)
                self._metrics.error("journal")
                self.engine.command("observe", args[0] if isinstance(args[0], int) else 0)
                self._show_mode()
            return False
        return True

    def _follow_health(self, sample: Sample, readings: Readings) -> None:
        for monitor, instances in readings.items():
            known = self._health[monitor]
            for instance, reading in instances.items():
                before = known.get(instance)
                if reading.health is not before:
                    known[instance] = reading.health
                    self._write(
                        self._journal.transition,
                        sample.tick,
                        sample.step,
                        sample.branch,
                        monitor,
                        instance,
                        before,
                        reading,
                    )
        for error in self.bank.take_errors():
            log.error("%s", error)
            self._metrics.error("monitor")
            self._write(self._journal.event, "error", sample.tick, {"component": "monitor", "message": error})


def _in_words(decision: Decision, outcome: Outcome) -> str:
    acts = ", ".join(
        f"{name} {' '.join(f'{k}={v}' for k, v in detail.items() if _is_short(v))}".strip()
        for name, detail in outcome.details.items()
    )
    return f"{decision.reason}; {acts}"


def _is_short(value: Any) -> bool:
    return value is not None and not isinstance(value, dict)
