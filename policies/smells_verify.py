"""Smells of verification and of the way back: verdicts that say nothing, rollbacks that go nowhere."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from itertools import permutations

from ..monitors.types import MonitorSpec
from .actions import GO_BY_ONSET, Landmark
from .model import Policy, Rule
from .ranges import implies
from .smells_conditions import constant
from .written import Found, Path, Written, corrections, parameter, rolls_back


def expectation_is_constant(written: Written) -> Iterator[Found]:
    """An ``expect`` that always or never holds."""
    for path, rule in written.rules:
        known = None if rule.verify is None else constant(written, rule, rule.verify.expect.text)
        if known is not None:
            word, verdict = ("always", "helped") if known else ("never", "did not help")
            yield Found(
                rule.name,
                (*path, "verify", "expect"),
                f"'expect' {word} holds, so every verdict is '{verdict}'",
                "write what a healthy run does and a spoilt one does not",
            )


def before_of_a_rollback(written: Written) -> Iterator[Found]:
    """``before.*`` is the spoilt run where the rule goes back to the target."""
    for path, rule in written.rules:
        if rule.verify is None or not rule.verify.expect.uses_before or rule.verify.expect.uses_target:
            continue
        acts = [rung for rung in rule.ladder if corrections(rung)]
        if acts and all(map(rolls_back, acts)):
            yield Found(
                rule.name,
                (*path, "verify", "expect"),
                "'before' is the run as it was spoilt, and any state that the rule goes back to is better",
                "compare with 'target', the state gone back to",
            )


def level_is_old(written: Written) -> Iterator[Found]:
    """The window closes before a level can have moved."""
    for path, rule in written.rules:
        if rule.verify is None:
            continue
        for name in sorted(_levels(rule.verify.expect.text)):
            settles = _window(written.policy, rule, name) // 2
            if rule.verify.within < settles:
                yield Found(
                    rule.name,
                    (*path, "verify", "within"),
                    f"the level of {name} is the median of twice {settles} measurements, so after "
                    f"{rule.verify.within} ticks it still is that from before the act",
                    f"write within: {settles} or more",
                )


def verdict_within_cooldown(written: Written) -> Iterator[Found]:
    """A verdict that falls within the cooldown waives it, or waits for nothing."""
    for path, rule in written.rules:
        if rule.verify is not None and rule.verify.within < rule.cooldown:
            yield Found(
                rule.name,
                (*path, "verify", "within"),
                f"the verdict falls after {rule.verify.within} ticks, and one that says no ends the cooldown "
                f"of {rule.cooldown}",
                f"write within: {rule.cooldown} or more, or a shorter cooldown",
            )


def verdict_overlapped(written: Written) -> Iterator[Found]:
    """Another rule fires on the same, later in the window: whose effect it was cannot be told."""
    places = {rule.name: index for index, (_, rule) in enumerate(written.rules)}
    for (path, first), (_, other) in permutations(written.active, 2):
        if first.verify is None or first.foreach or other.foreach or other.unless:
            continue
        mine, its = first.ladder[0], other.ladder[0]
        # After a rollback the detectors are those of the target, and the other rule counts anew.
        acts = corrections(mine) and corrections(its) and not rolls_back(mine)
        goes_first = (-mine.priority, places[first.name]) < (-its.priority, places[other.name])
        soon = other.for_measurements <= first.for_measurements + first.verify.within
        if acts and goes_first and soon and implies(first.when.text, other.when.text, written.bounds(first)):
            yield Found(
                first.name,
                (*path, "verify"),
                f"rule '{other.name}' fires on the same and acts within the window, so no verdict is "
                "conclusive",
                "make them one rule, with both in its ladder",
            )


def no_onset_told(written: Written) -> Iterator[Found]:
    """``before_onset``, and ``when`` names no monitor that could tell one."""
    for path, rule in written.rules:
        for place, _ in _goes_back(rule, (Landmark.BEFORE_ONSET.value,)):
            if not rule.when.monitors:
                yield Found(
                    rule.name,
                    (*path, *place),
                    "'when' names no monitor, so nobody tells an onset and the newest good state is taken",
                    "name a monitor in 'when', as in rise.bad, or write to: last_good",
                )
                break


def one_snapshot(written: Written) -> Iterator[Found]:
    """``before_onset`` with a single snapshot, which is mostly newer than the onset."""
    snapshots = written.policy.snapshots
    rules = ((rule, place) for _, rule in written.rules for place in _goes_back(rule, GO_BY_ONSET))
    found = next(rules, None)
    if found is not None and snapshots.keep == 1 and written.policy.checkpoints.every is None:
        yield Found(
            found[0].name,
            ("snapshots", "keep"),
            "the only snapshot is the newest, seldom one before the onset",
            "write keep: 6",
        )


def reach_too_short(written: Written) -> Iterator[Found]:
    """The snapshots do not reach back to before what is found so late, or to where a rollback goes."""
    if written.policy.checkpoints.every is not None:  # the disk reaches further
        return
    reach = written.policy.snapshots.reach
    for path, rule in written.rules:
        late = {name: _lateness(written, name) for name in rule.when.monitors}
        slowest = max(late, key=lambda name: late[name], default="")
        needed = late.get(slowest, 0) + rule.for_measurements
        for place, back in _goes_back(rule):
            far = back["steps"] if isinstance(back, dict) else needed if back in GO_BY_ONSET else 0
            if back == Landmark.BEFORE_FIRST_ACT.value and rule.verify is not None:
                far += rule.verify.within
            if far <= reach:
                continue
            why = f"its onset lies up to {far} back when the rule acts, by '{slowest}' and 'for'"
            if isinstance(back, dict):
                why = f"it goes back by {far} steps"
            yield Found(
                rule.name,
                (*path, *place),
                f"{why}, and the snapshots reach back {reach} ticks",
                f"write snapshots.reach: {2 * far}",
            )
            break


def _goes_back(rule: Rule, to: Sequence[str] = ()) -> Iterator[tuple[Path, str | dict[str, int]]]:
    """Its rollbacks that go to steps or a landmark: where that is written, and what."""
    for number, rung in enumerate(rule.ladder):
        for index, action in enumerate(rung.actions):
            where = action.params.get("to") if action.name == "rollback" else None
            if where is not None and (where in to or (not to and "checkpoint" not in where)):
                yield ("ladder", number, index, "rollback", "to"), where


def _lateness(written: Written, name: str) -> int:
    """Measurements from an onset to where it may be told: what the monitor declares of delay and lateness."""
    monitor = written.monitor(name)
    return int(getattr(monitor, "step_delay", 0)) + monitor.lateness


def _levels(text: str) -> set[str]:
    """The monitors and signals whose level now an expression reads, as it writes them."""
    nodes = ast.walk(ast.parse(text.replace("\n", " "), mode="eval"))
    levels = (node.value for node in nodes if isinstance(node, ast.Attribute) and node.attr == "level")
    named = {ast.unparse(node) for node in levels}
    return {name for name in named if not name.startswith(("before.", "target."))}


def _window(policy: Policy, rule: Rule, name: str) -> int:
    """Measurements whose median a level is."""
    name = str(rule.foreach) if name == "this" else name
    spec = next((each for each in policy.monitors if each.name == name), MonitorSpec(name, "baseline"))
    return int(parameter(spec, "window") or 0)
