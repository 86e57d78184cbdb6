"""What several test modules have two processes do, and what comes back from each."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from small_loop import train

from midcourse.controller import assembly
from midcourse.controller.journal.reader import JournalReader

NOTHING_FIRES = """
version: 1
mode: {mode}
monitors:
  guard: {{type: guard}}
  rise: {{type: sustained_rise, signal: loss}}
rules:
  - name: bad-step
    when: guard.bad
    budget: {{acts: 3, per: 1000}}
    ladder:
      - [skip_step: {{}}]
      - [stop: {{}}]
  - name: off-course
    when: rise.bad
    budget: {{acts: 3, per: 1000}}
    ladder:
      - [rollback: {{to: before_onset, data: skip}}]
"""


def cosine(optimizer: Any) -> Any:
    """A schedule to zero over as many of its steps as two processes make in 30 updates."""
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 60)


@dataclass
class Ran:
    """What one rank did, and, from rank 0, what the journal holds."""

    ids: list[list[int]]
    losses: list[float]
    ticks: list[int]
    rates: list[float]
    parameters: list[Any]
    stopped: str | None
    decisions: list[Any]
    outcomes: list[Any]
    samples: list[Any]


def loop(run_dir: Path | None = None, policy: str = "", **kwargs: Any) -> Ran:
    """The small loop on this rank."""
    trace = train(run_dir, policy, **kwargs)
    found: list[list[Any]] = [[], [], []]
    if trace.controller is not None and rank_here() == 0:
        with JournalReader(trace.controller.run_dir) as reader:
            found = [list(reader.decisions()), list(reader.outcomes()), list(reader.samples())]
    parameters = [p.tolist() for p in trace.parameters]
    stopped = None if trace.controller is None else trace.controller.stopped
    return Ran(trace.ids, trace.losses, trace.ticks, trace.rates, parameters, stopped, *found)


def late(*args: Any, **kwargs: Any) -> Ran:
    """The loop, with signals that are read a tick late as on a GPU."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assembly, "delays", lambda policy, device: True)
        return loop(*args, **kwargs)


def rank_here() -> int:
    return int(os.environ["RANK"])


def same(a: Ran, b: Ran) -> bool:
    return bool(a.parameters == b.parameters)


def check_replay(plain: Ran, acted: Ran) -> None:
    """One went back once: what it repeated, and all that followed, is what the other did."""
    pairs = zip(acted.ids, [*plain.ids, []], strict=False)
    done = next(n for n, (found, expected) in enumerate(pairs) if found != expected)
    again = len(plain.ids) - (len(acted.ids) - done)
    assert 0 <= again < done
    for name in ("ids", "losses"):
        expected, found = getattr(plain, name), getattr(acted, name)
        assert found == expected[:done] + expected[again:]
    assert same(plain, acted)


def flat(values: Any) -> list[float]:
    return [v for part in values for v in flat(part)] if isinstance(values, list) else [values]
