"""What a fork showed, in words and a table for people, and as one value for programs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ...policies.types import Decision, Disposition
from ..journal.tell import describe, number
from ..printing import FILE_WIDTH, add_row, new_table, words
from .comparison import NOISES, Comparison, Effect
from .course import Course, Ending
from .order import ForkOrder

OUTPUT = "output.log"
"""In the fork's folder: what its command printed."""

_SHOWN = 10  # decisions of either run


@dataclass(frozen=True, slots=True)
class Told:
    """What a fork showed; printed, it is the report for people.

    ``order`` is what was asked. ``exit_code`` is that of the fork's command, None where it was not started
    here. ``notes`` say what the reader should know of how the fork began.
    """

    order: ForkOrder
    run: Course
    fork: Course
    comparison: Comparison
    exit_code: int | None
    notes: tuple[str, ...]

    def __str__(self) -> str:
        return _as_text(self)

    def to_json(self) -> dict[str, Any]:
        """All that the report says, as plain values."""
        return _as_json(self)


def last_words(folder: Path, lines: int = 15) -> str:
    """The end of what a fork's command printed."""
    try:
        text = (folder / OUTPUT).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-lines:])


def _as_text(told: Told) -> str:
    console = Console(file=StringIO(), width=FILE_WIDTH, highlight=False, markup=False)
    for sentence in _head(told):
        console.print(sentence, soft_wrap=True)
    if told.comparison.effects:
        console.print(_table(told.comparison.effects))
    for sentence in _tail(told):
        console.print(sentence, soft_wrap=True)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in text.splitlines())


def _as_json(told: Told) -> dict[str, Any]:
    order, comparison = told.order, told.comparison
    taken = _decision(told)
    return {
        "run": _course_json(told.run, order.tick),
        "fork": {**_course_json(told.fork, order.tick), "exit_code": told.exit_code},
        "amendments": order.amendments.to_json(),
        "decision": None if taken is None else _decision_json(taken, told.run),
        "checkpoint": order.checkpoint,
        "tick": order.tick,
        "until": order.until,
        "prefix": {
            "ticks": comparison.prefix.ticks,
            "identical": comparison.prefix.differs_at is None,
            "differs_at": comparison.prefix.differs_at,
            "how": comparison.prefix.how or None,
        },
        "signals": [_effect_json(effect) for effect in comparison.effects],
        "only_run": [_decision_json(each, told.run) for each in comparison.only_run],
        "only_fork": [_decision_json(each, told.fork) for each in comparison.only_fork],
        "changed": [{"id": id, "how": how} for id, how in comparison.changed],
        "notes": list(told.notes),
    }


def _head(told: Told) -> list[str]:
    order, taken = told.order, _decision(told)
    begun = "the start" if order.checkpoint is None else f"checkpoint {order.checkpoint} (tick {order.tick})"
    said = [f"{told.fork.path}: {told.run.path} {_amended(told)}"]
    if taken is not None:
        said.append(f"  in the run: {_done(taken, told.run)}, at step {taken.step}")
    for each in told.fork.decisions:
        if each.id == order.decision:
            done = "withheld" if each.disposition is Disposition.OBSERVE else _done(each, told.fork)
            said.append(f"  in the fork: {done}")
    if told.fork.samples:
        first, last = told.fork.samples[0], told.fork.samples[-1]
        seconds = f", in {told.fork.seconds:.3g} s" if told.fork.seconds else ""
        said.append(
            f"  from {begun}: {last.tick - first.tick + 1} ticks, steps {first.step} to {last.step}{seconds}"
        )
    else:
        said.append(f"  from {begun}: not a step was made")
    said += [f"  {note}" for note in told.notes]
    return [*said, f"  {_exactness(told.comparison)}"]


def _amended(told: Told) -> str:
    amendments = told.order.amendments
    said = [f"without {name}" for name in sorted(amendments.withheld)]
    said += [f"with rung {rung} at {id}" for id, rung in amendments.instead.items()]
    return ", ".join(said)


def _exactness(comparison: Comparison) -> str:
    prefix = comparison.prefix
    if prefix.differs_at is None:
        return f"until the decision the fork is the run, bit for bit: {prefix.ticks} ticks compared"
    if "no such tick" in prefix.how:
        return f"the fork ended before the decision: it has no tick {prefix.differs_at}"
    return (
        f"the fork differs from tick {prefix.differs_at} on, before the decision ({prefix.how}): the loop is "
        "not deterministic, so the difference is not the intervention's alone"
    )


def _table(effects: tuple[Effect, ...]) -> Table:
    table = new_table(
        "signal", "run", "noise", "fork", "noise", "run − fork", "± s.e.", "steps", "parted at step"
    )
    for effect in effects:
        first, last = effect.steps
        add_row(
            table,
            effect.signal,
            _level(effect.run.value),
            _or_none(effect.run.noise),
            _level(effect.fork.value),
            _or_none(effect.fork.noise),
            f"{effect.difference:+.4g}" if math.isfinite(effect.difference) else "",
            _or_none(effect.standard_error),
            f"{first}–{last}" + ("" if effect.paired else ", not paired"),
            "" if effect.parted is None else str(effect.parted),
        )
    return table


def _level(value: float) -> str:
    return number(value) if math.isfinite(value) else "not finite"


def _or_none(value: float) -> str:
    return f"{value:.2g}" if math.isfinite(value) else ""


def _tail(told: Told) -> list[str]:
    comparison = told.comparison
    said = []
    if comparison.effects:
        said.append(
            "Means over the last steps that both have, paired by step; parted: the first step that differs "
            f"by more than {NOISES:g} noises of before the decision."
        )
    said += _otherwise(told)
    said += [f"the run {_ended(told.run)}", f"the fork {_ended(told.fork, told.order.until)}"]
    if told.exit_code:
        said.append(f"the fork's command failed with exit code {told.exit_code}; its last words:")
        said.append(last_words(Path(told.fork.path)))
        if told.order.checkpoint is not None and not told.fork.samples:
            said.append("a loop that cannot go on from a checkpoint can be forked with --from-start")
    return said


def _otherwise(told: Told) -> list[str]:
    """What else was decided differently."""
    comparison = told.comparison
    said = [f"otherwise in the fork: {id}: {how}" for id, how in comparison.changed]
    for where, decisions, course in (
        ("run", comparison.only_run, told.run),
        ("fork", comparison.only_fork, told.fork),
    ):
        said += [f"only in the {where}: {_done(each, course)}" for each in decisions[:_SHOWN]]
        if len(decisions) > _SHOWN:
            said.append(f"only in the {where}: {len(decisions) - _SHOWN} more decisions")
    return said or ["no other decision was taken differently"]


def _done(decision: Decision, course: Course) -> str:
    """``off-course@1146: rollback(...), applied, helped``."""
    outcome, verdict = course.outcomes.get(decision.id), course.verdicts.get(decision.id)
    said = [", ".join(map(describe, decision.actions)) or "nothing"]
    said += [words(outcome.status)] if outcome else []
    said += [words(verdict.result)] if verdict else []
    return f"{decision.id}: {', '.join(said)}"


def _ended(course: Course, until: int | None = None) -> str:
    at = "before its first step" if course.last_step is None else f"at step {course.last_step}"
    planned = ""
    if course.horizon is not None and course.last_step is not None and course.last_step < course.horizon:
        planned = f" of {course.horizon}"
    match course.ending:
        case Ending.RUNNING:
            return f"is still going on, {at}{planned} so far"
        case Ending.STOPPED:
            return f"was stopped by {course.stopped} {at}{planned}"
        case Ending.DIED:
            return f"died {at}{planned}: its journal was not closed"
        case _ if until is not None and course.last_step == until:
            return f"ended {at}, as it was asked to"
        case _:
            return f"ended {at}{planned}"


def _decision(told: Told) -> Decision | None:
    return next((each for each in told.run.decisions if each.id == told.order.decision), None)


def _course_json(course: Course, tick: int) -> dict[str, Any]:
    samples = [sample for sample in course.samples if sample.tick > tick]
    return {
        "path": course.path,
        "ending": course.ending,
        "stopped_by": course.stopped,
        "ticks": len(samples),
        "first_step": samples[0].step if samples else None,
        "last_step": course.last_step,
        "horizon": course.horizon,
        "seconds": course.seconds,
    }


def _decision_json(decision: Decision, course: Course) -> dict[str, Any]:
    outcome, verdict = course.outcomes.get(decision.id), course.verdicts.get(decision.id)
    return {
        "id": decision.id,
        "tick": decision.tick,
        "step": decision.step,
        "disposition": decision.disposition,
        "rung": decision.rung,
        "actions": [{"name": action.name, **action.params} for action in decision.actions],
        "outcome": None if outcome is None else outcome.status,
        "verdict": None if verdict is None else verdict.result,
    }


def _effect_json(effect: Effect) -> dict[str, Any]:
    levels = {
        name: {
            "level": level.value,
            "noise": level.noise,
            "standard_error": level.standard_error,
            "count": level.count,
        }
        for name, level in (("run", effect.run), ("fork", effect.fork))
    }
    return {
        "signal": effect.signal,
        **levels,
        "difference": effect.difference,
        "standard_error": effect.standard_error,
        "paired": effect.paired,
        "steps": effect.steps,
        "noise_before": effect.noise,
        "parted_at_step": effect.parted,
    }
