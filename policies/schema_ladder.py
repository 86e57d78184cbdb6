"""The ``ladder:`` of a rule: rungs of actions, and which actions do not go together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from .actions import ACTIONS, Priority, priority_of
from .document import Fault, Node, Place
from .model import THIS, Rung
from .names import nearest
from .shapes import Invalid, OrNothing, Schema
from .types import Action

_STOP = "stop"
_TOO_LATE = "'when' may name only monitors that are judged before the step"


@dataclass(frozen=True, slots=True)
class Allowed:
    """What the rule's surroundings allow: ``this``, ``skip_step``, ``rollback``; ``waits`` for a yes."""

    this: bool
    skip_step: bool
    rollback: bool
    waits: bool = False


class _Placed(NamedTuple):
    """An action and where it is written."""

    place: Place
    action: Action


def read_ladder(node: Node, allowed: Allowed, faults: list[Fault]) -> tuple[Rung, ...]:
    """The rungs in order, without the actions that have mistakes."""
    if node.items is None:
        faults.append(Fault(node.place, f"ladder must be a list of rungs, got {node}"))
        return ()
    if not node.items:
        faults.append(Fault(node.place, "ladder must not be empty"))
    return tuple(_read_rung(rung, allowed, faults) for rung in node.items)


def _read_rung(node: Node, allowed: Allowed, faults: list[Fault]) -> Rung:
    if not node.items:
        found = "an empty one" if node.items == [] else node
        faults.append(Fault(node.place, f"a rung must be a list of actions, as in [stop: {{}}], got {found}"))
        return Rung(())
    placed = [action for item in node.items if (action := _read_action(item, faults))]
    for action in placed:
        _check_allowed(action, allowed, faults)
    _check_together(placed, faults)
    return Rung(tuple(action for _, action in placed))


def _read_action(node: Node, faults: list[Fault]) -> _Placed | None:
    if node.entries is None or len(node.entries) != 1:
        example = f"{node.text}: {{}}" if node.text in ACTIONS else "scale_lr: {factor: 0.5}"
        faults.append(
            Fault(node.place, f"an action must be a mapping with one key, as in '{example}', got {node}")
        )
        return None
    [(name, (place, parameters))] = node.entries.items()
    if name not in ACTIONS:
        faults.append(Fault(place, f"there is no action '{name}'{nearest(name, ACTIONS)}"))
        return None
    if parameters.value is None:  # `stop:` with nothing behind it is as clear as `stop: {}`
        parameters = Node(parameters.place, {})
    try:
        return _Placed(place, Action(name, ACTIONS[name].parameters.read(parameters, name)))
    except Invalid as invalid:
        faults += invalid.faults
        return None


def _check_allowed(placed: _Placed, allowed: Allowed, faults: list[Fault]) -> None:
    place, action = placed
    if action.params.get("source") == THIS and not allowed.this:
        faults.append(Fault(place, "'this' is known only in a rule with 'foreach'"))
    priority = priority_of(action.name)
    if priority is Priority.SKIP and not allowed.skip_step:
        faults.append(Fault(place, f"{action.name} comes too late: {_TOO_LATE}"))
    elif priority is Priority.SKIP and allowed.waits:
        faults.append(Fault(place, f"{action.name} cannot wait for approval: the step is made at once"))
    if priority is Priority.ROLLBACK and not allowed.rollback:
        faults.append(Fault(place, f"{action.name} needs snapshots, but snapshots.keep is 0"))


def _check_together(rung: list[_Placed], faults: list[Fault]) -> None:
    taken: set[str] = set()
    for place, action in rung:
        if action.name == _STOP and len(rung) > 1:
            faults.append(Fault(place, "stop must stand alone in its rung: nothing comes after it"))
        if priority_of(action.name) is Priority.SKIP and _rolls_back(rung):
            faults.append(Fault(place, f"{action.name} is not needed beside rollback, which undoes the step"))
        if priority_of(action.name) is Priority.SKIP and _saves(rung):
            faults.append(Fault(place, f"{action.name} cannot stand beside checkpoint: its tick is not over"))
        target = ACTIONS[action.name].target(action.params) or action.name
        if target in taken:
            what = "is here twice" if target == action.name else f"is the second action on {target}"
            faults.append(Fault(place, f"{action.name} {what} in one rung"))
        taken.add(target)


def _rolls_back(rung: list[_Placed]) -> bool:
    return any(priority_of(action.name) is Priority.ROLLBACK for _, action in rung)


def _saves(rung: list[_Placed]) -> bool:
    return any(action.name == "checkpoint" for _, action in rung)


def ladder_schema() -> Schema:
    """A list of rungs, each a list of actions with one key each."""
    actions = {name: kind.parameters for name, kind in ACTIONS.items()}
    bare = [name for name, parameters in actions.items() if "required" not in parameters.schema()]
    shown = {name: (OrNothing(shape) if name in bare else shape).schema() for name, shape in actions.items()}
    action = {"type": "object", "properties": shown, "additionalProperties": False}
    action |= {"minProperties": 1, "maxProperties": 1}
    return {"type": "array", "minItems": 1, "items": {"type": "array", "minItems": 1, "items": action}}
