"""What a policy decides on a recorded run: the same samples, outcomes and commands give the same decisions.

The monitors and the engine see what they saw live, in the same order, so this serves to check a journal, to
test a policy on written series, and to try a policy on old runs.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from ..monitors.bank import MonitorBank
from ..monitors.plan import Plan
from ..monitors.types import Sample
from .amendments import Amendments
from .engine import Command, Engine
from .model import Policy
from .types import Decision, Outcome, Status, Turn


@dataclass(frozen=True, slots=True)
class Commanded:
    """A command that the engine was given, and at which tick; see ``Engine.command``."""

    command: str
    tick: int
    subject: str = ""
    by: str = ""


@dataclass(frozen=True, slots=True)
class PolicyEdited:
    """After this tick an edited policy came into force."""

    policy: Policy
    tick: int


@dataclass(frozen=True, slots=True)
class Resumed:
    """A new process goes on from how the run stood after this tick, engine and monitors alike."""

    tick: int


@dataclass(frozen=True, slots=True)
class StateLoaded:
    """After this tick the loop loaded a state of its own: the monitors start anew."""

    tick: int


@dataclass(frozen=True, slots=True)
class Foreseen:
    """After this tick the monitors were told what is known ahead of the run."""

    plan: Plan
    tick: int


@dataclass(frozen=True, slots=True)
class WentBack:
    """After this tick a trial led the run back to how it stood after tick ``to``.

    There an arm begins, of which nothing is decided; or, ``for_good``, the trial is over and ``to`` is the
    end of the arm that is kept, or where the trial began.
    """

    to: int
    tick: int
    for_good: bool


Event = Sample | Outcome | Commanded | PolicyEdited | Resumed | StateLoaded | Foreseen | WentBack


class Replay:
    """Monitors and engine of a policy, driven through recorded events one at a time.

    Args:
        policy: the policy to decide by.
        landmarks: the ticks that a rollback or a new process goes back to (``landmarks_of``). How monitors
            and engine stood after these is kept; all others are forgotten as they pass, unless ``keep``
            is called in time.
        at_once: what becomes of a decision before its own sample is complete, if anything does: of a skipped
            step, in a run that is made up as it goes. A recorded run tells that itself.

    A rollback by an act that is none of this policy's is taken as a fact: the run went back, so the monitors
    do, and what led a rule to PENDING or FIRING belongs to an abandoned branch.
    """

    def __init__(
        self,
        policy: Policy,
        landmarks: Iterable[int] = (),
        at_once: Callable[[Decision], Outcome | None] = lambda decision: None,
    ) -> None:
        self._policy = policy
        self.bank = MonitorBank(policy.monitors, policy.baselines)
        self.engine = Engine(policy, self.bank.lateness)
        self._landmarks = sorted(set(landmarks))
        self._states: dict[int, dict[str, Any]] = {}
        self._tick: int | None = None
        self._held: list[Outcome] = []
        self._at_once = at_once
        self._trying = False

    def take(self, event: Event) -> Turn:
        """Take what happened next; returns what the engine said to it.

        Raises:
            ValueError: the run goes back to a tick that was not replayed.
        """
        if isinstance(event, Resumed):
            self._resume(event.tick)
            return Turn()
        if self._tick is None or event.tick > self._tick:
            self._pass_to(event.tick)
        if isinstance(event, Sample):
            return self._judge(event)
        if isinstance(event, Outcome):
            return self._record(event)
        if isinstance(event, StateLoaded):
            self._trying = False
            self.bank.load_state_dict({"monitors": {}})
            return Turn()
        if isinstance(event, Foreseen):
            self.bank.plan(event.plan)
            return Turn()
        if isinstance(event, PolicyEdited):
            self.bank.take_specs(event.policy.monitors, event.policy.baselines)
            return self.engine.take_policy(event.policy, event.tick)
        if isinstance(event, WentBack):
            self._go_back(event)
            return Turn()
        return self.engine.command(event.command, event.tick, event.subject, event.by)

    def amend(self, amendments: Amendments) -> None:
        """From here on the recorded run is a fork: these decisions were not its policy's own."""
        self.engine.amend(amendments)

    def dismiss(self, tick: int) -> Turn:
        """Nobody carries out what the policy decides any more: it only watches from here on."""
        return self.engine.dismiss(tick)

    def keep(self, tick: int) -> None:
        """A rollback may go back to here: after all of this tick, which is the present one."""
        self._states[tick] = self._present()

    def forget(self, tick: int) -> None:
        """No rollback goes back to this tick any more."""
        del self._states[tick]

    def _present(self) -> dict[str, Any]:
        return {"monitors": self.bank.state_dict(), "engine": self.engine.state_dict()}

    def _pass_to(self, tick: int) -> None:
        """Before anything of a later tick: keep how it stands, if the run will go back to here."""
        since = tick - 1 if self._tick is None else self._tick
        self._tick = tick
        marks = self._landmarks
        if marks and (passed := marks[bisect_left(marks, since) : bisect_left(marks, tick)]):
            self._states |= dict.fromkeys(passed, self._present())

    def _judge(self, sample: Sample) -> Turn:
        bank, engine = self.bank, self.engine
        if self._trying:  # also where the trial is none of this policy's: its arms are courses of their own
            bank.judge_step(sample)
            bank.update(sample)
            return Turn()
        said = engine.judge_step(sample, bank.judge_step(sample))
        self._held += filter(None, map(self._at_once, said.decisions))
        if self._held:
            for outcome in self._held:
                said.extend(engine.record(outcome))
            self._held.clear()
        said.extend(engine.tick(sample, bank.update(sample)))
        return said

    def _record(self, outcome: Outcome) -> Turn:
        flying, target = self.engine.in_flight, _target(outcome)
        own = flying is not None and flying.id == outcome.decision_id
        if target is None and not own:
            # A step is skipped before its sample is complete, so this outcome was written before the sample.
            self._held.append(outcome)
            return Turn()
        said = self.engine.record(outcome)
        if target is not None:
            if not own:
                said.extend(self.engine.command(Command.RESUME.value, outcome.tick))
            self.bank.load_state_dict(self._state(target, outcome.decision_id)["monitors"])
        return said

    def _go_back(self, event: WentBack) -> None:
        """The monitors go back; what they were until then is kept, since the trial may come back to it.

        Once the trial is over, its last tick stands for what the run goes on from.
        """
        self._pass_to(event.tick + 1)
        self.bank.load_state_dict(self._state(event.to, "a trial")["monitors"])
        self._trying = not event.for_good
        if event.for_good:
            self._tick = event.tick

    def _resume(self, tick: int) -> None:
        self._held.clear()
        self._trying = False
        if self.engine.policy is not self._policy:  # edited in the life before
            self.bank.take_specs(self._policy.monitors, self._policy.baselines)
            self.engine.take_policy(self._policy, tick)
        if self._tick is not None and tick >= self._tick:  # it ended right there
            self._pass_to(tick + 1)
        else:
            state = self._state(tick, "a new process")
            self.bank.load_state_dict(state["monitors"])
            self.engine.load_state_dict(state["engine"])
        self.engine.restarted(tick)
        self._tick = tick

    def _state(self, tick: int, who: str) -> dict[str, Any]:
        if tick not in self._states:
            raise ValueError(f"{who} goes back to tick {tick}, which was not replayed")
        return self._states[tick]


def replay(policy: Policy, events: Iterable[Event]) -> Turn:
    """Drive monitors and engine through recorded events; returns all that the engine said, in order.

    Args:
        policy: the policy to decide by.
        events: in the order in which they happened, without the samples that a rollback dropped.
            An applied rollback puts the monitors back to how they stood after the tick that its outcome
            tells as ``details["rollback"]["target_tick"]``.

    Raises:
        ValueError: for a rollback to a tick that is not among the samples before it.
    """
    recorded = list(events)
    replayed = Replay(policy, landmarks_of(recorded))
    said = Turn()
    for event in recorded:
        said.extend(replayed.take(event))
    return said


def landmarks_of(events: Iterable[Event]) -> set[int]:
    """The ticks that these events go back to. Samples do not matter for this and may be left out."""
    return {tick for event in events if (tick := _leads_to(event)) is not None}


def _leads_to(event: Event) -> int | None:
    if isinstance(event, WentBack):
        return event.to
    return event.tick if isinstance(event, Resumed) else _target(event)


def _target(event: Event) -> int | None:
    """The tick that an applied rollback went back to."""
    if not isinstance(event, Outcome) or event.status is not Status.APPLIED:
        return None
    tick: int | None = event.details.get("rollback", {}).get("target_tick")
    return tick
