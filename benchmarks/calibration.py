"""Constants of the forecasts' intervals, found on finished runs, and what they hold of others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from curves import Floats, Run
from forecasters import FORECASTERS, Told, balanced, of, quantile, told_of
from numpy.typing import NDArray

from midcourse.monitors.forecasting.intervals import Method

NEARBY = (-0.05, 0.0, 0.05)
"""A constant of the intervals is found from the forecasts at these distances from its share."""

AIM = 92.0
"""Percent: the mean of both coverages that the constants are scaled to. An interval is to hold the end of
90 % of more runs of the same groups, and of new ones; those are few here and differ, so a little is added."""

FACTORS = np.arange(0.6, 1.8, 0.02)
"""That the constants may be scaled by."""


@dataclass(frozen=True)
class Surprises:
    """By how many units final values lay above their forecasts, near one share of the run."""

    groups: NDArray[np.str_]
    units: Floats
    here: NDArray[np.bool_]  # made at the share itself
    weights: Floats

    @classmethod
    def of(cls, runs: Sequence[Run], method: Method, share: float) -> Surprises | None:
        """What the runs of all sources say by a method; None of one group only, or of none at the share."""
        near = [min(share + distance, 0.95) for distance in NEARBY]
        told = [
            (each, at == share)
            for source in sorted({run.source for run in runs})
            for at in near
            for each in told_of(of(runs, source), FORECASTERS[method.value], at)
        ]
        every = [each for each, _ in told]
        groups = np.array([f"{each.run.source} {each.run.group}" for each in every])
        if len(set(groups)) < 2 or not any(here for _, here in told):
            return None
        sources = Counter(each.run.source for each in every)  # each of them counts once
        weights = balanced(every, power=0.5) / [sources[each.run.source] for each in every]
        units = np.array([_surprise(each) for each in every])
        return cls(groups, units, np.array([here for _, here in told]), weights)

    def quantiles(self, chosen: NDArray[np.bool_]) -> tuple[float, float]:
        """Units below and above that hold 18 of 20 of the chosen, each group by the root of its runs."""
        units, weights = self.units[chosen], self.weights[chosen] / self.weights[chosen].sum()
        return max(0.0, -quantile(units, weights, 0.05)), max(0.0, quantile(units, weights, 0.95))

    def excess(self) -> tuple[Floats, Floats]:
        """How often each surprise at the share is as large as the quantiles: of all, and of other groups."""
        every = np.ones(len(self.units), dtype=bool)
        by_all, by_others = [], []
        for group in np.unique(self.groups):
            own = (self.groups == group) & self.here
            by_all += _times(self.units[own], *self.quantiles(every))
            by_others += _times(self.units[own], *self.quantiles(self.groups != group))
        return np.array(by_all), np.array(by_others)


def _times(units: Floats, below: float, above: float) -> list[float]:
    least = 1e-9  # for an end at the forecast itself
    return [-unit / max(below, least) if unit < 0 else unit / max(above, least) for unit in units.tolist()]


def _surprise(told: Told) -> float:
    assert told.forecast is not None
    return (told.run.final - told.final) / told.forecast.unit


def calibrated(runs: Sequence[Run], method: Method, share: float) -> dict[str, Any] | None:
    """The constants of one method at one share, and the coverage of groups that they were not found on.

    Quantiles of how far off the forecasts were, in their units; then both ends times one factor, so that the
    mean of two coverages is nearest to ``AIM``: of all runs by constants from all, and of each group's by
    constants from the others. Not the power law: its sources differ too much for one factor.
    """
    surprises = Surprises.of(runs, method, share)
    if surprises is None:
        return None
    by_all, by_others = surprises.excess()
    factor = 1.0
    if method is not Method.POWER_LAW:
        off = [abs(100 * ((by_all <= f).mean() + (by_others <= f).mean()) / 2 - AIM) for f in FACTORS]
        factor = float(FACTORS[np.flatnonzero(np.isclose(off, min(off)))[-1]])  # the widest of the best
    below, above = surprises.quantiles(np.ones(len(surprises.units), dtype=bool))
    return {
        "method": method.value,
        "share": share,
        "below": round(factor * below, 2),
        "above": round(factor * above, 2),
        "factor": round(factor, 2),
        "coverage": round(100 * float((by_all <= factor).mean()), 1),
        "left_out": round(100 * float((by_others <= factor).mean()), 1),
    }
