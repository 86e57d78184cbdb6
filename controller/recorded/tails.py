"""Thresholds from the scores of healthy runs: how rare large ones are, counted, or by a stated model.

An episode of a healthy run is known by its **peak**, the largest evidence in it; it ends where the evidence
has come down to half of the level at which it began (of its logarithm, where large scores become rare as a
power). As many peaks as are beyond a threshold, so many false alarms it gives.

Where the runs are long enough for ten alarms or more at the rate that is asked, the threshold is the peak
that leaves so many above it. Where they are not, the highest peaks are continued: their excess over a level u
is taken as exponential (of the score for cumulative sums, of its logarithm for the others), which is what
theory has for the excursions of a cumulative sum, and for tails that are powers. It goes no further than ten
times the length of the runs. Of independent noise, what was continued kept its rate on fresh runs, but for
``spike``, which alarmed more seldom.

Source: J. Pickands, Statistical inference using extreme order statistics, Annals of Statistics 3 (1975), with
the shape fixed at 0; B. M. Hill, A simple general approach to inference about the tail of a distribution,
ibid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from math import ceil, exp, inf, log
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...monitors.types import Tuned

ENOUGH = 10.0
"""Alarms expected at the rate that is asked, from which on they are counted."""

FURTHEST = 10.0
"""Times the length of the runs that a tail is continued for."""

_PEAKS = 50  # that the tail is fitted to: its scale is then known to 14 %, a rate at three scales to 40 %
_FEWEST = 20
_QUANTILES = (0.9999, 0.9995, 0.999, 0.995, 0.99, 0.98, 0.95, 0.9, 0.8, 0.6)
_TINY = 1e-6  # stands for scores of 0 and less in a logarithm

Scores = NDArray[Any]


class Basis(Enum):
    """What a threshold rests on."""

    COUNTED = "counted"
    EXTRAPOLATED = "extrapolated"
    LEAST = "the least it takes"
    TOO_FEW = "too few samples"


@dataclass(frozen=True, slots=True)
class Choice:
    """A threshold (None: the runs cannot support one), and what it rests on.

    ``largest`` is the largest evidence seen, ``needed`` the samples that the rate asks for at least.
    """

    threshold: float | None
    basis: Basis
    largest: float
    needed: int


def evidence(scores: Sequence[float], tuned: Tuned) -> Scores:
    """What a threshold must be below for an alarm: the score that is reached ``times`` of ``of`` times.

    >>> evidence([1.0, 9.0, 2.0, 7.0, 3.0], Tuned(times=2, of=3)).tolist()[2:]
    [2.0, 7.0, 3.0]
    """
    raw = np.asarray(scores, dtype=float)
    raw = np.where(np.isnan(raw), -inf, raw)
    if tuned.of == 1:
        return raw
    padded = np.concatenate([np.full(tuned.of - 1, -inf), raw])
    windows = np.lib.stride_tricks.sliding_window_view(padded, tuned.of)
    ordered: Scores = np.sort(windows, axis=1)[:, tuned.of - tuned.times]
    return ordered


def choose(series: Sequence[Scores], tuned: Tuned, samples: int, rate: float) -> Choice:
    """The smallest threshold with at most this rate of false alarms.

    Args:
        series: the evidence of each run and instance, in order, ``[n]`` each.
        tuned: what the monitor declares.
        samples: of the runs in all, those without a measurement too.
        rate: false alarms a sample.
    """
    expected, needed = rate * samples, ceil(round(1 / (FURTHEST * rate), 6))
    together = np.concatenate([*series, np.empty(0)])
    largest = float(together.max()) if len(together) else -inf
    if not expected * FURTHEST >= 1 or not len(together):
        return Choice(None, Basis.TOO_FEW, largest, needed)
    scaled = [_scaled(each, tuned) for each in series]
    level, peaks = _highest(scaled, max(_PEAKS, ceil(3 * expected)))
    if len(peaks) < _FEWEST:
        return Choice(None, Basis.TOO_FEW, largest, needed)
    ordered = sorted(peaks, reverse=True)
    counted = ordered[min(int(expected), len(ordered) - 1)]
    if expected >= ENOUGH:
        return Choice(_unscaled(counted, tuned), Basis.COUNTED, largest, needed)
    excess = sum(peaks) / len(peaks) - level
    continued = level + excess * log(len(peaks) / expected)
    return Choice(_unscaled(max(continued, counted), tuned), Basis.EXTRAPOLATED, largest, needed)


def _scaled(scores: Scores, tuned: Tuned) -> Scores:
    return np.log1p(np.maximum(scores, _TINY)) if tuned.power else np.maximum(scores, 0.0)


def _unscaled(score: float, tuned: Tuned) -> float:
    return exp(score) - 1 if tuned.power else score


def _highest(series: Sequence[Scores], wanted: int) -> tuple[float, list[float]]:
    """The highest level that so many episodes exceed, and their peaks; the lowest, where none has so many."""
    together = np.concatenate(series)
    level, peaks = 0.0, list[float]()
    for share in _QUANTILES:
        level = float(np.quantile(together, share))
        peaks = [peak for each in series for peak in _peaks(each, level)]
        if len(peaks) >= wanted:
            break
    return level, peaks


def _peaks(scores: Scores, level: float) -> list[float]:
    """The peak of each episode beyond a level."""
    found: list[float] = []
    inside = False
    for place in np.flatnonzero((scores > level) | (scores <= level / 2)).tolist():
        score = float(scores[place])
        if score <= level:
            inside = False
        elif not inside:
            found.append(score)
            inside = True
        elif score > found[-1]:
            found[-1] = score
    return found
