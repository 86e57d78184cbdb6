"""Smells of conditions: what can never hold, what always does, and what covers another."""

from __future__ import annotations

from collections.abc import Iterator

from .model import Rule
from .ranges import Interval, alternatives, implies, impossible
from .written import Found, Written, conditions, parameter


def never_holds(written: Written) -> Iterator[Found]:
    """A condition that contradicts itself, or a monitor that is silent for all of the run."""
    for path, rule in written.rules:
        for key, condition in conditions(rule):
            why = why_never(written, rule, condition.text)
            if why is not None:
                effect = "the rule never fires" if key == "when" else "it never pauses the rule"
                yield Found(
                    rule.name, (*path, key), f"'{key}' can never hold, {why}", f"{effect}; mend or remove it"
                )
    yield from _silent(written)


def _silent(written: Written) -> Iterator[Found]:
    """Monitors that warm up for longer than the whole run, where its length is written."""
    horizons = [length for spec in written.policy.monitors if (length := parameter(spec, "horizon"))]
    for spec in written.policy.monitors if horizons else ():
        warm_up = getattr(written.monitor(spec.name), "warm_up", 0)
        if warm_up >= max(horizons):
            wrong = f"monitor '{spec.name}' judges nothing before measurement {warm_up}, and the run ends at"
            yield Found(
                "",
                ("monitors", spec.name, "warm_up"),
                f"{wrong} {max(horizons)}",
                "write a shorter warm_up",
            )


def always_holds(written: Written) -> Iterator[Found]:
    """A condition that holds whatever is measured."""
    for path, rule in written.rules:
        for key, condition in conditions(rule):
            if _always(written, rule, condition.text):
                effect = "the rule fires in every run" if key == "when" else "the rule never acts"
                yield Found(
                    rule.name,
                    (*path, key),
                    f"'{key}' holds whatever is measured",
                    f"{effect}; write what tells a fault from a healthy run",
                )


def unless_covers_when(written: Written) -> Iterator[Found]:
    """``unless`` holds wherever ``when`` does."""
    for path, rule in written.rules:
        if rule.unless is None or why_never(written, rule, rule.when.text) is not None:
            continue
        if implies(rule.when.text, rule.unless.text, written.bounds(rule)):
            yield Found(
                rule.name,
                (*path, "unless"),
                "'unless' holds wherever 'when' does, so the rule never acts",
                "write in 'unless' only what is to hold it back",
            )


def onset_is_compared(written: Written) -> Iterator[Found]:
    """``.onset`` against a number: it is a tick of the run, not a duration."""
    for path, rule in written.rules:
        for key, condition in conditions(rule):
            for each in alternatives(condition.text) or ():
                subject = next((name for name in each if name.endswith(".onset")), None)
                demand = each.get(subject or "")
                if isinstance(demand, Interval):
                    yield Found(
                        rule.name,
                        (*path, key),
                        f"{subject} is the tick at which a change began, and it is asked to be {demand}",
                        "compare .score or .value, or write 'for' for a duration",
                    )
                    break


def why_never(written: Written, rule: Rule, text: str) -> str | None:
    """Why a condition of a rule can never hold; None if it may."""
    ways = alternatives(text)
    if ways is None:
        return None
    whys = [impossible(way, written.bounds(rule)) for way in ways]
    if any(why is None for why in whys):
        return None
    return next((why for why in whys if why), "for it says False")


def _always(written: Written, rule: Rule, text: str) -> bool:
    """Whether a condition of a rule can never fail."""
    ways = alternatives(text, holds=False)
    return ways is not None and all(impossible(way, written.bounds(rule)) is not None for way in ways)


def constant(written: Written, rule: Rule, text: str) -> bool | None:
    """What a condition always or never is; None if it can be either."""
    if why_never(written, rule, text) is not None:
        return False
    return True if _always(written, rule, text) else None
