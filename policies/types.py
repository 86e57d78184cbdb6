"""What the engine says and hears: actions, decisions, outcomes, verdicts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any

Facts = Mapping[str, Mapping[str, float]]
"""Readings as plain numbers: ``facts["loss"]["level"]``. Instances are ``name[instance]``."""


class Phase(Enum):
    """Where a rule (or one instance of it) stands."""

    INACTIVE = "inactive"
    PENDING = "pending"
    FIRING = "firing"
    COOLDOWN = "cooldown"
    EXHAUSTED = "exhausted"


class Disposition(Enum):
    """What becomes of a decision."""

    ACT = "act"
    OBSERVE = "observe"
    AWAITING_APPROVAL = "awaiting_approval"
    SUPPRESSED = "suppressed"


class Reply(Enum):
    """What came of a decision that waited for approval. LAPSED: what it was about is over."""

    YES = "yes"
    NO = "no"
    LAPSED = "lapsed"


class Status(Enum):
    """What became of an act. APPLIED means read back, not "no exception"."""

    APPLIED = "applied"
    REFUSED = "refused"
    FAILED = "failed"


class Result(Enum):
    """Whether an applied act helped."""

    HELPED = "helped"
    DID_NOT_HELP = "did_not_help"
    INCONCLUSIVE = "inconclusive"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Action:
    """One action of a rung, its parameters complete and resolved (``this`` is a source's name)."""

    name: str
    params: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Decision:
    """What a rule decided at a tick, with its evidence.

    ``id`` is a function of rule, instance and tick, so a re-execution never counts twice.
    ``onset`` is the tick at which the change began less the detector's lateness, or what is taken back; None
    if unknown.
    ``facts`` are all readings when it was taken (``before.*`` of a verification).
    ``reason`` says in words why it fired, or why it was suppressed.
    """

    id: str
    rule: str
    instance: str
    tick: int
    step: int
    branch: int
    disposition: Disposition
    rung: int
    actions: tuple[Action, ...]
    onset: int | None
    reason: str
    facts: Facts = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """All of it, as what ``json.dumps`` accepts."""
        state = asdict(self)
        return {**state, "disposition": self.disposition.value, "actions": list(state["actions"])}

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> Decision:
        """The inverse of ``to_json``."""
        actions = tuple(Action(**action) for action in state["actions"])
        return cls(**{**state, "disposition": Disposition(state["disposition"]), "actions": actions})


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a decision; ``facts`` are the readings at the rollback's target, if there was one.

    ``details`` is JSON for people and programs: what was read back, which batches were left out.
    """

    decision_id: str
    status: Status
    tick: int
    reason: str = ""
    facts: Facts = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether an act helped, with the numbers that the expectation compared."""

    decision_id: str
    result: Result
    tick: int
    reason: str = ""
    numbers: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a decision that waited for approval, and by whom, or why."""

    decision_id: str
    reply: Reply
    tick: int
    by: str = ""


@dataclass(frozen=True, slots=True)
class PhaseChange:
    """A rule, or one instance of it, went from one phase to another at a tick."""

    tick: int
    rule: str
    instance: str
    before: Phase
    after: Phase


@dataclass(slots=True)
class Turn:
    """What the engine said at one call: to be journalled and, where a decision is to ACT, carried out.

    A decision that waited for approval comes twice, with the same id: when it asks, and to ACT after a yes.
    """

    decisions: list[Decision] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    phases: list[PhaseChange] = field(default_factory=list)

    def extend(self, other: Turn) -> None:
        """Append what was said at a later call."""
        self.decisions += other.decisions
        self.verdicts += other.verdicts
        self.answers += other.answers
        self.phases += other.phases
