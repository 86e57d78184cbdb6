"""The ``ladder:`` of a rule: rungs of actions, and which actions do not go together."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, NamedTuple

from .actions import ACTIONS, IN_ARMS, Data, Origin, Priority, priority_of
from .document import Fault, Node, Place
from .expressions import Expression
from .model import THIS, Rung
from .names import nearest
from .shapes import Name, OrNothing, Schema
from .trials import NOTHING
from .types import Action

_ALONE = {"stop": "nothing comes after it", "trial": "what is to be tried goes into its arms"}
_ARM = Name(re.compile(r"[A-Za-z0-9][\w.-]{0,63}").fullmatch, "a word of letters, digits, '-', '_' and '.'")
_NO_RATE = (
    "needs to know what the rate was: write a rollback with data: skip or replay beside it, which takes the "
    "schedule back, or have 'when' read lr, as in lr.ratio > 1.2"
)
_TOO_LATE = "'when' may name only monitors that are judged before the step"


@dataclass(frozen=True, slots=True)
class Allowed:
    """What the rule's surroundings allow: ``this``, ``skip_step``, ``rollback``; ``waits`` for a yes.

    ``reads_lr``: its condition reads the learning rate. ``judge`` compiles a number of theirs, or tells its
    faults.
    """

    this: bool
    skip_step: bool
    rollback: bool
    judge: Callable[[Node], Expression | None]
    waits: bool = False
    reads_lr: bool = False


class _Placed(NamedTuple):
    """An action and where it is written, with what a trial is judged by."""

    place: Place
    action: Action
    judge: Expression | None = None


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
    placed = _read_actions(node.items, allowed, faults)
    judges = [each.judge for each in placed if each.judge]
    return Rung(tuple(each.action for each in placed), judges[0] if judges else None)


def _read_actions(
    items: list[Node], allowed: Allowed, faults: list[Fault], *, in_arm: bool = False
) -> list[_Placed]:
    placed = [action for item in items if (action := _read_action(item, allowed, faults, in_arm))]
    for action in placed:
        _check_allowed(action, allowed, faults)
    _check_together(placed, allowed, faults)
    return placed


def _read_action(node: Node, allowed: Allowed, faults: list[Fault], in_arm: bool) -> _Placed | None:
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
    if in_arm and name not in IN_ARMS:
        instead = "'from' says where all arms begin" if name == "rollback" else "give it a rung of its own"
        faults.append(Fault(place, f"{name} cannot be in an arm of a trial: {instead}"))
        return None
    if parameters.value is None:  # `stop:` with nothing behind it is as clear as `stop: {}`
        parameters = Node(parameters.place, {})
    values, own = ACTIONS[name].parameters.collect(parameters, name)
    faults += own
    judge = _read_trial(values, allowed, faults) if name == "trial" else None
    return None if own else _Placed(place, Action(name, values), judge)


def _read_trial(values: dict[str, Any], allowed: Allowed, faults: list[Fault]) -> Expression | None:
    """Read a trial's arms and judge in place, now that it is known what they may name; the judge compiled."""
    judge = None
    if "judge" in values:
        judge, values["judge"] = allowed.judge(values["judge"]), values["judge"].text.strip()
    if "arms" in values:
        arms = _arms(values["arms"], faults)
        placed = {arm: _read_actions(items, allowed, faults, in_arm=True) for arm, items in arms.items()}
        values["arms"] = {
            arm: [[each.action.name, each.action.params] for each in actions]
            for arm, actions in placed.items()
        }
    return judge


def _arms(node: Node, faults: list[Fault]) -> dict[str, list[Node]]:
    """The actions of each arm by its name: its own, or its number in the list."""
    if node.items:
        named = [(f"arm-{number}", node.place, arm) for number, arm in enumerate(node.items, start=1)]
    elif node.entries:
        named = [(name, entry.place, entry.node) for name, entry in node.entries.items()]
    else:
        example = "arms: {cooler: [scale_lr: {factor: 0.1}]}"
        found = "none" if node.value is None or node.items == [] or node.entries == {} else node
        faults.append(Fault(node.place, f"a trial needs arms, as in '{example}', got {found}"))
        return {}
    arms: dict[str, list[Node]] = {}
    for name, place, arm in named:
        if name == NOTHING:
            faults.append(Fault(place, f"'{NOTHING}' is an arm of every trial, and is not written"))
        elif not _ARM.form(name):
            faults.append(Fault(place, f"the name of an arm must be {_ARM.words}, got '{name}'"))
        if not arm.items:
            found = "an empty one" if arm.items == [] else arm
            faults.append(Fault(arm.place, f"arm '{name}' must be a list of actions, got {found}"))
        arms[name] = arm.items or []
    return arms


def _check_allowed(placed: _Placed, allowed: Allowed, faults: list[Fault]) -> None:
    place, action, _ = placed
    if action.params.get("source") == THIS and not allowed.this:
        faults.append(Fault(place, "'this' is known only in a rule with 'foreach'"))
    priority = priority_of(action.name)
    if priority is Priority.SKIP and not allowed.skip_step:
        faults.append(Fault(place, f"{action.name} comes too late: {_TOO_LATE}"))
    elif priority is Priority.SKIP and allowed.waits:
        faults.append(Fault(place, f"{action.name} cannot wait for approval: the step is made at once"))
    needs_snapshots = priority is Priority.ROLLBACK and action.params.get("from") != Origin.HERE.value
    if needs_snapshots and not allowed.rollback:
        faults.append(Fault(place, f"{action.name} needs snapshots, but snapshots.keep is 0"))


def _check_together(rung: list[_Placed], allowed: Allowed, faults: list[Fault]) -> None:
    taken: set[str] = set()
    for place, action, _ in rung:
        if action.name in _ALONE and len(rung) > 1:
            faults.append(Fault(place, f"{action.name} must stand alone in its rung: {_ALONE[action.name]}"))
        if priority_of(action.name) is Priority.SKIP and _rolls_back(rung):
            faults.append(Fault(place, f"{action.name} is not needed beside rollback, which undoes the step"))
        if priority_of(action.name) is Priority.SKIP and _saves(rung):
            faults.append(Fault(place, f"{action.name} cannot stand beside checkpoint: its tick is not over"))
        if action.name == "restore_lr" and not (allowed.reads_lr or _rewinds(rung)):
            faults.append(Fault(place, f"{action.name} {_NO_RATE}"))
        target = ACTIONS[action.name].target(action.params) or action.name
        if target in taken:
            what = "is here twice" if target == action.name else f"is the second action on {target}"
            faults.append(Fault(place, f"{action.name} {what} in one rung"))
        taken.add(target)


def _rolls_back(rung: list[_Placed]) -> bool:
    return any(priority_of(action.name) is Priority.ROLLBACK for _, action, _ in rung)


def _rewinds(rung: list[_Placed]) -> bool:
    return any(action.params.get("data") in (Data.SKIP.value, Data.REPLAY.value) for _, action, _ in rung)


def _saves(rung: list[_Placed]) -> bool:
    return any(action.name == "checkpoint" for _, action, _ in rung)


def ladder_schema() -> Schema:
    """A list of rungs, each a list of actions with one key each."""
    return {"type": "array", "minItems": 1, "items": _rung_schema(ACTIONS)}


def arms_schema() -> Schema:
    """The arms of a trial, by their names or in a list."""
    arm = _rung_schema(IN_ARMS)
    named = {"type": "object", "minProperties": 1, "additionalProperties": arm}
    return {"anyOf": [named, {"type": "array", "minItems": 1, "items": arm}]}


def _rung_schema(names: Collection[str]) -> Schema:
    actions = {name: ACTIONS[name].parameters for name in ACTIONS if name in names}
    bare = [name for name, parameters in actions.items() if "required" not in parameters.schema()]
    shown = {name: (OrNothing(shape) if name in bare else shape).schema() for name, shape in actions.items()}
    action = {"type": "object", "properties": shown, "additionalProperties": False}
    action |= {"minProperties": 1, "maxProperties": 1}
    return {"type": "array", "minItems": 1, "items": action}
