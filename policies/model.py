"""A policy as typed values: what the schema builds and the engine reads.

Every duration is in ticks (optimizer steps as Midcourse sees them). Expressions are compiled already.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum

from ..monitors.types import MonitorSpec
from .actions import Priority, priority_of
from .expressions import Expression
from .regulators.law import RegulatorSpec
from .types import Action

THIS = "this"
"""In a ``foreach`` rule: the instance that it is judging, as in ``reweight: {source: this}``."""


class Mode(Enum):
    """Whether decisions change the run, or are only recorded."""

    ACT = "act"
    OBSERVE = "observe"


class LimitResponse(Enum):
    """What happens when all rules together have used up the policy's ``limits``."""

    OBSERVE = "observe"
    STOP = "stop"


class Store(Enum):
    """Where snapshots lie: in the host's memory, or on the device beside what they are copies of."""

    HOST = "host"
    DEVICE = "device"


@dataclass(frozen=True, slots=True)
class SnapshotPlan:
    """How the ring of snapshots is kept. ``keep: 0`` takes none, and no rule may then roll back.

    ``reach`` is how far back, in ticks, the oldest of ``keep`` snapshots lies: slow drift is found after
    some 300 ticks, so 1000 leaves room. ``max_overhead`` is the share of run time that taking
    them may cost; the cadence follows from it and the measured cost, unless ``every`` fixes it. ``store`` is
    the host unless said otherwise: a device's memory is the scarcer.
    """

    keep: int = 6
    reach: int = 1000
    max_overhead: float = 0.01
    every: int | None = None
    store: Store = Store.HOST


class CheckpointFormat(Enum):
    """Who writes a durable checkpoint's tensors."""

    MIDCOURSE = "midcourse"
    ACCELERATE = "accelerate"


@dataclass(frozen=True, slots=True)
class CheckpointPlan:
    """Which durable checkpoints are written besides those that an act asks for.

    ``every`` is in ticks (None: none are); ``keep`` is how many of them stay, the newest good one besides.
    ``format`` ACCELERATE has ``accelerator.save_state`` write them, which the training waits for; a run is
    resumed from them, and no rollback returns to one.
    """

    every: int | None = None
    keep: int = 3
    format: CheckpointFormat = CheckpointFormat.MIDCOURSE


@dataclass(frozen=True, slots=True)
class Budget:
    """At most ``acts`` in any window of ``per`` ticks, and ``max`` in the whole run (None: no such bound)."""

    acts: int
    per: int
    max: int | None = None


DEFAULT_BUDGET = Budget(acts=3, per=5000, max=10)
"""Of a rule that names none: nobody who forgot a budget gets a rule that acts without end."""


@dataclass(frozen=True, slots=True)
class Verify:
    """How an act is verified: ``expect`` is judged ``within`` ticks after it was applied."""

    within: int
    expect: Expression


@dataclass(frozen=True, slots=True)
class Rung:
    """What is done at one rung of a ladder: all of its actions as one act, in this order."""

    actions: tuple[Action, ...]

    @property
    def priority(self) -> Priority:
        """That of its strongest action: which rule goes first when several fire at one tick."""
        return max(priority_of(action.name) for action in self.actions)

    def resolve(self, instance: str) -> tuple[Action, ...]:
        """Its actions with ``this`` replaced by the instance that the rule is judging."""
        return tuple(
            replace(action, params={**action.params, "source": instance})
            if action.params.get("source") == THIS
            else action
            for action in self.actions
        )


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule. ``when`` fires it; each rung of ``ladder`` is tried before the next, stronger one.

    ``for_measurements`` is how many new measurements in a row ``when`` must hold. ``foreach`` names a
    wildcard monitor: the rule then lives once an instance, with a state, budget and cooldown of its own.
    While ``unless`` is true the rule pauses: it neither counts nor acts. Unknown does not make it pause.
    ``before_step`` says that ``when`` names nothing but monitors judged before ``optimizer.step()``,
    so the rule can still skip the step. ``mode`` OBSERVE records what it would do, and changes nothing.
    """

    name: str
    when: Expression
    ladder: tuple[Rung, ...]
    foreach: str | None = None
    for_measurements: int = 1
    cooldown: int = 0
    budget: Budget = DEFAULT_BUDGET
    verify: Verify | None = None
    unless: Expression | None = None
    mode: Mode = Mode.ACT
    before_step: bool = False

    @property
    def expressions(self) -> tuple[Expression, ...]:
        """All that it judges by."""
        return (
            self.when,
            *([self.unless] if self.unless else ()),
            *([self.verify.expect] if self.verify else ()),
        )


@dataclass(frozen=True, slots=True)
class Limits:
    """A bound on the acts of all rules together: at most ``acts`` in any ``per`` ticks, ``then`` this."""

    acts: int
    per: int
    then: LimitResponse = LimitResponse.OBSERVE


@dataclass(frozen=True, slots=True)
class Policy:
    """A checked policy.

    ``signals`` are those that the user logs; ``baselines`` the signals whose level, noise or z some
    expression reads, so that the run keeps statistics of them. ``text`` is the YAML as read,
    and ``source`` where it came from, for the journal.
    """

    version: int
    mode: Mode = Mode.ACT
    snapshots: SnapshotPlan = SnapshotPlan()
    checkpoints: CheckpointPlan = CheckpointPlan()
    monitors: tuple[MonitorSpec, ...] = ()
    rules: tuple[Rule, ...] = ()
    limits: Limits | None = None
    regulators: tuple[RegulatorSpec, ...] = ()
    signals: tuple[str, ...] = ()
    baselines: tuple[str, ...] = ()
    text: str = field(default="", repr=False)
    source: str = "<policy>"

    def reads(self, signal: str) -> bool:
        """Whether a monitor watches this signal, an expression reads it, or a regulator goes by it."""
        watched = [spec.params.get("signal") for spec in self.monitors]
        return signal in (*self.baselines, *watched, *(spec.signal for spec in self.regulators))
