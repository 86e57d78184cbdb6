"""How well is a signal's final value known before the end? Errors, intervals and costs by share of the run.

::

    python benchmarks/forecasting.py                            a table, on synthetic runs
    python benchmarks/forecasting.py --traces DIR               on recorded runs, as far as DIR holds them
    python benchmarks/forecasting.py --traces DIR --json [OUT]  the same for programs
    python benchmarks/forecasting.py --traces DIR --calibrate   with the constants of the intervals found anew

DIR holds ``forecast_nanogpt`` (validation loss with the learning rate: step, value, lr / peak),
``healthy_nanogpt`` and ``healthy_algoperf`` (training loss, schedule not logged), each as NAME.npz and
NAME.json. An entry whose steps start again holds several runs. Training losses are thinned to means of
blocks, and their final value is that of the last block. References of a run are the runs of all other groups.
Errors are relative, in percent, medians over runs, and once more with each group counting once. Coverage is
the share of final values within the 90 % interval, width its median width relative to the final value.
``--calibrate`` gives the units of reach that hold 90 %, each group counting by the root of its runs, and the
coverage of each group's runs by constants taken from the other groups.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from common import add_json_argument, columns, give, machine
from curves import Floats, Run, recorded, synthetic

from midcourse.monitors.forecasting.forecast import LEAST_VALUES, Forecast, forecast
from midcourse.monitors.forecasting.intervals import SHARES, Method
from midcourse.monitors.forecasting.references import Reference

TARGETS = {"forecast_nanogpt": {"schedule": (2.4, 0.9, 0.4), "references": (0.7, 0.6, 0.3)}}
"""Errors in percent, by source and forecaster, that are not to be exceeded."""

NEARBY = (-0.05, 0.0, 0.05)
"""A constant of the intervals is found from the forecasts at these distances from its share."""


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


def figures(told: Sequence[Told]) -> dict[str, Any]:
    """Medians over runs, and with intervals their coverage, width and cost."""
    weights = balanced(told)
    errors = np.array([each.error for each in told])
    result: dict[str, Any] = {
        "runs": len(told),
        "error": round(float(np.median(errors)), 3),
        "error_by_group": round(quantile(errors, weights, 0.5), 3),
    }
    made = [(each.forecast, each.run.final) for each in told if each.forecast]
    if made:
        inside = np.array([each.low <= final <= each.high for each, final in made])
        result["coverage"] = round(100 * float(inside.mean()), 1)
        result["coverage_by_group"] = round(100 * float(weights @ inside), 1)
        result["width"] = round(100 * median((each.high - each.low) / final for each, final in made), 2)
        result["ms"] = round(median(each.ms for each in told), 3)
    return result


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


def calibrated(told: Sequence[Told]) -> tuple[float, float]:
    """Units below and above the forecasts within which 18 of 20 final values lie."""
    surprises = np.array([_surprise(each) for each in told])
    weights = balanced(told, power=0.5)
    sources = Counter(each.run.source for each in told)  # each of them counts once
    weights *= [1 / sources[each.run.source] for each in told]
    weights /= weights.sum()
    return max(0.0, -quantile(surprises, weights, 0.05)), max(0.0, quantile(surprises, weights, 0.95))


def _surprise(told: Told) -> float:
    """By how many units the final value lies above its forecast."""
    assert told.forecast is not None
    return (told.run.final - told.final) / told.forecast.unit


def calibration(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """The constants of the intervals, and what they hold of groups that they were not found on."""
    rows = []
    sources = {run.source for run in runs}
    for method in Method:
        for share in SHARES:
            told = [
                each
                for source in sorted(sources)
                for near in NEARBY
                for each in told_of(of(runs, source), FORECASTERS[method.value], share + near)
            ]
            if told:
                below, above = calibrated(told)
                units = {"below": round(below, 2), "above": round(above, 2)}
                rows.append({"method": method.value, "share": share, **units, "left_out": left_out(told)})
    return rows


def left_out(told: Sequence[Told]) -> float:
    """Coverage in percent where each group's interval is calibrated on the others."""
    inside = []
    for group in sorted({(each.run.source, each.run.group) for each in told}):
        own = [each for each in told if (each.run.source, each.run.group) == group]
        others = [each for each in told if (each.run.source, each.run.group) != group]
        if others:
            below, above = calibrated(others)
            inside += [-below <= _surprise(each) <= above for each in own]
    return round(100 * float(np.mean(inside)), 1) if inside else 0.0


def of(runs: Sequence[Run], source: str) -> list[Run]:
    """The runs of one source."""
    return [run for run in runs if run.source == source]


def measure(runs: Sequence[Run], seed: int, calibrate: bool) -> dict[str, Any]:
    """Everything that this benchmark says."""
    found = []
    for source in dict.fromkeys(run.source for run in runs):
        for name, forecaster in FORECASTERS.items():
            for place, share in enumerate(SHARES):
                told = told_of(of(runs, source), forecaster, share)
                if told:
                    target = TARGETS.get(source, {}).get(name)
                    row = {"source": source, "forecaster": name, "share": share, **figures(told)}
                    found.append({**row, "target": target[place] if target else None})
    return {
        "benchmark": "forecasting",
        "machine": machine(),
        "seed": seed,
        "results": found,
        "calibration": calibration(runs) if calibrate else None,
    }


def table(result: Mapping[str, Any]) -> str:
    """The same for people."""
    about = result["machine"]
    heads = ["of", "runs", "seen", "error %", "bar", "by group", "coverage %", "by group", "width %", "ms"]
    names = ("error", "target", "error_by_group", "coverage", "coverage_by_group", "width", "ms")
    rows = [heads]
    for row in result["results"]:
        cells = [f"{row[name]:.2f}" if row.get(name) is not None else "" for name in names]
        about_run = [f"{row['source']}: {row['forecaster']}", str(row["runs"]), f"{100 * row['share']:.0f} %"]
        rows.append([*about_run, *cells])
    parts = [f"{about['processor']}, Python {about['python']}, numpy {about['numpy']}", columns(rows)]
    if result["calibration"]:
        rows = [["units of reach", "seen", "below", "above", "coverage of groups left out %"]]
        for row in result["calibration"]:
            numbers = [f"{row[name]:.2f}" for name in ("below", "above", "left_out")]
            rows.append([row["method"], f"{100 * row['share']:.0f} %", *numbers])
        parts.append(columns(rows))
    return "\n\n".join(parts)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and say."""
    parser = argparse.ArgumentParser(description="How well is the final value known before the end?")
    parser.add_argument("--traces", type=Path, metavar="DIR", help="recorded runs (default: synthetic ones)")
    parser.add_argument("--seed", type=int, default=0, help="of the synthetic runs")
    parser.add_argument("--calibrate", action="store_true", help="find the constants of the intervals anew")
    add_json_argument(parser)
    given = parser.parse_args(arguments)
    runs = recorded(given.traces) if given.traces else synthetic(given.seed)
    result = measure(runs, given.seed, given.calibrate)
    give(result, table(result), given.json)


if __name__ == "__main__":
    main()
