"""Forecasters of a run's final value, and what they said of many runs."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from curves import Floats, Run

from midcourse.monitors.forecasting.forecast import LEAST_VALUES, Forecast, forecast
from midcourse.monitors.forecasting.intervals import Method
from midcourse.monitors.forecasting.references import Reference


@dataclass(frozen=True)
class Told:
    """What one forecaster said of one run; a baseline has no interval, and no cost to speak of."""

    run: Run
    final: float
    forecast: Forecast | None = None
    ms: float = 0.0

    @property
    def error(self) -> float:
        """Relative, in percent."""
        return 100 * abs(self.final / self.run.final - 1)


Forecaster = Callable[[Run, int, Sequence[Reference]], Told | None]


def last_value(run: Run, seen: int, references: Sequence[Reference]) -> Told:
    """It stays as it is."""
    return Told(run, float(run.values[seen - 1]))


def by_step(run: Run, seen: int, references: Sequence[Reference]) -> Told:
    """A power law of the step."""
    return _timed(run, lambda: forecast(run.steps[:seen], run.values[:seen], horizon=run.horizon))


def by_schedule(run: Run, seen: int, references: Sequence[Reference]) -> Told | None:
    """The curve on the learning rate's path."""
    return None if run.rates is None else _with_schedule(run, run.rates[:seen], seen, ())


def by_references(run: Run, seen: int, references: Sequence[Reference]) -> Told | None:
    """The same with finished runs at hand, where two of them are alike."""
    told = None if run.rates is None else _with_schedule(run, run.rates[:seen], seen, references)
    return told if told and told.forecast and told.forecast.method is Method.REFERENCES else None


FORECASTERS: dict[str, Forecaster] = {
    "last value": last_value,
    "power law": by_step,
    "schedule": by_schedule,
    "references": by_references,
}


def _with_schedule(run: Run, rates: Floats, seen: int, references: Sequence[Reference]) -> Told:
    return _timed(
        run,
        lambda: forecast(
            run.steps[:seen],
            run.values[:seen],
            horizon=run.horizon,
            rates=rates,
            future=run.schedule,
            references=references,
        ),
    )


def _timed(run: Run, make: Callable[[], Forecast]) -> Told:
    began = time.thread_time()
    made = make()
    return Told(run, made.final, made, 1e3 * (time.thread_time() - began))


def told_of(runs: Sequence[Run], forecaster: Forecaster, share: float) -> list[Told]:
    """What a forecaster says of all runs of one source that have enough values by then."""
    references = [
        (run.group, Reference(run.steps, run.values, run.rates)) for run in runs if run.rates is not None
    ]
    found = []
    for run in runs:
        seen = run.seen(share)
        others = [reference for group, reference in references if group != run.group]
        told = forecaster(run, seen, others) if seen >= LEAST_VALUES else None
        if told is not None:
            found.append(told)
    return found


def balanced(told: Sequence[Told], power: float = 1.0) -> Floats:
    """A weight for each, such that every group of n runs counts n^(1 - power); their sum is 1."""
    counts = Counter((each.run.source, each.run.group) for each in told)
    weights = np.array([counts[each.run.source, each.run.group] ** -power for each in told])
    return np.asarray(weights / weights.sum())


def quantile(values: Floats, weights: Floats, at: float) -> float:
    """The weighted quantile; the weights add up to 1."""
    order = np.argsort(values)
    place = int(np.searchsorted(np.cumsum(weights[order]), at))
    return float(values[order][min(place, len(order) - 1)])


def of(runs: Sequence[Run], source: str) -> list[Run]:
    """The runs of one source."""
    return [run for run in runs if run.source == source]
