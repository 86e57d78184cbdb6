"""Smells of ladders, budgets and limits: rungs that nobody reaches, acts without end or without pause."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import NamedTuple

from .model import DEFAULT_BUDGET, THIS, Rule
from .phases import has_last_resort, only_skips
from .ranges import alternatives, implies, impossible, together
from .types import Action
from .written import Found, Path, Written, corrections

SETTLES = 16
"""Measurements after which a signal that was moved has a level again, as ``monitors.scale`` has it."""

STRONG = 0.5
"""A learning rate scaled below this is a strong correction."""


def default_budget(written: Written) -> Iterator[Found]:
    """No budget is written: the default is used."""
    for path, rule in written.rules:
        if written.document is not None and written.node((*path, "budget")) is None:
            acts, per, most = DEFAULT_BUDGET.acts, DEFAULT_BUDGET.per, DEFAULT_BUDGET.max
            used = f"budget: {{acts: {acts}, per: {per}, max: {most}}}"
            yield Found(
                rule.name, path, f"no budget is written, so {used} is used", "write this, or your own"
            )


def budget_never_spent(written: Written) -> Iterator[Found]:
    """So much time passes between two acts that the window never holds as many as it allows."""
    for path, rule in written.rules:
        # A verdict that an act did not help ends its cooldown, so that only `for` is certain to pass.
        pause = rule.for_measurements - 1 + (1 if rule.verify else max(rule.cooldown, 1))
        budget = rule.budget
        if budget.acts * pause >= budget.per and budget.acts > 1:
            most = -(-budget.per // pause)
            fits = "is no more than one act" if most == 1 else f"are no more than {most} acts"
            yield Found(
                rule.name,
                (*path, "budget"),
                f"in {budget.per} ticks there {fits}, {pause} ticks apart, so acts: {budget.acts} is never "
                "used up",
                f"write per: {pause * budget.acts + 1} or more, or fewer acts",
            )


def rung_after_stop(written: Written) -> Iterator[Found]:
    """A rung behind one that stops the run."""
    for path, rule in written.rules:
        for index, rung in enumerate(rule.ladder[:-1]):
            if any(action.name == "stop" for action in rung.actions):
                yield Found(
                    rule.name,
                    (*path, "ladder", index + 1),
                    f"rung {index + 2} comes after stop, which ends the run",
                    "write stop last",
                )
                break


def rung_beyond_budget(written: Written) -> Iterator[Found]:
    """A rung that the budget's ``max`` leaves no act for."""
    for path, rule in written.rules:
        most = rule.budget.max
        charged = len(rule.ladder) - has_last_resort(rule)
        if most is not None and most < charged:
            yield Found(
                rule.name,
                (*path, "ladder", most),
                f"rung {most + 1} is never paid for: the rungs before it use up max: {most}",
                f"write max: {charged} or more",
            )


def limits_too_tight(written: Written) -> Iterator[Found]:
    """The limits of all rules end acting before one ladder does."""
    limits = written.policy.limits
    for _, rule in written.active if limits else ():
        steps = sum(bool(corrections(rung)) for rung in rule.ladder)
        if limits is not None and limits.acts < steps:
            yield Found(
                rule.name,
                ("limits", "acts"),
                f"the limits allow {limits.acts} in {limits.per} ticks, and its ladder has {steps} "
                "corrections",
                f"write acts: {steps} or more",
            )


def only_skips_and_no_end(written: Written) -> Iterator[Found]:
    """Steps are skipped until the budget is spent, and then bad ones are taken."""
    for path, rule in written.rules:
        if all(only_skips(rung.actions) for rung in rule.ladder):
            yield Found(
                rule.name,
                (*path, "ladder"),
                "once the budget is spent, bad steps are taken",
                "write a last rung, as in [stop: {}]",
            )


def no_pause(written: Written) -> Iterator[Found]:
    """A correction is made stronger before it can have shown in any signal."""
    for path, rule in written.active:
        pause = rule.for_measurements + rule.cooldown
        after = "1 tick" if pause == 1 else f"{pause} ticks"
        if rule.verify is None and pause < SETTLES and corrections(rule.ladder[0]):
            yield Found(
                rule.name,
                path,
                f"it acts again after {after}, before a correction can show",
                f"write cooldown: {SETTLES} or more, or verify",
            )


def acts_for_good(written: Written) -> Iterator[Found]:
    """A strong correction for good at the first rung."""
    for path, rule in written.active:
        for index, action in enumerate(rule.ladder[0].actions):
            params = action.params
            strong = (
                action.name == "set_lr"
                or params.get("factor", 1.0) < STRONG
                or (action.name == "reweight" and 0 in (params["to"], params["scale"]))
            )
            if strong and params["hold"] is None:
                yield Found(
                    rule.name,
                    (*path, "ladder", 0, index, action.name),
                    f"the first rung has {action.name} for good",
                    "write hold, in ticks, or try something weaker first",
                )


class _Pull(NamedTuple):
    """What an action lays hold of, and whether it has more or less of it."""

    target: str
    sign: int


def opposite_acts(written: Written) -> Iterator[Found]:
    """Two rules that can fire at once and pull at one thing in opposite directions."""
    for (_, first), (path, second) in combinations(written.active, 2):
        if _exclude_one_another(written, first, second):
            continue
        for place, action in _actions(second):
            pull = _pull(action, second)
            against = None if pull is None else _Pull(pull.target, -pull.sign)
            if against and any(_pull(other, first) == against for _, other in _actions(first)):
                way = "up" if pull and pull.sign > 0 else "down"
                yield Found(
                    second.name,
                    (*path, *place),
                    f"it turns {against.target} {way}, and rule '{first.name}', which can fire at the same "
                    "time, the other way",
                    "write conditions that exclude one another, or 'unless'",
                )
                break


def _actions(rule: Rule) -> Iterator[tuple[Path, Action]]:
    for number, rung in enumerate(rule.ladder):
        for index, action in enumerate(rung.actions):
            yield ("ladder", number, index, action.name), action


def _pull(action: Action, rule: Rule) -> _Pull | None:
    params = action.params
    if action.name == "scale_lr":
        factor, target = params["factor"], "the learning rate"
    elif action.name == "restore_lr":
        factor, target = 0, "the learning rate"
    elif action.name == "reweight" and (params["scale"] is not None or params["to"] == 0):
        factor = 0 if params["scale"] is None else params["scale"]
        source = params["source"]
        target = f"the weight of {source}" + (f" of {rule.foreach}" if source == THIS else "")
    else:
        return None
    return None if factor == 1 else _Pull(target, 1 if factor > 1 else -1)


def _exclude_one_another(written: Written, first: Rule, second: Rule) -> bool:
    ours, theirs = alternatives(first.when.text), alternatives(second.when.text)
    if ours is None or theirs is None or len(ours) * len(theirs) > 256:
        return True  # nothing is certain
    bounds = written.bounds(first)
    if all(impossible(way, bounds) is not None for way in together(ours, theirs)):
        return True
    pairs = ((first, second), (second, first))
    return any(one.unless and implies(other.when.text, one.unless.text, bounds) for one, other in pairs)
