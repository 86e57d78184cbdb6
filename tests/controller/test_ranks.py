"""Several processes: the same signals, the same acts at the same batch, and nobody waits for ever."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from small_loop import rollback_policy, train
from two_ranks import Ranks

from midcourse.controller.journal.reader import JournalReader
from midcourse.policies.types import Status

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


@pytest.fixture(scope="module")
def ranks() -> Iterator[Ranks]:
    pair = Ranks()
    yield pair
    pair.stop()


@dataclass
class Ran:
    """What one rank did, and, from rank 0, what the journal holds."""

    ids: list[list[int]]
    losses: list[float]
    parameters: list[Any]
    stopped: str | None
    decisions: list[Any]
    outcomes: list[Any]
    samples: list[Any]


def loop(run_dir: Path | None = None, policy: str = "", **kwargs: Any) -> Ran:
    """The small loop on this rank."""
    trace = train(run_dir, policy, **kwargs)
    decisions, outcomes, samples = [], [], []
    if trace.controller is not None and os.environ["RANK"] == "0":
        with JournalReader(trace.controller.run_dir) as reader:
            decisions, outcomes, samples = list(reader.decisions()), list(reader.outcomes()), list(reader.samples())
    stopped = None if trace.controller is None else trace.controller.stopped
    return Ran(trace.ids, trace.losses, [p.tolist() for p in trace.parameters], stopped, decisions, outcomes, samples)


def same(a: Ran, b: Ran) -> bool:
    return bool(a.parameters == b.parameters)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["observe", "act"])
@pytest.mark.parametrize("how", [{}, {"accumulation": 2}, {"mixture": True}])
def test_a_run_in_which_nothing_fires_is_bitwise_the_same(
    ranks: Ranks, tmp_path: Path, mode: str, how: dict[str, Any]
) -> None:
    plain = ranks.run(loop, **how)
    watched = ranks.run(loop, tmp_path, NOTHING_FIRES.format(mode=mode), **how)
    for a, b in zip(plain, watched, strict=True):
        assert a.losses == b.losses
        assert a.ids == b.ids
        assert same(a, b)


@pytest.mark.slow
@pytest.mark.parametrize("how", [{}, {"accumulation": 2}, {"mixture": True}, {"seedable": True}])
def test_replay_ends_bit_for_bit_where_an_undisturbed_run_ends(
    ranks: Ranks, tmp_path: Path, how: dict[str, Any]
) -> None:
    plain = ranks.run(loop, epochs=4, **how)
    replayed = ranks.run(loop, tmp_path, rollback_policy("replay", "{steps: 8}"), triggers={17: 1.0}, epochs=4, **how)
    assert [o.status for o in replayed[0].outcomes] == [Status.APPLIED]
    assert len(replayed[0].losses) > len(plain[0].losses)
    for a, b in zip(plain, replayed, strict=True):
        assert same(a, b)
        assert a.losses[-5:] == b.losses[-5:]
