"""A run that already happened, ready to be replayed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ...policies.amendments import NONE_AMENDED, Amendments
from ...policies.replay import Event
from ...policies.types import Decision, Verdict


class RecordingError(ValueError):
    """Runs that cannot be read; ``problems`` are all of their mistakes, each with its place."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


@dataclass(frozen=True, slots=True)
class Chapter:
    """One process life of a run; a log has one.

    ``events`` gives its samples and what happened to it, in order, as often as it is called. ``resumed`` is
    the tick after which it goes on from an earlier chapter, None where it begins anew. ``decisions`` and
    ``verdicts`` are those that the run's own policy, ``policy_text``, came to; ``applied`` the ids of what
    was done to the run. ``approved`` says at which tick the run took a decision that had waited for a yes.
    ``whole`` says that no sample of it is missing. ``amendments`` are what a fork was made to decide
    otherwise.
    """

    number: int
    events: Callable[[], Iterable[Event]]
    resumed: int | None = None
    policy_text: str | None = None
    decisions: Sequence[Decision] = ()
    verdicts: Sequence[Verdict] = ()
    applied: frozenset[str] = frozenset()
    approved: Mapping[str, int] = field(default_factory=dict)
    whole: bool = True
    amendments: Amendments = NONE_AMENDED


@dataclass(frozen=True, slots=True)
class Recording:
    """One run, as it was called. ``landmarks`` are the ticks that it goes back to (see ``Replay``).

    ``signals`` are the names that were measured in it; ``notes`` say what the user should know of how it was
    read, and ``hints`` what a signal that was not found may be called.
    """

    name: str
    chapters: Sequence[Chapter]
    signals: frozenset[str]
    landmarks: frozenset[int] = frozenset()
    notes: tuple[str, ...] = ()
    hints: dict[str, str] = field(default_factory=dict)
