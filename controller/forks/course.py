"""The course of a run over all its process lives, as its journal tells it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import chain
from typing import NamedTuple

from ...monitors.types import Sample
from ...policies.amendments import NONE_AMENDED, Amendments
from ...policies.types import Decision, Outcome, Status, Verdict
from ..journal.reader import JournalReader
from ..journal.tables import Attempt
from ..recorded.journal_runs import amended_by
from .order import ForkOrder


class Ending(Enum):
    """How a run stands."""

    RUNNING = "running"
    ENDED = "ended"
    STOPPED = "stopped"
    DIED = "died"


class Span(NamedTuple):
    """One process life of a run, and the ticks of it that the run's course is made of: after, until."""

    life: Attempt
    after: int
    until: float

    def holds(self, tick: int) -> bool:
        """Whether a tick is of this life."""
        return self.after < tick <= self.until


@dataclass(frozen=True, slots=True)
class Course:
    """What a run did after some tick; what a later process life did anew is told once, as it was at last.

    ``stopped`` is the decision that stopped it, ``horizon`` the step at which it was to end, if known.
    """

    path: str
    ending: Ending
    samples: Sequence[Sample]
    decisions: Sequence[Decision]
    outcomes: Mapping[str, Outcome]
    verdicts: Mapping[str, Verdict]
    policy_text: str
    seconds: float
    stopped: str | None
    horizon: int | None

    @property
    def last_step(self) -> int | None:
        """The step at which it ended, or has come to; None without a sample."""
        return self.samples[-1].step if self.samples else None


def spans_of(reader: JournalReader) -> list[Span]:
    """The process lives that led to where the run is now: those since it last began at the start."""
    began: list[tuple[Attempt, int]] = []
    for life in reader.attempts():
        resumed = [event.tick for event in reader.events(life.number) if event.kind == "resumed"]
        if not resumed:
            began.clear()
        began.append((life, resumed[0] if resumed else 0))
    found: list[Span] = []
    until = float("inf")
    for life, after in reversed(began):
        found.append(Span(life, after, until))
        until = min(until, after)  # a later one may have gone back to before this one began
    return found[::-1]


def decisions_of(reader: JournalReader, spans: Sequence[Span]) -> list[Decision]:
    """The decisions on the course, in order."""
    return [each for span in spans for each in reader.decisions(span.life.number) if span.holds(each.tick)]


def amendments_of(reader: JournalReader, spans: Sequence[Span]) -> Amendments:
    """What the run's last life was made to decide otherwise, if it is itself a fork."""
    return amended_by(reader.events(spans[-1].life.number)) if spans else NONE_AMENDED


def order_of(reader: JournalReader) -> ForkOrder | None:
    """What was asked of a fork, from its own journal; None: it is none."""
    told = [event.detail for event in reader.events() if event.kind == "fork"]
    return ForkOrder.from_json(told[-1]) if told else None


def read_course(reader: JournalReader, path: str, after: int) -> Course:
    """The course of a run after a tick. Raises JournalError."""
    spans = spans_of(reader)
    decisions = [each for each in decisions_of(reader, spans) if each.tick > after]
    samples = [
        sample
        for span in spans
        if span.until > after
        for sample in reader.samples(span.life.number)
        if span.holds(sample.tick) and sample.tick > after
    ]
    ids = {each.id for each in decisions}
    outcomes = {each.decision_id: each for span in spans for each in reader.outcomes(span.life.number)}
    verdicts = {each.decision_id: each for span in spans for each in reader.verdicts(span.life.number)}
    stopped = [
        each.id
        for each in decisions
        if any(action.name == "stop" for action in each.actions)
        and each.id in outcomes
        and outcomes[each.id].status is Status.APPLIED
    ]
    horizons = [
        event.detail.get("horizon")
        for event in chain.from_iterable(reader.events(span.life.number) for span in spans)
        if event.kind == "plan"
    ]
    last = spans[-1].life if spans else None
    return Course(
        path=path,
        ending=_ending(reader, last, bool(stopped)),
        samples=samples,
        decisions=decisions,
        outcomes={id: each for id, each in outcomes.items() if id in ids},
        verdicts={id: each for id, each in verdicts.items() if id in ids},
        policy_text="" if last is None else last.policy_text,
        seconds=sum(span.life.ended - span.life.started for span in spans[-1:] if span.life.ended),
        stopped=stopped[-1] if stopped else None,
        horizon=horizons[-1] if horizons else None,
    )


def _ending(reader: JournalReader, last: Attempt | None, stopped: bool) -> Ending:
    if reader.running:
        return Ending.RUNNING
    if last is None or last.ended is None:
        return Ending.DIED
    return Ending.STOPPED if stopped else Ending.ENDED
