"""What a decision rests on: the readings as plain numbers, the onset of the change, the words for it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from ..monitors.types import Reading, Sample
from .actions import Landmark
from .expression_terms import extra, level, noise, score, threshold, value
from .expressions import Expression, Readings
from .model import Rule
from .types import Decision, Disposition

_NUMBERS = {"value": value, "level": level, "noise": noise, "score": score, "threshold": threshold}


def decide(
    rule: Rule,
    instance: str,
    rung: int,
    disposition: Disposition,
    sample: Sample,
    readings: Readings,
    lateness: Callable[[str], int],
    why: str = "",
    first_act: int | None = None,
) -> Decision:
    """A decision with its evidence; ``why`` says why nothing is done, else the reason is why it fired.

    Where the rung goes back to before the ladder's ``first_act``, that is the onset of what it takes back.
    """
    actions = rule.ladder[rung].resolve(instance)
    onset = onset_of(rule.when, readings, instance, lateness)
    if first_act is not None and any(
        action.params.get("to") == Landmark.BEFORE_FIRST_ACT.value for action in actions
    ):
        onset = first_act
    return Decision(
        id=f"{labelled(rule.name, instance)}@{sample.tick}",
        rule=rule.name,
        instance=instance,
        tick=sample.tick,
        step=sample.step,
        branch=sample.branch,
        disposition=disposition,
        rung=rung,
        actions=actions,
        onset=onset,
        reason=why or reason_for(rule.when, readings, instance),
        facts=facts_of(readings),
    )


def facts_of(readings: Readings) -> dict[str, dict[str, float]]:
    """The numbers that an expression could read now, for ``before.*`` of a later verdict.

    Instances are named ``name[instance]``. What is unknown or not finite is left out, so that this is JSON.
    """
    facts: dict[str, dict[str, float]] = {}
    for name, instances in readings.items():
        for instance, reading in instances.items():
            numbers = {word: number(reading) for word, number in _NUMBERS.items()}
            numbers |= {word: extra(reading, word) for word in reading.extra or ()}
            known = {word: number for word, number in numbers.items() if math.isfinite(number)}
            if known:
                facts[labelled(name, instance)] = known
    return facts


def measured_now(when: Expression, readings: Readings, instance: str, tick: int) -> bool:
    """Whether anything that ``when`` names was measured at this tick."""
    return any(
        reading.tick == tick for name in when.names for _, reading in _seen(when, name, readings, instance)
    )


def onset_of(
    when: Expression, readings: Readings, instance: str, lateness: Callable[[str], int]
) -> int | None:
    """When the change began: the earliest onset of a bad monitor, less that monitor's lateness."""
    return min(
        (
            reading.onset - lateness(name)
            for name in when.monitors
            for _, reading in _seen(when, name, readings, instance)
            if reading.bad and reading.onset is not None
        ),
        default=None,
    )


def reason_for(when: Expression, readings: Readings, instance: str) -> str:
    """Why a rule fired: its condition, what its bad monitors say, and the numbers that it compares."""
    said = [
        f"{labelled(name, label)} {reading.health.value}" + (f" ({reading.reason})" if reading.reason else "")
        for name in sorted(when.monitors)
        for label, reading in _seen(when, name, readings, instance)
        if reading.bad
    ]
    numbers = [f"{words} = {number:.4g}" for words, number in when.numbers(readings, instance).items()]
    return "; ".join([when.text, *said, *numbers])


def labelled(name: str, instance: str) -> str:
    """``source[code]`` for an instance, the bare name for what has none."""
    return f"{name}[{instance}]" if instance else name


def _seen(when: Expression, name: str, readings: Readings, instance: str) -> Iterator[tuple[str, Reading]]:
    """The readings under ``name`` that the condition looks at: ``this`` is one instance of many."""
    instances = readings.get(name, {})
    if name != when.foreach:
        yield from instances.items()
    elif instance in instances:
        yield instance, instances[instance]
