"""Does an alarm keep its budget? Mean time to the first false alarm over the budget, on noise of many kinds.

::

    python benchmarks/average_run_length.py              budgets of 1000 and 10000 measurements, a table
    python benchmarks/average_run_length.py --budgets 100000 --runs 16 --json [OUT]

``e_detector`` is told a budget, and so is ``unwhitened``, the same without its whitening: where it says less
than 1, a promise is broken. The peers know no budget: their own mean time is divided by it all the same.
``sustained_rise`` is the CUSUM of robust z, ``adwin`` river's ADWIN that alarms at rises only, ``ADWIN, raw``
that of river as it is. All watch the same noise without any change in it, each from its first measurement,
warm-up included, until its first alarm.

No run is longer than ``HORIZON`` budgets. The mean is the time of all runs over the number of alarms (that of
times that are distributed exponentially, as these are roughly); its standard error is the mean over the root
of that number. ``>`` stands for no alarm at all. Three kinds are there because they may break the budget: an
AR(.95) that makes 30 %, whose correlation the next two values hardly show, and values of 0 and 1, of which so
many are the same that median and quartiles, and with them level and noise, jump.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from math import sqrt
from typing import Any

import numpy as np
from common import add_json_argument, columns, give, machine
from peers import River
from river.drift import ADWIN
from runs import Array, autoregressive

from midcourse.monitors.e_detector import EDetector
from midcourse.monitors.registry import make_monitor
from midcourse.monitors.types import Monitor, MonitorSpec, Sample
from midcourse.monitors.whitening import Whitening

Alarms = Callable[[Sample], bool]

HORIZON = 5


def moving_sum(noise: Array, weights: Sequence[float]) -> Array:
    """A moving average of noise, but for its first values."""
    return np.convolve(noise, weights)[: len(noise)]


def slow_in_part(rng: np.random.Generator, length: int) -> Array:
    """White noise, and for 30 % of the variance an AR(.95)."""
    slow = autoregressive(rng.standard_normal(length), 0.95) * sqrt(1 - 0.95**2)
    return sqrt(0.3) * slow + sqrt(0.7) * rng.standard_normal(length)


NOISES: Mapping[str, Callable[[np.random.Generator, int], Array]] = {
    "normal": lambda rng, n: rng.standard_normal(n),
    "Student-t of 8": lambda rng, n: rng.standard_t(8, n),
    "Student-t of 3": lambda rng, n: rng.standard_t(3, n),
    "Cauchy": lambda rng, n: rng.standard_cauchy(n),
    "exponential": lambda rng, n: rng.exponential(1, n),
    "uniform": lambda rng, n: rng.uniform(-1, 1, n),
    "10 % at 8 noises": lambda rng, n: rng.standard_normal(n) + 8 * (rng.random(n) < 0.1),
    "AR(.2)": lambda rng, n: autoregressive(rng.standard_normal(n), 0.2),
    "AR(.6)": lambda rng, n: autoregressive(rng.standard_normal(n), 0.6),
    "AR(.9)": lambda rng, n: autoregressive(rng.standard_normal(n), 0.9),
    "AR(.6) of t of 3": lambda rng, n: autoregressive(rng.standard_t(3, n), 0.6),
    "AR(.6) of exponential": lambda rng, n: autoregressive(rng.exponential(1, n), 0.6),
    "AR(.5, .3)": lambda rng, n: autoregressive(rng.standard_normal(n), 0.5, 0.3),
    "MA(.8)": lambda rng, n: moving_sum(rng.standard_normal(n), (1, 0.8)),
    "mean of 5": lambda rng, n: moving_sum(rng.standard_normal(n), (1,) * 5),
    "AR(.95) for 30 %": slow_in_part,
    "0 or 1, even": lambda rng, n: 1.0 * (rng.random(n) < 0.5),
    "0 or 1, 30 %": lambda rng, n: 1.0 * (rng.random(n) < 0.3),
}
"""Noise by name: a random generator and a length -> values."""


class Unwhitened(EDetector):
    """The e-detector whose residuals are z itself."""

    def __init__(self, signal: str, **params: float) -> None:
        super().__init__(signal, **params)  # type: ignore[arg-type]
        self._whitening = _Idle(1)


class _Idle(Whitening):
    """Learns nothing, and so foretells nothing."""

    def learn(self, z: float) -> None:
        pass


def watches(budget: float) -> dict[str, Alarms]:
    """Who watches, anew: each takes a sample and says whether it alarms."""
    monitors: dict[str, Monitor] = {
        "e_detector": EDetector("loss", average_run_length=budget),
        "unwhitened": Unwhitened("loss", average_run_length=budget),
        **{
            kind: make_monitor(MonitorSpec("", kind, {"signal": "loss"}))
            for kind in ("sustained_rise", "adwin")
        },
    }
    raw = River(ADWIN())  # type: ignore[no-untyped-call]
    alarms: dict[str, Alarms] = {name: _of(monitor) for name, monitor in monitors.items()}
    return {**alarms, "ADWIN, raw": lambda sample: raw.alarms(sample.signals["loss"], None)}


def _of(monitor: Monitor) -> Alarms:
    return lambda sample: monitor.update(sample).bad


def run_lengths(noise: str, budget: int, seed: int, number: int) -> dict[str, tuple[int, bool]]:
    """Of each, the measurements to its first alarm or the end of the run, and whether there was one."""
    rng = np.random.default_rng([seed, number, *noise.encode()])
    values = NOISES[noise](rng, HORIZON * budget).tolist()
    watching = watches(budget)
    told: dict[str, tuple[int, bool]] = {}
    for tick, value in enumerate(values):
        sample = Sample(tick, tick, 0, {"loss": value})
        for name in [name for name, alarms in watching.items() if alarms(sample)]:
            told[name] = (tick + 1, True)
            del watching[name]
        if not watching:
            break
    return told | dict.fromkeys(watching, (len(values), False))


def ratio(lengths: Sequence[tuple[int, bool]], budget: int) -> dict[str, float | int | None]:
    """The mean over the budget, with its standard error (None: no alarm, and the mean is a lower bound)."""
    alarms = sum(alarm for _, alarm in lengths)
    mean = sum(length for length, _ in lengths) / max(1, alarms) / budget
    return {
        "alarms": alarms,
        "ratio": round(mean, 3),
        "error": round(mean / sqrt(alarms), 3) if alarms else None,
    }


def measure(budgets: Sequence[int], runs: int, seed: int, workers: int) -> dict[str, Any]:
    """Everything that this benchmark says."""
    cases = list(product(NOISES, budgets))
    with ProcessPoolExecutor(workers) as pool:
        asked = {
            (noise, budget): [pool.submit(run_lengths, noise, budget, seed, number) for number in range(runs)]
            for noise, budget in cases
        }
        rows = []
        for noise, budget in cases:
            told = [each.result() for each in asked[noise, budget]]
            of = {name: ratio([lengths[name] for lengths in told], budget) for name in watches(budget)}
            rows.append({"noise": noise, "budget": budget, "watches": of})
    return {"benchmark": "average_run_length", "machine": machine(), "seed": seed, "runs": runs, "rows": rows}


def table(result: Mapping[str, Any]) -> str:
    """The same for people."""
    names = list(result["rows"][0]["watches"])
    rows = [["mean time to a false alarm, in budgets", "budget", *names]]
    for row in result["rows"]:
        rows.append([row["noise"], str(row["budget"]), *(_cell(row["watches"][name]) for name in names)])
    return f"{result['runs']} runs each, seed {result['seed']}\n\n{columns(rows)}"


def _cell(of: Mapping[str, Any]) -> str:
    return f"> {of['ratio']:.0f}" if of["error"] is None else f"{of['ratio']:.2f} +- {of['error']:.2f}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and say."""
    parser = argparse.ArgumentParser(description="Mean time to a false alarm, over its budget.")
    parser.add_argument("--budgets", default="1000,10000", help="measurements (default 1000,10000)")
    parser.add_argument("--runs", type=int, default=40, help="runs of each noise (default 40)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="processes (default: all cores)"
    )
    add_json_argument(parser)
    given = parser.parse_args(arguments)
    budgets = [int(float(budget)) for budget in given.budgets.split(",")]
    result = measure(budgets, given.runs, given.seed, given.workers)
    give(result, table(result), given.json)


if __name__ == "__main__":
    main()
