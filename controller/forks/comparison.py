"""What an intervention changed: a run beside the fork in which it was not done. Pure; reads no file.

Both saw the same batches at the same steps as long as their data did not part, so values are paired by
step: the noise that both share falls out of their difference. A step that a rollback took back counts as it
was made at last.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...monitors.types import SOURCE_PREFIX, Sample
from ...policies.types import Decision, Disposition, Outcome
from .course import Course

STRETCH = 0.1
"""Share of the steps since the decision over which the ends are compared."""

SHORTEST, LONGEST = 20, 200
"""Steps that the stretch has at least, as far as there are so many, and at most."""

BEFORE = 50
"""Measurements before the decision that a signal's own noise is told from; with fewer than FEW it is not."""

FEW = 5
NOISES = 3.0
"""Two runs have parted in a signal where they differ by so many of its noises."""

Values = NDArray[np.float64]
Series = Mapping[int, float]


@dataclass(frozen=True, slots=True)
class Level:
    """A signal over a stretch: mean, noise about its trend, standard error of the mean, measurements."""

    value: float
    noise: float
    standard_error: float
    count: int


@dataclass(frozen=True, slots=True)
class Effect:
    """A signal at the end of both runs. ``difference`` is the run less the fork: what the act did.

    It is paired by step where ``paired`` such steps are measured in both, over ``steps`` (first, last). Its
    standard error allows for autocorrelation; NaN for a single measurement. ``parted`` is the first step at
    which the two differ by more than NOISES times ``noise``, that of the signal before the decision.
    """

    signal: str
    run: Level
    fork: Level
    difference: float
    standard_error: float
    paired: int
    steps: tuple[int, int]
    noise: float
    parted: int | None


@dataclass(frozen=True, slots=True)
class Prefix:
    """Whether the fork was the run until the decision: ticks compared, the first that differs, and how."""

    ticks: int
    differs_at: int | None = None
    how: str = ""


@dataclass(frozen=True, slots=True)
class Comparison:
    """All that differs. Of decisions: those that only one took, and those that ended otherwise, with how."""

    prefix: Prefix
    effects: tuple[Effect, ...]
    only_run: tuple[Decision, ...]
    only_fork: tuple[Decision, ...]
    changed: tuple[tuple[str, str], ...]


def compare(run: Course, fork: Course, decided: int, tick: int) -> Comparison:
    """Compare a run with its fork.

    Args:
        run: Its course, from somewhat before ``tick`` on: the noise of rare signals is told from that.
        fork: Its course after ``tick``.
        decided: The tick of the first decision that the fork was to amend.
        tick: That of the checkpoint from which the fork went on.
    """
    amended = {each.id for each in run.decisions if each.tick == decided}
    ours = {each.id: each for each in run.decisions if each.tick >= decided and _counts(each)}
    theirs = {each.id: each for each in fork.decisions if each.tick >= decided and _counts(each)}
    shared = sorted(ours.keys() & theirs.keys() - amended, key=lambda id: ours[id].tick)
    changed = ((id, _otherwise(ours[id], theirs[id], run.outcomes, fork.outcomes)) for id in shared)
    return Comparison(
        prefix=_prefix(run, fork, decided, tick),
        effects=tuple(_effects(run.samples, fork.samples, decided)),
        only_run=tuple(each for id, each in ours.items() if id not in theirs and id not in amended),
        only_fork=tuple(each for id, each in theirs.items() if id not in ours),
        changed=tuple((id, how) for id, how in changed if how),
    )


def _counts(decision: Decision) -> bool:
    return decision.disposition is not Disposition.SUPPRESSED


def _otherwise(
    ours: Decision, theirs: Decision, run: Mapping[str, Outcome], fork: Mapping[str, Outcome]
) -> str:
    """How a decision that both took went otherwise in the fork; empty: it went alike."""
    if (ours.disposition, ours.rung) != (theirs.disposition, theirs.rung):
        was, became = (f"{each.disposition.value}, rung {each.rung}" for each in (ours, theirs))
        return f"{was} in the run; {became} in the fork"
    was, became = (_outcome(outcomes.get(ours.id)) for outcomes in (run, fork))
    return "" if was == became else f"{was} in the run; {became} in the fork"


def _outcome(outcome: Outcome | None) -> str:
    if outcome is None:
        return "without an outcome"
    target = outcome.details.get("rollback", {}).get("target_tick")
    return outcome.status.value + ("" if target is None else f", back to tick {target}")


# -- until the decision ---------------------------------------------------------------------------


def _prefix(run: Course, fork: Course, decided: int, tick: int) -> Prefix:
    """The two sample by sample: all of the main signals before the decision, the loss at its own tick too."""
    theirs = {sample.tick: sample for sample in fork.samples if sample.tick <= decided}
    ticks = 0
    for sample in run.samples:
        if not tick < sample.tick <= decided:
            continue
        other = theirs.get(sample.tick)
        if other is None:
            return Prefix(ticks, sample.tick, "the fork has no such tick")
        ticks += 1
        names = _main(sample.signals) if sample.tick < decided else ["loss"]
        for name in names:
            one, two = sample.signals.get(name), other.signals.get(name)
            if not _same(one, two):
                return Prefix(
                    ticks, sample.tick, f"{name} is {_told(one)} in the run, {_told(two)} in the fork"
                )
    ours, its = (
        [each.id for each in course.decisions if tick < each.tick < decided] for course in (run, fork)
    )
    if ours != its:
        id = next(one or two for one, two in _beside(ours, its) if one != two)
        where = "the run" if id in ours else "the fork"
        return Prefix(ticks, int(str(id).rpartition("@")[2]), f"{id} was decided in {where} only")
    return Prefix(ticks)


def _beside(one: Sequence[str], two: Sequence[str]) -> list[tuple[str, str]]:
    longest = max(len(one), len(two))
    return list(zip([*one, *[""] * (longest - len(one))], [*two, *[""] * (longest - len(two))], strict=True))


def _same(one: float | None, two: float | None) -> bool:
    if one is None or two is None:
        return one is two
    return one == two or (math.isnan(one) and math.isnan(two))


def _told(value: float | None) -> str:
    return "not measured" if value is None else repr(value)


def _main(names: Iterable[str]) -> list[str]:
    """The signals that a run is judged by, the loss first; not those that are measured by the clock."""
    judged = (
        name for name in names if name in ("loss", "grad_norm") or name.startswith((SOURCE_PREFIX, "eval/"))
    )
    return sorted(judged, key=lambda name: (name != "loss", not name.startswith("eval/"), name))


# -- at the end -----------------------------------------------------------------------------------


def _effects(run: Sequence[Sample], fork: Sequence[Sample], decided: int) -> list[Effect]:
    at = next((sample.step for sample in run if sample.tick >= decided), None)
    ours, theirs = _by_step(run), _by_step(fork)
    if at is None or not ours or not theirs:
        return []
    before = [sample for sample in run if sample.tick < decided]
    end = min(next(reversed(ours)), next(reversed(theirs)))
    length = min(max(round(STRETCH * (end - at)), SHORTEST), LONGEST, max(end - at, 1))
    names = _main({name for sample in (*run, *fork) for name in sample.signals})
    earlier = _by_step(before)
    found = []
    for name in names:
        run_values, fork_values, known = (_series(made, name) for made in (ours, theirs, earlier))
        found.append(_effect(run_values, fork_values, known, name, at, end, length))
    return [effect for effect in found if effect is not None]


def _by_step(samples: Iterable[Sample]) -> dict[int, Sample]:
    """By rising step, as each was made at last: going back takes away what came after."""
    made: dict[int, Sample] = {}
    for sample in samples:
        while made and next(reversed(made)) >= sample.step:
            made.popitem()
        made[sample.step] = sample
    return made


def _series(samples: Mapping[int, Sample], name: str) -> Series:
    return {step: sample.signals[name] for step, sample in samples.items() if name in sample.signals}


def _effect(
    run: Series, fork: Series, before: Series, name: str, at: int, end: int, length: int
) -> Effect | None:
    """None where a run has not measured the signal since the decision."""
    run, fork = (_until(series, at, end) for series in (run, fork))
    if not run or not fork:
        return None
    first = min(end - length + 1, max(run), max(fork))  # a rare signal is compared by its last value
    ours, theirs = (_values(value for step, value in s.items() if step >= first) for s in (run, fork))
    common = [step for step in run if step in fork and step >= first]
    pairs = _values(run[step] - fork[step] for step in common)
    one, two, between = _level(ours), _level(theirs), _level(pairs)
    known = _values([value for value in before.values() if math.isfinite(value)][-BEFORE:])
    noise = _noise(known) if len(known) >= FEW else math.nan
    if common:
        difference, error = between.value, between.standard_error
    else:
        difference, error = one.value - two.value, math.hypot(one.standard_error, two.standard_error)
    parted = _parted(run, fork, noise)
    return Effect(name, one, two, difference, error, len(common), (first, end), noise, parted)


def _parted(run: Series, fork: Series, noise: float) -> int | None:
    """The first step at which the two differ by more than noise; where one is not finite, they do."""
    if math.isnan(noise):
        return None
    return next((s for s in run if s in fork and not abs(run[s] - fork[s]) <= NOISES * noise), None)


def _until(series: Series, at: int, end: int) -> Series:
    return {step: value for step, value in series.items() if at <= step <= end}


def _values(values: Iterable[float]) -> Values:
    return np.fromiter(values, dtype=np.float64)


def _level(values: Values) -> Level:
    """NaN where any value is: a run that is not finite has no level."""
    count = len(values)
    if not count or not np.isfinite(values).all():
        return Level(math.nan, math.nan, math.nan, count)
    noise = _noise(values)
    return Level(float(values.mean()), noise, _standard_error(values), count)


def _noise(values: Values) -> float:
    """Standard deviation about a straight line; NaN for fewer than three."""
    if len(values) < 3:
        return math.nan
    return float(np.sqrt(np.square(_residuals(values)).sum() / (len(values) - 2)))


def _residuals(values: Values) -> Values:
    places = np.arange(len(values), dtype=np.float64)
    places -= places.mean()
    centred: Values = values - values.mean()
    residuals: Values = centred - places * (places @ centred) / (places @ places)
    return residuals


def _standard_error(values: Values) -> float:
    """Of the mean, for noise whose neighbours are alike: that of an AR(1) process of the same correlation.

    sqrt((1 + r) / (1 - r)) times that of independent values; r is estimated at lag 1, and counts only where
    it is positive.
    """
    if len(values) < 3:
        return math.nan
    residuals = _residuals(values)
    power = float(residuals @ residuals)
    if power == 0.0:
        return 0.0
    r = min(max(float(residuals[:-1] @ residuals[1:]) / power, 0.0), 0.95)
    return _noise(values) / math.sqrt(len(values)) * math.sqrt((1.0 + r) / (1.0 - r))
