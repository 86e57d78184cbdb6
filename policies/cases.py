"""Files that test a policy, ``*.test.yaml``: runs, written or recorded, and what is expected on them.

    policy: my-policy.yaml          # beside this file, or the bare name of a shipped policy
    tests:
      - name: a blow-up is taken back
        series: {loss: "2x300 9x40"}
        noise: 0.02
        decisions:
          - {tick: {from: 302, to: 310}, rule: off-course, rung: 0, actions: [rollback]}

Names follow Prometheus' unit tests of alerting rules, and so does the notation of ``series``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ..monitors.changes import MARK, MIX_PREFIX
from .actions import ACTIONS
from .document import Fault, Node, PolicyError, read_document, read_text
from .engine import Command
from .limits import LIMITS
from .loose_shapes import Anything, ByName, Either
from .model import Policy
from .names import Signals, nearest
from .policy import load_policy
from .replay import Commanded
from .series import Series, Written
from .shapes import (
    Choice,
    Field,
    Invalid,
    Many,
    Name,
    OneOf,
    OrNothing,
    Real,
    Record,
    Schema,
    Shape,
    Text,
    Whole,
)
from .simulated import EVERY
from .types import Disposition, Phase, Result, Status

SUFFIX = ".test.yaml"


class Span(NamedTuple):
    """Ticks from the one to the other, both included."""

    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Expected:
    """What is expected of one decision, verdict or phase (or what an act must be, for an outcome).

    ``wanted`` holds only the keys that were written; ``line`` is where.
    """

    line: int
    wanted: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Case:
    """One test. ``series`` or ``run`` says on what; what is None is not compared."""

    name: str
    line: int
    series: Mapping[str, Series] | None
    noise: float | Mapping[str, float]
    seed: int
    every: int
    outcomes: tuple[Expected, ...]
    commands: Mapping[int, list[Commanded]]
    run: str | None
    columns: Mapping[str, str]
    step: str | None
    decisions: tuple[Expected, ...] | None
    verdicts: tuple[Expected, ...] | None
    phases: tuple[Expected, ...] | None


@dataclass(frozen=True, slots=True)
class CaseFile:
    """A file of tests, with the policy that it tests."""

    path: Path
    policy: Policy
    cases: tuple[Case, ...] = field(repr=False)


def read_cases(path: Path) -> CaseFile:
    """Read a file of tests and the policy that it names.

    Raises:
        PolicyError: with every mistake of the file, and of its policy.
    """
    faults: list[Fault] = []
    document = read_document(read_text(path), faults)
    policy: Policy | None = None
    values: dict[str, Any] = {}
    if document is not None:
        policy = _policy(document, path.parent, faults)
        values, own = _file(policy).collect(document, "a file of tests")
        faults += own + _repeated(document)
    if policy is None or faults:
        raise PolicyError(str(path), faults)
    return CaseFile(path, policy, values["tests"])


def cases_schema() -> Schema:
    """The language of these files as JSON Schema, still without words (``json_schema``)."""
    return _file(None).schema()


def _policy(document: Node, folder: Path, faults: list[Fault]) -> Policy | None:
    """The policy under test, if it can be read."""
    node = document.entries["policy"].node if document.entries and "policy" in document.entries else None
    if node is None or not isinstance(node.value, str) or not node.value:
        return None  # which the table tells
    try:
        beside = folder / node.value
        return load_policy(beside if beside.is_file() or node.value.endswith(".yaml") else node.value)
    except PolicyError as error:
        faults += [Fault(node.place, f"the policy cannot be used: {each}") for each in error.problems]
        return None


def _repeated(document: Node) -> list[Fault]:
    """Tests of the same name: a person who reads that one failed is to know which."""
    tests = document.entries["tests"].node.items if document.entries and "tests" in document.entries else None
    lines: dict[str, int] = {}
    faults = []
    for name in [
        node.entries["name"].node for node in tests or () if node.entries and "name" in node.entries
    ]:
        line = lines.setdefault(name.text, name.place.line)
        if line != name.place.line:
            faults.append(Fault(name.place, f"the test in line {line} has the same name"))
    return faults


def _file(policy: Policy | None) -> Record:
    """The shape of a file. Of an unknown policy, every name of a rule or a signal is taken for right."""
    return Record({"policy": Field(Text()), "tests": Field(Many(_Case(policy), least=1))})


def _case(policy: Policy | None) -> Record:
    rule: Shape = Text() if policy is None else OneOf([*(each.name for each in policy.rules), LIMITS])
    whose = {"rule": Field(rule, None), "instance": Field(_INSTANCE, None)}
    when = {"tick": Field(Either(Whole(0), _SPAN), None), **whose}
    rung, reason = Field(Whole(0), None), Field(Text(), None)
    outcome = {**when, "rung": rung, "status": Field(Choice(Status)), "reason": Field(Text(), "the test")}
    decision = {
        **when,
        "step": Field(Whole(0), None),
        "disposition": Field(Choice(Disposition), None),
        "rung": rung,
        "actions": Field(_ACTIONS, None),
        "reason": reason,
    }
    verdict = {**when, "result": Field(Choice(Result), None), "reason": reason}
    phase = {**whose, "tick": Field(Whole(0)), "rule": Field(rule), "phase": Field(Choice(Phase))}
    command = {
        "tick": Field(Whole(1)),
        "command": Field(_COMMAND),
        "decision": Field(OrNothing(Text()), None),
    }
    signals = Signals(policy.signals) if policy is not None else None

    def objection(name: str) -> str | None:
        return _objection(name, signals)

    return Record(
        {
            "name": Field(Text()),
            "series": Field(ByName(Written(), objection), None),
            "noise": Field(Either(Real(0), ByName(Real(0))), 0.0),
            "seed": Field(Whole(0), 0),
            "snapshots": Field(_SNAPSHOTS, EVERY),
            "outcomes": Field(Many(_Expected(Record(outcome))), ()),
            "commands": Field(Many(Record(command, _commanded, _objection_to_command)), ()),
            "run": Field(Text(), None),
            "columns": Field(ByName(Text(), objection), {}),
            "step": Field(Text(), None),
            "decisions": Field(Many(_Expected(Record(decision))), None),
            "verdicts": Field(Many(_Expected(Record(verdict))), None),
            "phases": Field(Many(_Expected(Record(phase))), None),
        },
        check=_contradiction,
    )


_INSTANCE = Name(str.isprintable, "text")  # that of a rule without foreach is empty
# To go on in a new process is something that happens to a run, and nothing that it is told.
_COMMAND = OneOf([each.value for each in Command if each is not Command.RESUME])


_ANSWERS = (Command.APPROVE.value, Command.REJECT.value)


def _commanded(tick: int, command: str, decision: str | None) -> Commanded:
    return Commanded(command, tick, decision or "", "the test")


def _objection_to_command(values: Mapping[str, Any]) -> str | None:
    if (values["command"] in _ANSWERS) != (values["decision"] is not None):
        return "a command needs the 'decision' that it answers, if it is approve or reject, and only then"
    return None


def _no_action(name: str) -> str | None:
    return None if name in ACTIONS else f"there is no action '{name}'{nearest(name, ACTIONS)}"


_SPAN = Record(
    {"from": Field(Whole(0)), "to": Field(Whole(0))},
    lambda **ends: Span(ends["from"], ends["to"]),
    lambda ends: "tick.to comes before tick.from" if ends["to"] < ends["from"] else None,
    prefix="tick.",
)
_ACTIONS = Many(Either(OneOf(ACTIONS), ByName(OrNothing(ByName(Anything())), _no_action, count=1)))
_SNAPSHOTS = Record({"every": Field(Whole(1))}, lambda every: every, prefix="snapshots.")


def _objection(name: str, signals: Signals | None) -> str | None:
    if "*" in name:
        return f"a series is of one signal, and '{name}' has a star"
    told = name == MARK or name.startswith((f"{MARK}/", MIX_PREFIX))  # words of the run, not measurements
    return None if signals is None or told or name in signals else signals.unknown(name)


def _contradiction(values: Mapping[str, Any]) -> str | None:
    if (values["series"] is None) == (values["run"] is None):
        return "a test needs either 'series' or 'run'"
    if values["series"] is not None and not any(values["series"].values()):
        return "a test needs a series that is not empty"
    idle = ("columns", "step") if values["run"] is None else ("noise", "outcomes", "commands")
    written = [key for key in idle if values[key]]
    if written:
        return f"'{written[0]}' is for {'recorded runs' if values['run'] is None else 'series'}"
    if values["decisions"] is values["verdicts"] is values["phases"] is None:
        return "a test expects nothing: it needs 'decisions', 'verdicts' or 'phases'"
    return None


@dataclass(frozen=True, slots=True)
class _Expected:
    """The shape of something expected: what was written of a record, and where."""

    record: Record

    def read(self, node: Node, name: str) -> Expected:
        """What was written."""
        values = self.record.read(node, name)
        return Expected(node.place.line, {key: value for key, value in values.items() if value is not None})

    def schema(self) -> Schema:
        """The record's."""
        return self.record.schema()


@dataclass(frozen=True, slots=True)
class _Case:
    """The shape of a test."""

    policy: Policy | None

    def read(self, node: Node, name: str) -> Case:
        """The test. Its mistakes are told under its name."""
        named = (node.entries or {}).get("name")
        values, faults = _case(self.policy).collect(node, "a test")
        if faults:
            called = f"test '{named.node.text}': " if named else ""
            raise Invalid([Fault(place, called + message) for place, message in faults])
        commands: dict[int, list[Commanded]] = {}
        for each in values["commands"]:
            commands.setdefault(each.tick, []).append(each)
        return Case(
            line=node.place.line,
            every=values.pop("snapshots"),
            **{**values, "commands": commands},
        )

    def schema(self) -> Schema:
        """The table's."""
        return _case(self.policy).schema()
