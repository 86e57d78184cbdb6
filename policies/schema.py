"""From a document to a typed policy: all mistakes at once, each at its place."""

from __future__ import annotations

import re

from .document import Fault, Node, PolicyError, read_document
from .model import CheckpointFormat, CheckpointPlan, LimitResponse, Limits, Mode, Policy, SnapshotPlan, Store
from .names import Signals
from .schema_monitors import read_monitors
from .schema_regulators import read_regulators
from .schema_rules import Surroundings, read_rules
from .shapes import Choice, Field, Later, Many, Name, OrNothing, Real, Record, Whole

VERSION = 1
"""Of the policy language."""

_PLAN = SnapshotPlan()
_SNAPSHOTS = Record(
    {
        "keep": Field(Whole(0, 1000), _PLAN.keep),
        "reach": Field(Whole(1), _PLAN.reach),
        "max_overhead": Field(Real(0, 1, is_open=True), _PLAN.max_overhead),
        "every": Field(OrNothing(Whole(1)), _PLAN.every),
        "store": Field(Choice(Store), _PLAN.store),
    },
    SnapshotPlan,
    prefix="snapshots.",
)
_CHECKPOINT_PLAN = CheckpointPlan()
_CHECKPOINTS = Record(
    {
        "every": Field(OrNothing(Whole(1)), _CHECKPOINT_PLAN.every),
        "keep": Field(Whole(1, 1000), _CHECKPOINT_PLAN.keep),
        "format": Field(Choice(CheckpointFormat), _CHECKPOINT_PLAN.format),
    },
    CheckpointPlan,
    prefix="checkpoints.",
)
_LIMITS = Record(
    {
        "acts": Field(Whole(1)),
        "per": Field(Whole(1)),
        "then": Field(Choice(LimitResponse), LimitResponse.OBSERVE),
    },
    Limits,
    prefix="limits.",
)
# Brackets are left out of the form: they mark the instance in `source[code]`.
_SIGNAL = Name(
    re.compile(r"[A-Za-z_][\w./=@:-]*(\*[\w./=@:-]*)?").fullmatch, "the name of a signal, such as eval/loss"
)
_POLICY = Record(
    {
        "version": Field(Whole(VERSION, VERSION)),
        "mode": Field(Choice(Mode), Mode.ACT),
        "signals": Field(Many(_SIGNAL), ()),
        "snapshots": Field(_SNAPSHOTS, _PLAN),
        "checkpoints": Field(_CHECKPOINTS, _CHECKPOINT_PLAN),
        "monitors": Field(Later(), None),
        "regulators": Field(Later(), None),
        "rules": Field(Later(), None),
        "limits": Field(OrNothing(_LIMITS), None),
    }
)


def build_policy(text: str, source: str) -> Policy:
    """Read a policy from its YAML text. Raises PolicyError with every mistake in it."""
    faults: list[Fault] = []
    document = read_document(text, faults)
    policy = _build(document, text, source, faults) if document else None
    if policy is None or faults:
        raise PolicyError(source, faults)
    return policy


def _build(document: Node, text: str, source: str, faults: list[Fault]) -> Policy | None:
    values, own = _POLICY.collect(document, "the policy")
    faults += own
    signals = Signals(values.get("signals", ()))
    monitors = read_monitors(values.get("monitors"), signals, faults)
    around = Surroundings(signals, monitors, values.get("snapshots", _PLAN))
    rules = read_rules(values.get("rules"), around, faults)
    regulators = read_regulators(values.get("regulators"), signals, faults)
    if faults:
        return None
    return Policy(
        version=values["version"],
        mode=values["mode"],
        snapshots=values["snapshots"],
        checkpoints=values["checkpoints"],
        monitors=tuple(monitor.spec for monitor in monitors.values() if monitor.spec),
        rules=rules,
        regulators=regulators,
        limits=values["limits"],
        signals=values["signals"],
        baselines=tuple(
            sorted({name for rule in rules for read in rule.expressions for name in read.signals})
        ),
        text=text,
        source=source,
    )
