"""How the cost of a tick grows with what is watched and decided: microseconds a signal, and a rule."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import numpy as np
from overhead_loop import (
    TURN,
    WARM_UP,
    Signals,
    controlled,
    ended,
    take_turns,
    training,
)

from midcourse.policies.policy import Policy, parse_policy

SIGNALS = (1, 3, 10, 30, 100)
RULES = (1, 5, 20, 50)
ROWS = 512  # of made-up signals, which come again after that


def policy(signals: int, rules: int) -> Policy:
    """So many logged signals with a ``sustained_rise`` each, and so many rules, none of which ever fires.

    What a rule reads changes at every tick, so that none can be passed over; each has numbers of its own.
    """
    names = ", ".join(f"x{i}" for i in range(signals))
    lines = ["version: 1", f"signals: [{names}]", "snapshots: {keep: 0}", "monitors:"]
    lines += [f"  rise{i}: {{type: sustained_rise, signal: x{i}}}" for i in range(signals)]
    lines += ["rules:"]
    for i in range(rules):
        lines += [
            f"  - name: rule{i}",
            f"    when: rise0.bad and x0.z > {40 + i} or grad_norm.ratio > {1000 + i}",
            "    for: 8",
            "    ladder: [[scale_lr: {factor: 0.5, hold: 100}]]",
        ]
    return parse_policy("\n".join(lines))


def made_up(signals: int, seed: int) -> Signals:
    """Rows of noise around 2."""
    draw = random.Random(seed).gauss
    return [{f"x{i}": draw(2.0, 0.1) for i in range(signals)} for _ in range(ROWS)]


def scaling(ticks: int, seed: int, runs: Path) -> dict[str, Any]:
    """Every size beside the bare loop, and a straight line through them, fitted to each turn for itself."""
    turns = max(2, math.ceil(ticks / TURN))
    length = WARM_UP + turns * (TURN + 1)
    sizes = [(signals, 1) for signals in SIGNALS] + [(1, rules) for rules in RULES[1:]]
    arms = {"bare": training(seed, length)}
    for signals, rules in sizes:
        control = controlled(policy(signals, rules), runs / f"{signals}-{rules}")
        arms[f"{signals}/{rules}"] = training(seed, length, control, signals=made_up(signals, seed))
    found = take_turns(arms, turns, seed)
    ended(arms)

    def beyond(signals: int, rules: int) -> list[float]:
        pairs = zip(found[f"{signals}/{rules}"], found["bare"], strict=True)
        return [us - bare for us, bare in pairs]

    return {
        "signals": _line(SIGNALS, [beyond(n, 1) for n in SIGNALS]),
        "rules": _line(RULES, [beyond(1, n) for n in RULES]),
    }


def _line(sizes: Sequence[int], extra: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Medians of each size, and the median and quartiles of the slopes of all turns, by least squares."""
    slopes = np.polyfit(sizes, np.array(extra), 1)[0].tolist()
    return {
        "extra_us": {str(size): round(median(values), 1) for size, values in zip(sizes, extra, strict=True)},
        "slope_us": round(median(slopes), 2),
        "slope_quartiles_us": [round(slope, 2) for slope in quantiles(slopes)],
    }
