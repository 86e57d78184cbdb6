"""The forecast itself: the final value with its interval, and the way there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .course import Course, Floats, Future, course
from .curve import Curve, fit_curve
from .intervals import Method, reach, reference_unit, trend_unit
from .references import Reference, transfer

LEAST_VALUES = 5
"""Values from which a curve is fitted."""

_DROPPED = 0.15  # of the steps so far: the start follows no power law


@dataclass(frozen=True, slots=True)
class Trend:
    """A fitted curve on the course of its run; ``now`` is the last step that was seen."""

    course: Course
    curve: Curve
    now: float

    @property
    def method(self) -> Method:
        """What it rests on."""
        return Method.POWER_LAW if self.course.rates is None else Method.SCHEDULE

    def at(self, steps: Floats) -> Floats:
        """The curve at steps ``[n]``, rising."""
        return self.curve.at(self.course.features(steps))

    def ahead(self, steps: Floats) -> tuple[Floats, Floats]:
        """The curve at steps from now on, rising, ``[n]``, and the unit of its intervals there.

        The change to come is what the curve says where the schedule is known. Else nobody knows: it is taken
        to be as much as in the second half of the run so far, spread over what is left of it.
        """
        half, now, *levels = self.at(np.concatenate(([self.now / 2, self.now], steps)))
        expected = np.array(levels)
        change = expected - now
        if self.method is Method.POWER_LAW:
            change = (half - now) * (steps - self.now) / max(self.course.horizon - self.now, 1.0)
        return expected, trend_unit(change, self.curve.noise, float(now))

    def reach(self, method: Method) -> tuple[float, float]:
        """Units below and above a forecast that is made now."""
        return reach(method, self.now / self.course.horizon)


@dataclass(frozen=True, slots=True)
class Forecast:
    """The final value and the ends of its 90 % interval, in the signal's units, and what they rest on.

    ``unit`` is what the interval's reach is measured in.
    """

    final: float
    low: float
    high: float
    method: Method
    unit: float
    trend: Trend


def forecast(
    steps: Floats,
    values: Floats,
    *,
    horizon: float,
    rates: Floats | None = None,
    future: Future | None = None,
    references: Sequence[Reference] = (),
) -> Forecast:
    """Forecast the final value of a signal that falls towards a value that is not negative, such as a loss.

    Where two finished runs of the same schedule are given, it ends as far from them as it is now; else it
    follows L0 + A S1^-alpha + kappa eta~, if the schedule is known to the end; else a power law of the step.

    Args:
        steps: measured so far, rising and not negative, ``[n]``.
        values: there, finite, ``[n]``; of a noisy signal the means of blocks.
        horizon: steps of the whole run.
        rates: lr / peak there, ``[n]``; None if it is not known.
        future: lr / peak of the remaining steps; None if it is not known.
        references: finished runs; those of another schedule or length are left out.

    Raises:
        ValueError: there are fewer than five values, or the arrays differ in length.

    >>> steps = np.arange(100.0, 5100.0, 100.0)
    >>> told = forecast(steps, 2 + 30 * steps**-0.5, horizon=10_000)
    >>> round(told.final, 2), told.low < 2.3 < told.high, told.method.value
    (2.3, True, 'power law')
    """
    steps, values = np.asarray(steps, dtype=float), np.asarray(values, dtype=float)
    rates = None if rates is None else np.asarray(rates, dtype=float)
    lengths = {len(array) for array in (steps, values, rates) if array is not None}
    if len(lengths) > 1 or len(values) < LEAST_VALUES:
        raise ValueError(f"needs {LEAST_VALUES} values and as many steps and rates, got {sorted(lengths)}")
    trend = fit_trend(steps, values, course(steps, rates, horizon, future))
    ends, units = trend.ahead(np.array([horizon], dtype=float))
    final, unit, method = float(ends[0]), float(units[0]), trend.method
    said = transfer(steps, values, trend.course, references)
    if said is not None:
        final, unit, method = said.final, reference_unit(said.spread, unit), Method.REFERENCES
    below, above = trend.reach(method)
    low = final - below * unit
    if values.min() >= 0:
        low = max(low, 0.0)
    return Forecast(final, low, final + above * unit, method, unit, trend)


def fit_trend(steps: Floats, values: Floats, course: Course) -> Trend:
    """Fit the curve to all but the first 15 % of the steps so far, but no fewer than ``LEAST_VALUES``
    values."""
    first = min(int(np.searchsorted(steps, _DROPPED * steps[-1])), len(steps) - LEAST_VALUES)
    curve = fit_curve(values[first:], course.features(steps[first:]))
    return Trend(course, curve, float(steps[-1]))
