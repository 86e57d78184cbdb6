"""What the journal holds: one table for each kind of entry, and how an entry becomes a row.

Every row carries ``seq``, one rising number over all tables, so the order in which things were said is
kept between kinds too. Samples have no time of their own: a tick costs under a hundred bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import nan
from typing import Any

from ...monitors.types import Health, Reading, Sample
from ...policies.types import (
    Action,
    Decision,
    Disposition,
    Outcome,
    Phase,
    PhaseChange,
    Result,
    Status,
    Verdict,
)
from .codec import as_float, as_text, dump_json, load_json

APPLICATION_ID = 0x4D444353
"""Marks the file as a journal of Midcourse, in SQLite's header ("MDCS")."""

SCHEMA_VERSION = 2
"""Goes up when the tables change; a newer file is refused with a message, an older one read as it is."""

UPGRADES = {1: ("ALTER TABLE transition ADD COLUMN extra",)}
"""By the version that it has: what makes a file of one that is older, before it is written to."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One process life. ``ended`` is the time it closed the journal, None if it runs still or was killed."""

    number: int
    started: float
    ended: float | None
    argv: tuple[str, ...]
    policy_text: str
    policy_source: str
    mode: str
    versions: Mapping[str, str]
    facts: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Transition:
    """A monitor's health changed; ``before`` is None at its first reading."""

    tick: int
    step: int
    branch: int
    monitor: str
    instance: str
    before: Health | None
    reading: Reading


@dataclass(frozen=True, slots=True)
class Event:
    """Anything else worth keeping: start report, mode change, error, command, stop."""

    kind: str
    tick: int
    detail: Mapping[str, Any]


Item = Sample | Transition | PhaseChange | Decision | Outcome | Verdict | Event


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry with its place: ``seq`` orders all kinds, ``time`` is in Unix seconds (NaN for samples)."""

    seq: int
    attempt: int
    time: float
    item: Item


Row = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """A table's name and columns (after seq, attempt, time), and both ways between item and row."""

    name: str
    columns: str
    to_row: Callable[[Any], Row]
    from_row: Callable[[Row], Item]

    @property
    def insert(self) -> str:
        """The statement that adds a row; a repeated decision is left as it was first written."""
        marks = ",".join("?" * (4 + self.columns.count(",")))
        return f"INSERT OR IGNORE INTO {self.name} VALUES ({marks})"


def _health(name: str | None) -> Health | None:
    return None if name is None else Health(name)


def _real(value: float | None) -> float:
    return nan if value is None else value


def _transition_row(item: Transition) -> Row:
    reading = item.reading
    return (
        int(item.tick), int(item.step), int(item.branch), as_text(item.monitor), as_text(item.instance),
        None if item.before is None else item.before.value,
        reading.health.value, int(reading.tick),
        as_float(reading.value), as_float(reading.score), as_float(reading.threshold),
        None if reading.onset is None else int(reading.onset),
        as_float(reading.level), as_float(reading.noise), as_text(reading.reason),
        None if reading.extra is None else dump_json(reading.extra),
    )  # fmt: skip


def _transition(row: Row) -> Transition:
    tick, step, branch, monitor, instance, before, health, newest, *numbers = row
    value, score, threshold, onset, level, noise, reason, *later = numbers
    extra = load_json(later[0]) if later and later[0] is not None else None  # a file of version 1 has none
    reading = Reading(
        Health(health), newest, _real(value), _real(score), _real(threshold),
        onset, _real(level), _real(noise), reason, extra,
    )  # fmt: skip
    return Transition(tick, step, branch, monitor, instance, _health(before), reading)


def _decision_row(item: Decision) -> Row:
    actions = [[action.name, dict(action.params)] for action in item.actions]
    return (
        as_text(item.id), as_text(item.rule), as_text(item.instance),
        int(item.tick), int(item.step), int(item.branch), item.disposition.value, int(item.rung),
        dump_json(actions), None if item.onset is None else int(item.onset),
        as_text(item.reason), dump_json(item.facts),
    )  # fmt: skip


def _decision(row: Row) -> Decision:
    id, rule, instance, tick, step, branch, disposition, rung, actions, onset, reason, facts = row
    return Decision(
        id, rule, instance, tick, step, branch, Disposition(disposition), rung,
        tuple(Action(name, params) for name, params in load_json(actions)),
        onset, reason, load_json(facts),
    )  # fmt: skip


def _phase_row(item: PhaseChange) -> Row:
    where = (int(item.tick), as_text(item.rule), as_text(item.instance))
    return (*where, item.before.value, item.after.value)


def _phase(row: Row) -> PhaseChange:
    tick, rule, instance, before, after = row
    return PhaseChange(tick, rule, instance, Phase(before), Phase(after))


def _outcome_row(item: Outcome) -> Row:
    what = (as_text(item.decision_id), item.status.value, int(item.tick), as_text(item.reason))
    return (*what, dump_json(item.facts), dump_json(item.details))


def _outcome(row: Row) -> Outcome:
    decision, status, tick, reason, facts, details = row
    return Outcome(decision, Status(status), tick, reason, load_json(facts), load_json(details))


def _verdict_row(item: Verdict) -> Row:
    what = (as_text(item.decision_id), item.result.value, int(item.tick), as_text(item.reason))
    return (*what, dump_json(item.numbers))


def _verdict(row: Row) -> Verdict:
    decision, result, tick, reason, numbers = row
    return Verdict(decision, Result(result), tick, reason, load_json(numbers))


SAMPLE = "sample"  # read and written apart: its names are numbered in the file

TRANSITION = Table(
    "transition",
    "tick, step, branch, monitor, instance, was, became, newest_tick,"
    " value REAL, score REAL, threshold REAL, onset, level REAL, noise REAL, reason, extra",
    _transition_row,
    _transition,
)
PHASE = Table("phase", "tick, rule, instance, was, became", _phase_row, _phase)
DECISION = Table(
    "decision",
    "id, rule, instance, tick, step, branch, disposition, rung, actions, onset, reason, facts",
    _decision_row,
    _decision,
)
OUTCOME = Table("outcome", "decision, status, tick, reason, facts, details", _outcome_row, _outcome)
VERDICT = Table("verdict", "decision, result, tick, reason, numbers", _verdict_row, _verdict)
EVENT = Table(
    "event",
    "kind, tick, detail",
    lambda item: (as_text(item.kind), int(item.tick), dump_json(item.detail)),
    lambda row: Event(row[0], row[1], load_json(row[2])),
)
TABLES = (TRANSITION, PHASE, DECISION, OUTCOME, VERDICT, EVENT)

SCHEMA = (
    "CREATE TABLE attempt (number INTEGER PRIMARY KEY, started, argv, policy_text, policy_source,"
    " mode, versions, facts)",
    "CREATE TABLE signal (number INTEGER PRIMARY KEY, name)",
    "CREATE TABLE sample (seq INTEGER PRIMARY KEY, attempt, tick, step, branch, present, numbers)",
    *(
        f"CREATE TABLE {table.name} (seq INTEGER PRIMARY KEY, attempt, time REAL, {table.columns})"
        for table in TABLES
    ),
    "CREATE UNIQUE INDEX decision_once ON decision (attempt, id)",
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)
