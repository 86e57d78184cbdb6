"""A policy as typed values: what the schema builds and the engine reads.

Every duration is in ticks (optimizer steps as Midcourse sees them). Expressions are compiled already.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Any

from ..monitors.types import MonitorSpec
from .actions import Priority, priority_of
from .expressions import Expression
from .regulators.law import RegulatorSpec
from .types import Action, Reply

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
class Approval:
    """Acts of a rule wait until a person or a program says yes.

    Where nobody answers ``within`` so many ticks the answer is ``otherwise``. By default the wait is as long
    as snapshots reach by default, and silence is no consent.
    """

    within: int = 1000
    otherwise: Reply = Reply.NO


@dataclass(frozen=True, slots=True)
class Quiet:
    """Ticks in which rules only tell what they would do: from the run's ``start``, and after a ``restart``.

    A restart is a new process that goes on from a checkpoint. Skipping steps and recording are free of it.
    """

    start: int = 0
    restart: int = 0


@dataclass(frozen=True, slots=True)
class Rung:
    """What is done at one rung of a ladder: all of its actions as one act, in this order.

    ``judge`` is the number by which the arms of a trial are compared, where the rung is one.
    """

    actions: tuple[Action, ...]
    judge: Expression | None = None

    @property
    def priority(self) -> Priority:
        """That of its strongest action: which rule goes first when several fire at one tick."""
        return max(priority_of(action.name) for action in self.actions)

    def resolve(self, instance: str) -> tuple[Action, ...]:
        """Its actions with ``this`` replaced by the instance that the rule is judging."""
        resolved = ((action, _resolved(action.params, instance)) for action in self.actions)
        return tuple(
            action if params is action.params else replace(action, params=params)
            for action, params in resolved
        )


def _resolved(params: Mapping[str, Any], instance: str) -> Mapping[str, Any]:
    if "arms" in params:
        arms = {
            name: [[action, _resolved(own, instance)] for action, own in actions]
            for name, actions in params["arms"].items()
        }
        return {**params, "arms": arms}
    return {**params, "source": instance} if params.get("source") == THIS else params


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule. ``when`` fires it; each rung of ``ladder`` is tried before the next, stronger one.

    ``for_measurements`` is how many new measurements in a row ``when`` must hold. ``foreach`` names a
    wildcard monitor: the rule then lives once an instance, with a state, budget and cooldown of its own.
    While ``unless`` is true the rule pauses: it neither counts nor acts. Unknown does not make it pause.
    ``before_step`` says that ``when`` names nothing but monitors judged before ``optimizer.step()``,
    so the rule can still skip the step. ``mode`` OBSERVE records what it would do, and changes nothing.
    Of the rules that share an ``exclusive`` word, one is at work at a time: as long as it cools down, or the
    verdict of its act is open, the others wait. With ``approve`` its acts wait for a yes.
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
    exclusive: str | None = None
    approve: Approval | None = None

    @property
    def expressions(self) -> tuple[Expression, ...]:
        """All that it judges by."""
        return (
            self.when,
            *([self.unless] if self.unless else ()),
            *([self.verify.expect] if self.verify else ()),
            *(rung.judge for rung in self.ladder if rung.judge),
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
    expression reads, so that the run keeps statistics of them. ``text`` is the YAML as read, merged
    with what it extends, so that it can be read again without those files; ``source`` is where it came from.
    ``files`` are the absolute paths of all that it was read from, and ``extends`` the names of what it is
    built on, the nearest first.
    """

    version: int
    mode: Mode = Mode.ACT
    snapshots: SnapshotPlan = SnapshotPlan()
    checkpoints: CheckpointPlan = CheckpointPlan()
    monitors: tuple[MonitorSpec, ...] = ()
    rules: tuple[Rule, ...] = ()
    limits: Limits | None = None
    quiet: Quiet = Quiet()
    regulators: tuple[RegulatorSpec, ...] = ()
    signals: tuple[str, ...] = ()
    baselines: tuple[str, ...] = ()
    text: str = field(default="", repr=False)
    source: str = "<policy>"
    files: tuple[Path, ...] = ()
    extends: tuple[str, ...] = ()

    @property
    def tries(self) -> bool:
        """Whether some rung is a trial."""
        return any(rung.judge is not None for rule in self.rules for rung in rule.ladder)

    def reads(self, signal: str) -> bool:
        """Whether a monitor watches this signal, an expression reads it, or a regulator goes by it.

        Of a name that ends in a star any that begins so.
        """
        watched = [spec.params.get("signal") for spec in self.monitors]
        read = (*self.baselines, *watched, *(spec.signal for spec in self.regulators))
        if not signal.endswith("*"):
            return signal in read
        return any(name is not None and name.startswith(signal[:-1]) for name in read)
