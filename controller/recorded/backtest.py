"""What a policy would have done on a run that already happened, and how far that can be believed.

The policy is replayed on what the run measured. As long as it takes the acts that the run took, and no
others, the run is what this policy would have made of it, outcomes and verdicts included. At the first act
that differs the two part: from there on the policy only watches a run that took another course, and nothing
that it decides later is evidence of what it would have done.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, zip_longest
from typing import NamedTuple

from ...monitors.types import Health, Sample
from ...policies.actions import Priority, priority_of
from ...policies.amendments import NONE_AMENDED
from ...policies.judging import Alarms
from ...policies.model import Mode, Policy
from ...policies.replay import Commanded, Event, PolicyEdited, Replay
from ...policies.types import Action, Decision, Disposition, Outcome, PhaseChange, Status, Turn, Verdict
from .needs import Missing, Needs
from .recording import Chapter, Recording, RecordingError


class Alarm(NamedTuple):
    """A monitor turned bad."""

    tick: int
    step: int
    monitor: str
    instance: str
    health: Health
    onset: int | None
    reason: str


@dataclass(frozen=True, slots=True)
class Difference:
    """The first act that policy and run do not share: the policy's own, or one of the run."""

    tick: int
    act: Decision
    by_policy: bool


@dataclass(frozen=True, slots=True)
class Comparison:
    """Whether a policy replayed on its own run came to the journal's decisions and verdicts.

    Where it did not, the first that differs: as the replay has it and as the journal has it, None where only
    the other has one.
    """

    identical: bool
    replayed: Decision | Verdict | None = None
    journalled: Decision | Verdict | None = None


@dataclass(slots=True)
class Course:
    """How the policy fared on one process life of the run; all is evidence without a ``difference``."""

    number: int
    resumed: int | None
    ticks: array[int] = field(default_factory=lambda: array("q"))
    steps: array[int] = field(default_factory=lambda: array("q"))
    decisions: list[Decision] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    phases: list[PhaseChange] = field(default_factory=list)
    alarms: list[Alarm] = field(default_factory=list)
    difference: Difference | None = None
    comparison: Comparison | None = None

    def is_evidence(self, tick: int) -> bool:
        """Whether what was decided at a tick tells what the policy would have done."""
        return self.difference is None or tick <= self.difference.tick

    def place_of(self, tick: int) -> int:
        """How many samples came before a tick."""
        return bisect_left(self.ticks, tick)

    def step_at(self, tick: int) -> int | None:
        """The training step of a tick, or of the next that was measured; None after the last."""
        place = self.place_of(tick)
        return self.steps[place] if place < len(self.ticks) else None


@dataclass(frozen=True, slots=True)
class Backtest:
    """All that a policy did on one run.

    ``missing`` are the signals that it reads and the run never measured; ``blind`` the monitors that could
    see nothing for that, and ``dead`` the rules that cannot have fired.
    """

    recording: Recording
    courses: tuple[Course, ...]
    missing: tuple[Missing, ...]
    blind: frozenset[str]
    dead: frozenset[str]

    @property
    def samples(self) -> int:
        """How many samples it saw."""
        return sum(len(course.ticks) for course in self.courses)


def backtest(policy: Policy, recording: Recording) -> Backtest:
    """Try a policy on a recorded run.

    A policy in observe mode is tried as if it acted, unless the run was under this very policy.

    Raises:
        RecordingError: the run goes back to where its recording does not reach.
    """
    if all(chapter.policy_text != policy.text for chapter in recording.chapters):
        policy = replace(policy, mode=Mode.ACT)
    watched = frozenset(spec.name for spec in policy.monitors)
    replay = Replay(policy, recording.landmarks)
    courses: list[Course] = []
    for chapter in recording.chapters:
        if chapter.resumed is None:
            replay = Replay(policy, recording.landmarks)
        # Another policy is asked what it would do: what this one was kept from says nothing of that.
        replay.amend(chapter.amendments if chapter.policy_text == policy.text else NONE_AMENDED)
        course = Course(chapter.number, chapter.resumed)
        if courses and chapter.resumed is not None and not courses[-1].is_evidence(chapter.resumed + 1):
            course.difference = courses[-1].difference
        try:
            _follow(policy, chapter, replay, course, watched)
        except ValueError as error:
            raise RecordingError([f"{recording.name}: {error}"]) from None
        own = chapter.policy_text == policy.text and (
            chapter.resumed is None or (bool(courses) and courses[-1].comparison is not None)
        )
        if own and chapter.whole:
            course.comparison = _compare(chapter, course)
        courses.append(course)
    needs, measured = Needs(policy), recording.signals
    missing = tuple(needs.missing(measured))
    return Backtest(recording, tuple(courses), missing, needs.blind(measured), needs.dead(measured))


def _follow(
    policy: Policy, chapter: Chapter, replay: Replay, course: Course, watched: frozenset[str]
) -> None:
    alarms, bank = Alarms(replay.bank), replay.bank
    parting = _Parting(policy, chapter)
    said: set[str] = set()
    for event in chapter.events():
        if chapter.policy_text != policy.text and not _told_to(replay, event):
            continue
        turn = replay.take(event)
        if isinstance(event, Sample):
            course.ticks.append(event.tick)
            course.steps.append(event.step)
            if bank.news:
                bank.news = False
                course.alarms += [
                    Alarm(
                        event.tick, event.step, name, instance, reading.health, reading.onset, reading.reason
                    )
                    for name, instance, reading in alarms.begun()
                    if name in watched
                ]
            if course.difference is None:
                course.difference = parting.at(event.tick, turn)
                if course.difference is not None:
                    turn.extend(replay.dismiss(event.tick))
            turn.extend(_record_only(replay, parting))
        for decision in turn.decisions:  # one that waited for approval comes again when it is taken
            if decision.id not in said:
                said.add(decision.id)
                course.decisions.append(decision)
        course.verdicts += turn.verdicts
        course.phases += turn.phases


def _told_to(replay: Replay, event: Event) -> bool:
    """Whether what was told to a run counts for another policy: only an answer to what it asks too."""
    if isinstance(event, Commanded):
        return any(decision.id == event.subject for decision in replay.engine.waiting)
    return not isinstance(event, PolicyEdited)


class _Parting:
    """Finds where the policy and the run part: what either did, tick by tick, against what the other did."""

    def __init__(self, policy: Policy, chapter: Chapter) -> None:
        self._dry = policy.mode is Mode.OBSERVE
        self._observers = frozenset(rule.name for rule in policy.rules if rule.mode is Mode.OBSERVE)
        self._acts = {
            each.id: each
            for each in chapter.decisions
            if each.disposition is Disposition.ACT or each.id in chapter.approved
        }
        done = [act for act in self._acts.values() if act.id in chapter.applied and _steers(act.actions)]
        self._done = deque(sorted((chapter.approved.get(act.id, act.tick), act.id) for act in done))

    def shares(self, decision: Decision) -> bool:
        """Whether the run decided on the same act."""
        its = self._acts.get(decision.id)
        return its is not None and its.actions == decision.actions

    def at(self, tick: int, turn: Turn) -> Difference | None:
        """What differs at this tick, once the policy has said what it does."""
        own = {each.id: each for each in turn.decisions if self._would_act(each)}
        for decision in own.values():
            if not self.shares(decision):
                return Difference(tick, decision, by_policy=True)
        while self._done and self._done[0][0] <= tick:
            taken, id = self._done.popleft()
            if id not in own:
                return Difference(taken, self._acts[id], by_policy=False)
        return None

    def _would_act(self, decision: Decision) -> bool:
        acts = decision.disposition is Disposition.ACT or (
            self._dry and decision.disposition is Disposition.OBSERVE and decision.rule not in self._observers
        )
        return acts and _steers(decision.actions)


def _record_only(replay: Replay, parting: _Parting) -> Turn:
    """What the policy only records (``notify``, ``checkpoint``) is as good as done, if the run did not."""
    act = replay.engine.in_flight
    if act is None or _steers(act.actions) or parting.shares(act):
        return Turn()
    return replay.take(Outcome(act.id, Status.APPLIED, act.tick))


def _steers(actions: Sequence[Action]) -> bool:
    """Whether any of these actions changes a run, and be it by one batch."""
    return any(priority_of(action.name) is not Priority.RECORD for action in actions)


def _compare(chapter: Chapter, course: Course) -> Comparison:
    """The replay's decisions and verdicts beside the journal's, as far as the journal has samples."""
    last = course.ticks[-1] if course.ticks else -1
    decided = [each for each in chapter.decisions if each.tick <= last]
    judged = [each for each in chapter.verdicts if each.tick <= last]
    for ours, theirs in chain(zip_longest(course.decisions, decided), zip_longest(course.verdicts, judged)):
        if ours != theirs:
            return Comparison(False, ours, theirs)
    return Comparison(True)
