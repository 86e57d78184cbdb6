"""How far the truth lies from a forecast: 90 % intervals, calibrated on finished runs.

An interval is so many *units* wide. What one unit is depends on the method, and scales with the signal: it is
made of what the forecast itself says is still to come. How many units it takes was found by split conformal
prediction on recorded runs: ``python benchmarks/forecasting.py --traces DIR --calibrate``. They held the
final value of 92, 92 and 93 % (schedule), 95, 94 and 97 % (references) of 156 GPT runs after 25, 50 and 75 %
of the run; with each group of runs left out in turn, constants from the others held 92, 92 and 93 % and 90,
92 and 89 % of it.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

import numpy as np

from .course import Floats


class Method(Enum):
    """What a forecast rests on."""

    SCHEDULE = "schedule"
    REFERENCES = "references"
    POWER_LAW = "power law"


class Reach(NamedTuple):
    """Units below and above the forecast, each exceeded by the truth in 1 of 20 cases, at ``SHARES``."""

    below: tuple[float, ...]
    above: tuple[float, ...]


SHARES = (0.1, 0.25, 0.5, 0.75, 0.9)
"""Shares of the run seen so far; between them the reach is taken as straight, beyond them as level."""

REACHES = {
    Method.SCHEDULE: Reach((0.65, 0.56, 0.18, 0.11, 0.01), (0.30, 0.20, 0.30, 0.33, 0.24)),
    Method.REFERENCES: Reach((1.23, 1.23, 1.29, 0.99, 0.72), (1.92, 1.92, 0.91, 0.85, 0.65)),
    Method.POWER_LAW: Reach((4.97, 4.97, 3.69, 1.35, 0.79), (0.3, 0.3, 0.3, 0.3, 0.3)),
}
# After 10 % only few runs had been measured often enough: the schedule's are from 13, the others as at 25 %.
# The power law was calibrated on GPT validation and training losses and AlgoPerf's training losses, each
# source counting once. All of them decay the learning rate, so none ended above its forecast: nothing
# recorded says how far above others may end, and there the reach is that of the schedule's curve.

_NOISES = 2.0  # what else a unit is made of
_OF_LEVEL = 2e-3
_OF_TREND = 0.05


def trend_unit(change: Floats, noise: float, level: float) -> Floats:
    """The unit of a curve: the change to come, two noises and 0.2 % of the level.

    Args:
        change: to come by the time in question, ``[n]``, in the signal's units.
        noise: robust scale of one value around its curve.
        level: of the signal now.
    """
    return np.abs(change) + _NOISES * noise + _OF_LEVEL * abs(level)


def reference_unit(spread: float, trend: float) -> float:
    """The unit of a forecast by references: how far they differ, and a little of the unit of the curve."""
    return spread + _OF_TREND * trend


def reach(method: Method, share: float) -> tuple[float, float]:
    """Units below and above a forecast made after this share of the run."""
    below, above = REACHES[method]
    return float(np.interp(share, SHARES, below)), float(np.interp(share, SHARES, above))
