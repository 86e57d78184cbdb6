"""A run of Midcourse's own, from its journal: what it measured, and what was done to it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from itertools import chain
from pathlib import Path

from ...monitors.plan import Plan
from ...monitors.types import Sample
from ...policies import replay
from ...policies.amendments import NONE_AMENDED, Amendments
from ...policies.policy import parse_policy
from ...policies.replay import Commanded, Foreseen, PolicyEdited, Resumed, StateLoaded, WentBack, landmarks_of
from ...policies.types import Decision, Outcome, Reply, Status, Verdict
from ..journal.place import JournalError
from ..journal.reader import JournalReader
from ..journal.tables import Event, Item
from .recording import Chapter, Recording, RecordingError

_SQLITE = b"SQLite format 3"


def _edited(event: Event) -> PolicyEdited:
    return PolicyEdited(parse_policy(event.detail["text"], event.detail["source"]), event.tick)


_EVENTS: Mapping[str, Callable[[Event], replay.Event]] = {
    "resumed": lambda event: Resumed(event.tick),
    "command": lambda event: Commanded(tick=event.tick, **event.detail),
    "policy": _edited,
    "trial": lambda event: WentBack(event.detail["back_to"], event.tick, event.detail["arm"] is None),
    "plan": lambda event: Foreseen(Plan.from_json(event.detail), event.tick),
}
"""Kinds of events that a replay must know of, and what they are to it."""


def is_journal(path: Path) -> bool:
    """Whether this is a run's folder or a journal file, and no log of another tool."""
    if path.is_dir() or path.suffix == ".sqlite":
        return True
    with suppress(OSError), path.open("rb") as file:
        return file.read(len(_SQLITE)) == _SQLITE
    return False


def read_journal(path: Path, name: str) -> Recording:
    """Read the run whose folder or journal file this is; its samples are read only when it is replayed.

    Raises:
        RecordingError: there is no journal, or it cannot be read.
    """
    try:
        with JournalReader(path) as reader:
            notes = ["it is going on: what it has written so far was read"] if reader.running else []
            whole = not any(event.kind == "samples_thinned" for event in reader.events())
            if not whole:
                notes.append("its oldest samples were thinned: the policy sees one in four of them")
            lives = [
                _chapter(reader, path, life.number, life.policy_text, whole) for life in reader.attempts()
            ]
            signals = frozenset(reader.signals())
            marks = landmarks_of(chain.from_iterable(_events(reader, life.number, False) for life in lives))
    except JournalError as error:
        raise RecordingError([str(error)]) from None
    return Recording(name, tuple(lives), signals, frozenset(marks), tuple(notes))


def _chapter(reader: JournalReader, path: Path, number: int, policy_text: str, whole: bool) -> Chapter:
    items = [entry.item for entry in reader.entries(number, samples=False)]
    resumed = [item.tick for item in items if isinstance(item, Event) and item.kind == "resumed"]
    return Chapter(
        number,
        partial(_reopened, path, number),
        resumed[0] if resumed else None,
        policy_text,
        tuple(item for item in items if isinstance(item, Decision)),
        tuple(item for item in items if isinstance(item, Verdict)),
        frozenset(
            item.decision_id for item in items if isinstance(item, Outcome) and item.status is Status.APPLIED
        ),
        {
            item.detail["decision"]: item.tick
            for item in items
            if isinstance(item, Event) and item.kind == "approval" and item.detail["reply"] == Reply.YES.value
        },
        whole,
        amended_by(items),
    )


def amended_by(items: Iterable[Item]) -> Amendments:
    """What a process life was made to decide otherwise than its policy, if it is a fork."""
    told = [item.detail for item in items if isinstance(item, Event) and item.kind == "fork"]
    return Amendments.from_json(told[-1]["amendments"]) if told else NONE_AMENDED


def _reopened(path: Path, number: int) -> Iterator[replay.Event]:
    try:
        with JournalReader(path) as reader:
            yield from _events(reader, number, True)
    except JournalError as error:
        raise RecordingError([str(error)]) from None


def _events(reader: JournalReader, number: int, samples: bool) -> Iterator[replay.Event]:
    """What a replay needs of one process life, in the order in which it happened.

    A branch that goes up without a rollback is a state that the loop loaded itself.
    """
    branch = 0
    for entry in reader.entries(number, samples=samples):
        item: Item = entry.item
        if isinstance(item, Sample):
            if item.branch > branch:
                branch = item.branch
                yield StateLoaded(item.tick - 1)
            yield item
        elif isinstance(item, Outcome):
            branch += bool(landmarks_of([item]))
            yield item
        elif isinstance(item, Event) and item.kind in _EVENTS:
            branch = item.detail.get("branch", branch)
            yield _EVENTS[item.kind](item)
