"""The table of actions: what each takes, how strong it is, and what it lays hold of.

A new action is one line in ``ACTIONS`` and an actuator of the same name. Durations are in ticks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Any

from .document import Node
from .shapes import Choice, Field, Invalid, Later, Name, OrNothing, Real, Record, Schema, Text, Whole
from .trials import LEAST_STEPS


class Priority(IntEnum):
    """The strength of an action. At one tick the strongest rung acts, and the others stay firing."""

    RECORD = 0
    DATA = 1
    LEARNING_RATE = 2
    SKIP = 3
    ROLLBACK = 4
    STOP = 5


class Data(Enum):
    """What a rollback does with the data seen since the snapshot."""

    FORWARD = "forward"
    SKIP = "skip"
    REPLAY = "replay"


class Landmark(Enum):
    """Snapshots that a rollback can name: the newest good one taken before the change began, or of all.

    Before the *first act* of the ladder that is being climbed lies what that act went back to, if it did:
    what has been done since, and did not help, is taken back.
    """

    BEFORE_ONSET = "before_onset"
    BEFORE_FIRST_ACT = "before_first_act"
    LAST_GOOD = "last_good"


GO_BY_ONSET = (Landmark.BEFORE_ONSET.value, Landmark.BEFORE_FIRST_ACT.value)
"""Where a rollback goes by the onset that its decision tells; after its first act the change was the act."""


class Origin(Enum):
    """Where the arms of a trial begin: at one of those snapshots, or where the run stands."""

    BEFORE_ONSET = "before_onset"
    LAST_GOOD = "last_good"
    HERE = "here"


Parameters = Mapping[str, Any]


def _itself(parameters: Parameters) -> str:
    return ""


def _learning_rate(parameters: Parameters) -> str:
    return "the learning rate"


def _source_weight(parameters: Parameters) -> str:
    return f"the weight of {parameters['source']}"


@dataclass(frozen=True, slots=True)
class ActionKind:
    """An action as the table describes it.

    ``parameters`` reads its mapping into plain JSON values, defaults filled in. ``target`` says what it lays
    hold of (``""``: the action itself): one rung may do so only once.
    """

    priority: Priority
    parameters: Record
    target: Callable[[Parameters], str] = _itself


_CHECKPOINT = Name(
    re.compile(r"(?!tick-)[A-Za-z0-9][\w.-]{0,63}").fullmatch,
    "a word of letters, digits, '-', '_' and '.' that does not begin with 'tick-'",
)
_DESTINATION = "to must be either {steps: n} or {checkpoint: name}"


@dataclass(frozen=True, slots=True)
class _Destination:
    """Where a rollback goes: a landmark, ``{steps: n}`` back, or a checkpoint by its name."""

    place = Record(
        {"steps": Field(OrNothing(Whole(1)), None), "checkpoint": Field(OrNothing(_CHECKPOINT), None)},
        check=lambda place: None if None in place.values() and any(place.values()) else _DESTINATION,
        prefix="to.",
    )

    def read(self, node: Node, name: str) -> Any:
        """The landmark's word, or the mapping with what it names."""
        if node.entries is not None:
            place = self.place.read(node, name)
            return {key: value for key, value in place.items() if value is not None}
        try:
            return Choice(Landmark, as_word=True).read(node, name)
        except Invalid:
            words = ", ".join(landmark.value for landmark in Landmark)
            message = f"{name} must be {words}, {{steps: n}} or {{checkpoint: name}}, got {node}"
            raise Invalid.at(node, message) from None

    def schema(self) -> Schema:
        """A landmark's word, or a mapping."""
        return {"anyOf": [Choice(Landmark).schema(), self.place.schema()]}


_SOURCE = Name(lambda name: not name.isspace(), "the name of a source")
_URL = Name(lambda url: url.startswith(("http://", "https://")), "a URL that begins with http:// or https://")
_FOR_A_WHILE = {"hold": Field(OrNothing(Whole(1)), None), "ramp": Field(Whole(0), 0)}
"""A layer holds for some ticks (for good, if nothing is said), then fades over ``ramp`` ticks."""


def _reweight_objection(parameters: Parameters) -> str | None:
    if (parameters["to"] is None) == (parameters["scale"] is None):
        return "reweight needs either 'to' or 'scale'"
    return None


ACTIONS: Mapping[str, ActionKind] = {
    "skip_step": ActionKind(Priority.SKIP, Record({})),
    "stop": ActionKind(Priority.STOP, Record({})),
    "checkpoint": ActionKind(Priority.RECORD, Record({"name": Field(OrNothing(_CHECKPOINT), None)})),
    "reset_moments": ActionKind(Priority.LEARNING_RATE, Record({})),
    "notify": ActionKind(
        Priority.RECORD, Record({"message": Field(Text()), "url": Field(OrNothing(_URL), None)})
    ),
    "scale_lr": ActionKind(
        Priority.LEARNING_RATE,
        Record({"factor": Field(Real(0, 10, is_open=True)), **_FOR_A_WHILE}),
        _learning_rate,
    ),
    "set_lr": ActionKind(
        Priority.LEARNING_RATE, Record({"to": Field(Real(0)), **_FOR_A_WHILE}), _learning_rate
    ),
    "restore_lr": ActionKind(Priority.LEARNING_RATE, Record({**_FOR_A_WHILE}), _learning_rate),
    "reweight": ActionKind(
        Priority.DATA,
        Record(
            {
                "source": Field(_SOURCE),
                "to": Field(OrNothing(Real(0)), None),
                "scale": Field(OrNothing(Real(0)), None),
                **_FOR_A_WHILE,
            },
            check=_reweight_objection,
        ),
        _source_weight,
    ),
    "rollback": ActionKind(
        Priority.ROLLBACK,
        Record(
            {
                "to": Field(_Destination(), Landmark.BEFORE_ONSET.value),
                "data": Field(Choice(Data, as_word=True), Data.FORWARD.value),
            }
        ),
    ),
    "trial": ActionKind(
        Priority.ROLLBACK,
        Record(
            {
                "arms": Field(Later("arms")),
                "steps": Field(Whole(LEAST_STEPS, 10**5)),
                "judge": Field(Later("number")),
                "from": Field(Choice(Origin, as_word=True), Origin.BEFORE_ONSET.value),
            }
        ),
    ),
}
"""Every action. ``scale_lr`` multiplies the schedule at most tenfold: more is a slip of the pen. The arms of
a ``trial`` are read by the ladder, since they hold actions: ``{name: [[action, parameters], ...]}``."""

GO_BACK = frozenset({"rollback", "trial"})
"""Actions that have a target: the state to which they lead the run back."""

IN_ARMS = frozenset({"scale_lr", "set_lr", "reweight", "reset_moments"})
"""What an arm of a trial may do: corrections that are layers or the optimizer's state, so that nothing is
left of an arm that lost."""


def priority_of(action: str) -> Priority:
    """How strong an action is."""
    return ACTIONS[action].priority
