"""Which arm of a trial is best: each is compared with *doing nothing* on the same steps.

From one state every arm makes the same steps on the same batches, so that what differs between two of them
at a step is their difference, and not the batch. That is what ``compare`` looks at:

- over the second half of the steps, since a correction needs some of them to show;
- by the means of ``BATCHES`` successive stretches. Differences at neighbouring steps are alike (a state that
  is better at one is better at the next), so single ones would be taken for more evidence than they are;
  means of stretches hardly depend on one another, and their spread gives an honest standard error (batch
  means: G. S. Fishman, Grouping observations in digital simulation, Management Science 1978);
- an arm is better if its difference is below zero by ``THRESHOLD`` standard errors, and by ``MARGIN`` of
  the noise of the calmer one.

Of those that are better than nothing the best mean wins; where none is, nothing wins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf, isfinite, nan, sqrt
from statistics import fmean, linear_regression, stdev

from .types import Outcome

NOTHING = "nothing"
"""The arm that every trial has: the run as it would go on."""

BATCHES = 8
"""Stretches whose means are compared; with fewer measurements than these nothing can be told."""

LEAST_STEPS = 4 * BATCHES
"""Of a trial: two for each stretch of its second half."""

THRESHOLD = 3.0
"""In standard errors. Student's t with seven degrees of freedom is below -3 in one of 100 cases; where
differences remember half of the step before in three, where they remember four fifths of it in eight."""

MARGIN = 2.0
"""In the noise of whichever is calmer, the arm or nothing: what a fault adds to the noise must not hide it. A
lower learning rate pays at once in any healthy run, since the weights jump about less, and costs later. That
gain stays below the noise (half of it in a small transformer at its peak rate), and what a fault does to a
run was seen well above it (four times as much): a lesser gain is no reason to leave the course."""

Series = Sequence[float | None]
"""What the judge said at each step; None where it was not measured, NaN where it was and is no number."""


@dataclass(frozen=True, slots=True)
class Compared:
    """An arm beside nothing, over the steps at which both were measured.

    ``difference`` is the arm's mean less nothing's: below 0 the arm is better. ``t`` is in standard errors,
    ``noises`` in the calmer one's noise. What cannot be told is NaN. ``sound`` is False for an arm that was
    never measured, or came to what is no finite number.
    """

    pairs: int
    mean: float
    difference: float
    standard_error: float
    t: float
    noises: float
    sound: bool
    better: bool


def compare(nothing: Series, arm: Series) -> Compared:
    """Compare an arm with nothing, step by step; both begin at the same state.

    >>> falls = [2.0 + 0.1 * (-1) ** step for step in range(32)]
    >>> compare(falls, [value - 0.5 for value in falls]).better
    True
    >>> compare(falls, falls).better
    False
    """
    ours, theirs = _second_half(arm), _second_half(nothing)
    sound = is_sound(arm)
    pairs = [
        (a, b)
        for a, b in zip(ours, theirs, strict=False)
        if a is not None and b is not None and isfinite(a) and isfinite(b)
    ]
    mean = fmean(values) if (values := [a for a in ours if a is not None and isfinite(a)]) else nan
    if not is_sound(nothing):
        # Nothing led to what is no number, if it led anywhere: whatever did not is better.
        lost = any(value is not None for value in theirs)
        return Compared(len(pairs), mean, nan, nan, nan, nan, sound, sound and lost)
    if len(pairs) < BATCHES:
        return Compared(len(pairs), mean, nan, nan, nan, nan, sound, False)
    differences = [a - b for a, b in pairs]
    difference, error = fmean(differences), _standard_error(differences)
    noise = min(map(_noise, zip(*pairs, strict=True)))
    t, noises = _ratio(difference, error), _ratio(difference, noise)
    better = sound and t <= -THRESHOLD and noises <= -MARGIN
    return Compared(len(pairs), mean, difference, error, t, noises, sound, better)


def choose(measured: Mapping[str, Series]) -> str:
    """The arm to keep, by what the judge said of all of them, nothing among them.

    Arms may be added one after another: whether one is better than nothing does not depend on the others.
    """
    compared = {name: compare(measured[NOTHING], series) for name, series in measured.items()}
    better = [name for name, each in compared.items() if name != NOTHING and each.better]
    return min(better, key=lambda name: compared[name].mean, default=NOTHING)


def kept_arm(outcome: Outcome) -> str | None:
    """The arm that a trial came to keep; None where the outcome is that of another act."""
    kept: str | None = outcome.details.get("trial", {}).get("kept")
    return kept


def is_sound(series: Series) -> bool:
    """Whether it was measured in the half that counts, and always came to a finite number there."""
    values = [value for value in _second_half(series) if value is not None]
    return bool(values) and all(map(isfinite, values))


def _second_half(series: Series) -> Series:
    return series[len(series) // 2 :]


def _standard_error(values: Sequence[float]) -> float:
    """Of the mean, by the means of successive stretches, as equal in length as can be."""
    edges = [round(number * len(values) / BATCHES) for number in range(BATCHES + 1)]
    means = [fmean(values[first:stop]) for first, stop in pairwise(edges)]
    return stdev(means) / sqrt(BATCHES)


def _noise(values: Sequence[float]) -> float:
    """The spread about a straight line: a trend is no noise, what comes back to the line is."""
    slope, start = linear_regression(range(len(values)), values)
    return stdev(value - (start + slope * place) for place, value in enumerate(values))


def _ratio(value: float, unit: float) -> float:
    """In units that may be 0: then any difference at all is beyond every bound."""
    if unit > 0.0:
        return value / unit
    return 0.0 if value == 0.0 else inf if value > 0.0 else -inf
