"""From a document to a typed policy: all mistakes at once, each at its place."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace

from .document import MAX_CHARACTERS, Fault, Node, Place, PolicyError
from .extending import Source, read_layers
from .merging import merge
from .model import (
    CheckpointFormat,
    CheckpointPlan,
    LimitResponse,
    Limits,
    Mode,
    Policy,
    Quiet,
    SnapshotPlan,
    Store,
)
from .names import Signals
from .schema_monitors import monitors_schema, read_monitors
from .schema_regulators import read_regulators, regulators_schema
from .schema_rules import Surroundings, read_rules, rules_schema
from .shapes import Choice, Field, Later, Many, Name, OrNothing, Real, Record, Schema, Text, Whole
from .writing import write_document

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
_NOT_QUIET = Quiet()
_QUIET = Record(
    {"start": Field(Whole(0), _NOT_QUIET.start), "restart": Field(Whole(0), _NOT_QUIET.restart)},
    Quiet,
    prefix="quiet.",
)
# Brackets are left out of the form: they mark the instance in `source[code]`.
_SIGNAL = Name(
    re.compile(r"[A-Za-z_][\w./=@:-]*(\*[\w./=@:-]*)?").fullmatch, "the name of a signal, such as eval/loss"
)
_POLICY = Record(
    {
        "version": Field(Whole(VERSION, VERSION)),
        "extends": Field(Later("extends"), None),  # read before all else: what is here is merged already
        "mode": Field(Choice(Mode), Mode.ACT),
        "signals": Field(Many(_SIGNAL), ()),
        "snapshots": Field(_SNAPSHOTS, _PLAN),
        "checkpoints": Field(_CHECKPOINTS, _CHECKPOINT_PLAN),
        "monitors": Field(Later("monitors"), None),
        "regulators": Field(Later("regulators"), None),
        "rules": Field(Later("rules"), None),
        "limits": Field(OrNothing(_LIMITS), None),
        "quiet": Field(_QUIET, _NOT_QUIET),
    }
)


def build_policy(source: Source) -> Policy:
    """Read a policy and what it extends. Raises PolicyError with every mistake in them.

    Each policy of the chain is checked as it stands on what it extends, so that a mistake is told once and
    where it was made, though it shows in every policy above. What only goes wrong where another policy
    changes it is said so.
    """
    faults: list[Fault] = []
    layers = read_layers(source, faults)
    policy: Policy | None = None
    document: Node | None = None
    below: frozenset[str] = frozenset()
    for layer in reversed(layers):
        name, found = layer.source.name, list[Fault]()
        document = layer.document if document is None else merge(document, layer.document, found)
        policy = _build(document, found)
        faults += _new(found, name, [fault for fault in faults if fault.place.source in below])
        below |= {name}
    text = source.text
    if document is not None and len(layers) > 1 and not faults:
        text = write_document(document)
        if len(text) > MAX_CHARACTERS:
            faults.append(
                Fault(Place(), f"a policy has at most {MAX_CHARACTERS} characters, merged {len(text)}")
            )
    if policy is None or faults:
        raise PolicyError(source.name, faults)
    return replace(
        policy,
        text=text,
        source=source.name,
        files=tuple(layer.source.path for layer in layers if layer.source.path),
        extends=tuple(layer.source.name for layer in layers[1:]),
    )


def _new(found: Iterable[Fault], name: str, told: Collection[Fault]) -> Iterator[Fault]:
    """What is wrong with a policy besides what has been told of those that it extends."""
    messages = {fault.message for fault in told}
    for place, message in found:
        if place.source == name and message not in messages:
            yield Fault(place, message)
        elif place.source != name and not told:
            yield Fault(place, f"{message} (as {name} changes it)")


def _build(document: Node, faults: list[Fault]) -> Policy | None:
    """The policy that a document holds, but for where it comes from; None if there are faults."""
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
        quiet=values["quiet"],
        signals=values["signals"],
        baselines=tuple(
            sorted({name for rule in rules for read in rule.expressions for name in read.signals})
        ),
    )


def policy_schema() -> Schema:
    """The policy language as JSON Schema, still without words (``json_schema``)."""
    read_later = {"extends": OrNothing(Text()).schema(), "monitors": monitors_schema(), **rules_schema()}
    read_later["regulators"] = regulators_schema()
    return {**_POLICY.schema(), "$defs": read_later}
