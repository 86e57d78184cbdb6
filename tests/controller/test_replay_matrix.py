"""Replay is exact in every pair of circumstances: what follows is the undisturbed run, bit for bit."""

from __future__ import annotations

from collections import Counter
from functools import cache
from itertools import combinations, product
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from odd_optimizer import Odd
from small_loop import StatefulStream, Trace, train
from torch.optim import lr_scheduler

from midcourse.controller.journal.reader import JournalReader
from midcourse.policies.types import Status

torch.set_num_threads(1)

POLICY = """
version: 1
signals: [trigger]
snapshots: {{keep: 8, reach: 160, every: {every}}}
rules:
  - name: back
    when: trigger.value > 0.5
    ladder:
      - [rollback: {{to: {{steps: {steps}}}, data: replay}}]
"""

DATA: dict[str, dict[str, Any]] = {
    "random": {},
    "seedable": {"seedable": True},
    "mixture": {"mixture": True},
    "stream": {"stream": StatefulStream},
}
SCHEDULES: dict[str, Any] = {
    "constant": None,
    "lambda": lambda o: lr_scheduler.LambdaLR(o, lambda s: 0.97**s),
    "one-cycle": lambda o: lr_scheduler.OneCycleLR(o, 1e-2, total_steps=60),
    "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, 40),
    "restarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 9),
    "plateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, factor=0.7, patience=1, cooldown=1),
}
OPTIMIZERS: dict[str, Any] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2),
    "fused": lambda p: torch.optim.AdamW(p, lr=1e-2, fused=True),
    "odd": lambda p: Odd(p, lr=1e-3),
}


class Way(NamedTuple):
    """A rollback: asked for at a tick, by a number of steps, and the snapshot's tick that this comes to."""

    trigger: int
    steps: int
    target: int


WAYS = {
    "mid-epoch": {1: Way(37, 12, 25), 3: Way(12, 3, 8)},
    "across": {1: Way(28, 12, 15), 3: Way(10, 5, 4)},
    "to-first": {1: Way(12, 12, 0), 3: Way(5, 5, 0)},
    "from-last": {1: Way(40, 12, 25), 3: Way(14, 4, 10)},
}
SNAPSHOT_EVERY = {1: 5, 3: 2}

FACTORS: tuple[tuple[Any, ...], ...] = (
    tuple(DATA),
    (0, 2),  # workers
    (1, 3),  # accumulation
    tuple(SCHEDULES),
    tuple(OPTIMIZERS),
    tuple(WAYS),
)
Case = tuple[Any, ...]
Pair = tuple[tuple[int, Any], tuple[int, Any]]


def pairs_of(case: Case) -> list[Pair]:
    """All pairs of a factor's value with another factor's."""
    return list(combinations(enumerate(case), 2))


def covering(factors: tuple[tuple[Any, ...], ...], at_least: int) -> list[Case]:
    """Cases in which all pairs of values meet, chosen greedily: next the one whose pairs were seen least."""
    left = {case: pairs_of(case) for case in product(*factors)}
    seen: Counter[Pair] = Counter()
    missing = {pair for pairs in left.values() for pair in pairs}
    chosen: list[Case] = []
    while missing or len(chosen) < at_least:
        case = max(left, key=lambda case: sum(0.1 ** seen[pair] for pair in left[case]))
        pairs = left.pop(case)
        seen.update(pairs)
        missing.difference_update(pairs)
        chosen.append(case)
    return chosen


CASES = covering(FACTORS, at_least=64)


def test_every_pair_of_circumstances_is_among_the_cases() -> None:
    covered = {pair for case in CASES for pair in pairs_of(case)}
    wanted = {
        ((i, a), (j, b))
        for (i, first), (j, second) in combinations(enumerate(FACTORS), 2)
        for a in first
        for b in second
    }
    assert covered == wanted
    assert len(set(CASES)) == len(CASES) >= 60


@cache
def undisturbed(data: str, workers: int, accumulation: int, schedule: str, optimizer: str) -> Trace:
    return train(**loop(data, workers, accumulation, schedule, optimizer))


def loop(data: str, workers: int, accumulation: int, schedule: str, optimizer: str) -> dict[str, Any]:
    return {
        **DATA[data],
        "epochs": 2,
        "workers": workers,
        "accumulation": accumulation,
        "schedule": SCHEDULES[schedule],
        "optimizer": OPTIMIZERS[optimizer],
    }


def batches_until(trace: Trace, tick: int) -> int:
    """How many batches were trained on through a tick."""
    return trace.ticks.index(tick) + 1 if tick else 0


@pytest.mark.parametrize(
    "case",
    [pytest.param(c, id="-".join(map(str, c)), marks=[pytest.mark.slow] if c[1] else []) for c in CASES],
)
def test_what_follows_a_rollback_is_the_undisturbed_run(case: Case, tmp_path: Path) -> None:
    *circumstances, where = case
    accumulation = circumstances[2]
    way = WAYS[where][accumulation]
    plain = undisturbed(*circumstances)
    policy = POLICY.format(every=SNAPSHOT_EVERY[accumulation], steps=way.steps)
    replayed = train(tmp_path, policy, triggers={way.trigger: 1.0}, **loop(*circumstances))
    with JournalReader(tmp_path) as reader:
        (outcome,) = reader.outcomes()
    assert outcome.status is Status.APPLIED
    assert outcome.details["rollback"]["data"] == "replay"
    assert outcome.details["rollback"]["target_tick"] == way.target
    left, back = batches_until(plain, way.trigger), batches_until(plain, way.target)
    assert replayed.losses == plain.losses[:left] + plain.losses[back:]
    assert replayed.ids == plain.ids[:left] + plain.ids[back:]
    assert replayed.rates == plain.rates[: way.trigger] + plain.rates[way.target :]
    assert replayed.matches(plain)
