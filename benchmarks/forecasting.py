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
"Others" is the coverage with constants of the intervals found anew without the groups that are judged: what
to expect of runs of new kinds, while coverage itself is what to expect of more runs of these.
The last table is of the alarm, fed value by value as a run would: what it says of runs that went as they
should, of faults injected into a small transformer (found within 400 samples), and of the same healthy runs
made 5 % worse from their middle on. Validation losses have some 40 values a run.
``--calibrate`` prints constants found from all runs: see ``calibrated``.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from as_detector import as_detector
from calibration import calibrated
from common import add_json_argument, columns, give, machine
from curves import Run, recorded, synthetic
from forecasters import FORECASTERS, Told, balanced, of, quantile, told_of

from midcourse.monitors.forecasting.intervals import SHARES, Method

TARGETS = {
    ("forecast_nanogpt", "schedule"): {0.25: 2.4, 0.5: 0.9, 0.75: 0.4},
    ("forecast_nanogpt", "references"): {0.25: 0.7, 0.5: 0.6, 0.75: 0.3},
}
"""Errors in percent, by source and forecaster and share, that are not to be exceeded."""


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


def measure(runs: Sequence[Run], traces: Path | None, seed: int) -> dict[str, Any]:
    """Everything that this benchmark says."""
    constants = [
        row for method in Method for share in SHARES if (row := calibrated(runs, method, share)) is not None
    ]
    others = {(row["method"], row["share"]): row["left_out"] for row in constants}
    found = []
    for source in dict.fromkeys(run.source for run in runs):
        for name, forecaster in FORECASTERS.items():
            for share in SHARES:
                told = told_of(of(runs, source), forecaster, share)
                if told:
                    row = {"source": source, "forecaster": name, "share": share, **figures(told)}
                    row["left_out"] = others.get((name, share)) if name != Method.POWER_LAW.value else None
                    found.append({**row, "target": TARGETS.get((source, name), {}).get(share)})
    return {
        "benchmark": "forecasting",
        "machine": machine(),
        "seed": seed,
        "results": found,
        "calibration": constants,
        "as_detector": as_detector(traces, seed),
    }


def table(result: Mapping[str, Any], calibrate: bool) -> str:
    """The same for people."""
    about = result["machine"]
    numbers = {
        "error %": "error",
        "bar": "target",
        "by group": "error_by_group",
        "coverage %": "coverage",
        "of groups": "coverage_by_group",
        "others": "left_out",
        "width %": "width",
        "ms": "ms",
    }
    rows = [["of", "runs", "seen", *numbers]]
    for row in result["results"]:
        cells = [f"{row[name]:.2f}" if row.get(name) is not None else "" for name in numbers.values()]
        about_run = [f"{row['source']}: {row['forecaster']}", str(row["runs"]), f"{100 * row['share']:.0f} %"]
        rows.append([*about_run, *cells])
    parts = [f"{about['processor']}, Python {about['python']}, numpy {about['numpy']}", columns(rows)]
    rows = [["as a detector", "runs", "samples", "false alarms", "in 100 k", "found", "delay"]]
    for row in result["as_detector"]:
        delay = "" if row["delay"] is None else f"{row['delay']:g}"
        counts = [str(row[name]) for name in ("runs", "samples", "false_alarms")]
        rows.append([row["family"], *counts, f"{row['per_100k']:g}", row["found"], delay])
    parts.append(columns(rows))
    if calibrate:
        constants = ("below", "above", "factor", "coverage", "left_out")
        rows = [["units of reach", "seen", "below", "above", "factor", "coverage %", "others"]]
        for row in result["calibration"]:
            told = [f"{row[name]:.2f}" for name in constants]
            rows.append([row["method"], f"{100 * row['share']:.0f} %", *told])
        parts.append(columns(rows))
    return "\n\n".join(parts)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and say."""
    parser = argparse.ArgumentParser(description="How well is the final value known before the end?")
    parser.add_argument("--traces", type=Path, metavar="DIR", help="recorded runs (default: synthetic ones)")
    parser.add_argument("--seed", type=int, default=0, help="of the synthetic runs")
    parser.add_argument(
        "--calibrate", action="store_true", help="print constants for the intervals, found anew"
    )
    add_json_argument(parser)
    given = parser.parse_args(arguments)
    runs = recorded(given.traces) if given.traces else synthetic(given.seed)
    result = measure(runs, given.traces, given.seed)
    give(result, table(result, given.calibrate), given.json)


if __name__ == "__main__":
    main()
