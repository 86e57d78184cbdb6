"""Does it tell a change that is meant from a fault? Real runs whose rate or data change on purpose.

::

    python benchmarks/changes.py                 a table
    python benchmarks/changes.py --json [OUT]    the same for programs

The demo's transformer trains through warm restarts, steps and cuts of the learning rate, and other mixes of
its three sources, as a schedule, a policy's acts or a user would change them: nothing is wrong. In other runs
something goes wrong a few steps after such a change. The monitors of the shipped baseline policy watch each
run twice: as it is, and without what it says of its changes (the learning rate, the mix).

- **Alarms** are the episodes of any monitor but ``spike`` that begin with the first change or later, and
  **acts** the decisions that would change the run, in healthy runs; both should be 0.
- **Delay** is that of the first alarm of a monitor of the loss after the fault, in steps, and of the act.

The norms are measured at every tenth step.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import product
from math import cos, pi
from statistics import median
from typing import Any

import torch
from blowups import Training
from common import add_json_argument, columns, give, machine
from watches import Policy

from midcourse.monitors.changes import MARK, MIX_PREFIX
from midcourse.monitors.types import Sample
from midcourse.policies.judging import Alarms

WARM_UP = 50
EVERY = 10  # steps between two measurements of the norms
NORMS = ("update_ratio", "param_norm")
ON_LOSS = ("blowup", "rise", "source", "broken")
EVEN = (1 / 3, 1 / 3, 1 / 3)

Shares = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Scenario:
    """A run whose rate and shares of the sources follow the step; ``noise`` spoils rows from ``fault`` on.

    ``first`` is the step of its first change.
    """

    name: str
    steps: int
    first: int
    rate: Callable[[int], float] = lambda step: 1.0
    shares: Callable[[int], Shares] = lambda step: EVEN
    fault: int | None = None
    noise: float = 0.0


def _cosine(step: int, steps: int) -> float:
    return 0.05 + 0.475 * (1 + cos(pi * min(step / steps, 1.0)))


def _restarts(step: int) -> float:
    """Cycles of 300, 600, ... steps, each down to zero."""
    length = 300
    while step >= length:
        step -= length
        length *= 2
    return 0.5 * (1 + cos(pi * step / length))


def _override(step: int, start: int, factor: float, hold: int, ramp: int) -> float:
    """As a layer on the learning rate: in force, then fading."""
    faded = (step - start - hold + 1) / (ramp + 1)
    strength = 0.0 if step < start else 1.0 if step < start + hold else max(0.0, 1.0 - faded)
    return 1 - strength + factor * strength


def _quarantine(step: int) -> Shares:
    """One source is left out, and comes back in stages."""
    weight = 1.0 if step < 700 else 0.0 if step < 900 else min(1.0, (step - 900) // 15 * 0.15)
    return weight / (weight + 2), 1 / (weight + 2), 1 / (weight + 2)


def _stages(step: int) -> Shares:
    return EVEN if step < 700 else (0.75, 0.125, 0.125) if step < 1100 else (0.125, 0.125, 0.75)


def _rewarmed(step: int) -> float:
    return _cosine(step, 800) if step < 800 else min(1.0, (step - 799) / WARM_UP)


def _steps(step: int) -> float:
    return 1.0 if step < 900 else 0.1 if step < 1200 else 0.01


def _halved(step: int) -> float:
    return _override(step, 700, 0.5, 200, 200)


def _tenth(step: int) -> float:
    return _override(step, 700, 0.1, 200, 200)


def _wrong_restart(step: int) -> float:
    return _restarts(step) * (10 if step >= 930 else 1)


def _wrong_rate(step: int) -> float:
    return 10.0 if step >= 945 else 1.0


HEALTHY = (
    Scenario("warm restarts", 1500, 300, _restarts),
    Scenario("warm restart, warmed up", 1300, 800, _rewarmed),
    Scenario("rate / 10, twice", 1500, 900, _steps),
    Scenario("rate x 0.5, held, ramp back", 1300, 700, _halved),
    Scenario("rate x 0.1, held, ramp back", 1300, 700, _tenth),
    Scenario("source left out, comes back", 1300, 700, shares=_quarantine),
    Scenario("other mixes", 1500, 700, shares=_stages),
)
FAULTY = (
    Scenario("restart, then bad rows", 1000, 300, _restarts, fault=915, noise=0.25),
    Scenario("restart, then rate x 10", 1000, 300, _wrong_restart, fault=930),
    Scenario("rate x 0.5, then bad rows", 800, 700, _halved, fault=715, noise=0.25),
    Scenario("source comes back, rate x 10", 1000, 700, _wrong_rate, _quarantine, fault=945),
    Scenario("another mix, then bad rows", 800, 700, shares=_stages, fault=715, noise=0.25),
)
SCENARIOS = {scenario.name: scenario for scenario in (*HEALTHY, *FAULTY)}


def samples(scenario: Scenario, seed: int) -> Iterator[dict[str, float]]:
    """Train, and tell each step's signals."""
    training, told = Training(seed, clip=True), None
    for step in range(scenario.steps):
        bad = scenario.noise if scenario.fault is not None and step >= scenario.fault else 0.0
        shares = scenario.shares(step)
        rate = min(1.0, (step + 1) / WARM_UP) * scenario.rate(step)
        signals = training.step(rate, bad, shares=shares)
        if step % EVERY:
            signals = {name: value for name, value in signals.items() if name not in NORMS}
        if shares != told:
            signals |= {MARK: 1.0, **{f"{MIX_PREFIX}{number}": share for number, share in enumerate(shares)}}
            told = shares
        yield signals


def silent(signals: Mapping[str, float]) -> dict[str, float]:
    """The same without what it says of changes."""
    return {n: v for n, v in signals.items() if n != "lr" and not n.startswith((MARK, MIX_PREFIX))}


class Watched:
    """The baseline policy over one run: steps of its acts, and of its monitors' alarms by name."""

    def __init__(self) -> None:
        self._policy = Policy()
        self._begun = Alarms(self._policy.replay.bank)
        self.acts: list[int] = []
        self.alarms: list[tuple[int, str]] = []

    def take(self, step: int, signals: dict[str, float]) -> None:
        """One step."""
        if self._policy.update(Sample(step, step, 0, signals)):
            self.acts.append(step)
        self.alarms += [(step, name) for name, _, _ in self._begun.begun() if name != "spike"]


def watch(name: str, seed: int) -> dict[str, Any]:
    """One run of a scenario, as seen with and without what it says of its changes."""
    torch.set_num_threads(1)
    scenario, aware, unaware = SCENARIOS[name], Watched(), Watched()
    for step, signals in enumerate(samples(scenario, seed)):
        aware.take(step, signals)
        unaware.take(step, silent(signals))
    return {"aware": _seen(scenario, aware), "unaware": _seen(scenario, unaware)}


def _seen(scenario: Scenario, watched: Watched) -> dict[str, Any]:
    """What came before the fault, and how late it was found."""
    fault = scenario.steps if scenario.fault is None else scenario.fault
    found = [step - fault for step, name in watched.alarms if step >= fault and name in ON_LOSS]
    return {
        "alarms": [name for step, name in watched.alarms if scenario.first <= step < fault],
        "acts": sum(scenario.first <= step < fault for step in watched.acts),
        "delay": min(found, default=None),
        "act_delay": min((step - fault for step in watched.acts if step >= fault), default=None),
    }


def measure(names: Sequence[str], seeds: int, seed: int, workers: int) -> dict[str, Any]:
    """These scenarios, each with every seed."""
    runs = list(product(names, range(seed, seed + seeds)))
    with ProcessPoolExecutor(workers) as pool:
        told = list(pool.map(watch, *zip(*runs, strict=True)))
    results: list[dict[str, Any]] = []
    for name in names:
        own = [seen for (which, _), seen in zip(runs, told, strict=True) if which == name]
        row = {how: _summed([seen[how] for seen in own]) for how in ("aware", "unaware")}
        about = {"scenario": name, "fault": SCENARIOS[name].fault is not None, "runs": seeds}
        results.append({**about, **row})
    return {"benchmark": "changes", "machine": machine(), "seed": seed, "seeds": seeds, "results": results}


def _summed(seen: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of all seeds."""
    row: dict[str, Any] = {
        "alarms": sorted(name for each in seen for name in each["alarms"]),
        "acts": sum(each["acts"] for each in seen),
    }
    for key in ("delay", "act_delay"):
        delays = [each[key] for each in seen if each[key] is not None]
        row[key] = {"found": len(delays), "median": median(delays) if delays else None}
    return row


def table(result: Mapping[str, Any]) -> str:
    """The same for people."""
    healthy = [["nothing is wrong", "runs", "alarms", "acts", "untold: alarms", "acts", "of"]]
    heads = ("found", "delay", "act")
    faulty = [["a fault after a change", "alarms before", *heads, *(f"untold: {head}" for head in heads)]]
    for row in result["results"]:
        both = row["aware"], row["unaware"]
        if row["fault"]:
            cells = [row["scenario"], str(len(row["aware"]["alarms"]))]
            for seen in both:
                cells += [f"{seen['delay']['found']} of {row['runs']}"]
                cells += [_median(seen["delay"]), _median(seen["act_delay"])]
            faulty.append(cells)
        else:
            counts = [str(count) for seen in both for count in (len(seen["alarms"]), seen["acts"])]
            said = ", ".join(dict.fromkeys(row["unaware"]["alarms"]))
            healthy.append([row["scenario"], str(row["runs"]), *counts, said])
    seeds = f"seeds {result['seed']} to {result['seed'] + result['seeds'] - 1}"
    return "\n\n".join([seeds, columns(healthy), columns(faulty)])


def _median(delays: Mapping[str, Any]) -> str:
    return "-" if delays["median"] is None else f"{delays['median']:g}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and say."""
    parser = argparse.ArgumentParser(description="Changes that are meant, and faults right after them.")
    parser.add_argument(
        "--scenario", action="append", choices=SCENARIOS, metavar="NAME", help="only this one; repeatable"
    )
    parser.add_argument("--seeds", type=int, default=4, help="runs of each scenario (default 4)")
    parser.add_argument("--seed", type=int, default=10, help="the first one; 0 and 1 were tuned on")
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="processes (default: all cores)"
    )
    add_json_argument(parser)
    given = parser.parse_args(arguments)
    result = measure(given.scenario or list(SCENARIOS), given.seeds, given.seed, given.workers)
    give(result, table(result), given.json)


if __name__ == "__main__":
    main()
