"""Steps that are skipped by statistics, not only where a number is not finite: by both processes or none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from rank_jobs import Ran, flat, loop, rank_here, same
from small_loop import BATCH, dataset
from torch.utils.data import IterableDataset
from two_ranks import Ranks

from midcourse.policies.types import Status

POLICY = """
version: 1
monitors:
  garbage: {type: outliers, signal: loss}
  explosion: {type: outliers, signal: grad_norm, times: 1, of: 1}
  stuck: {type: stuck, signal: repeats, warm_up: 3}
rules:
  - name: bad-data
    when: garbage.bad and garbage.score > 10
    budget: {acts: 30, per: 200}
    ladder: [[skip_step: {}]]
  - name: explosion
    when: explosion.bad and explosion.ratio > 100
    budget: {acts: 30, per: 200}
    ladder: [[skip_step: {}]]
  - name: stuck-loader
    when: stuck.bad and stuck.score > 0
    budget: {acts: 30, per: 200}
    ladder: [[skip_step: {}]]
"""
EPOCHS = 13
"""Of ten ticks each: monitors of the loss judge from tick 65 on."""


def spoiled(run_dir: Path, ranks: tuple[int, ...], ticks: dict[int, float]) -> Ran:
    """The loop, in which these ranks' losses are so many times too high at these ticks."""
    mine = ticks if rank_here() in ranks else {}
    return loop(run_dir, POLICY, epochs=EPOCHS, spoil=lambda tick, loss: loss * mine.get(tick, 1.0))


def skipped(ran: Ran, rule: str) -> list[int]:
    """The ticks that rank 0's journal calls skipped; each decision was carried out at its own tick."""
    assert {outcome.status for outcome in ran.outcomes} <= {Status.APPLIED}
    assert [outcome.tick for outcome in ran.outcomes] == [decision.tick for decision in ran.decisions]
    return [decision.tick for decision in ran.decisions if decision.rule == rule]


@pytest.mark.slow
@pytest.mark.parametrize("bad", [(0,), (1,), (0, 1)], ids=["first", "second", "both"])
def test_a_garbage_shard_is_left_out_by_both_from_its_third_batch_on(
    ranks: Ranks, tmp_path: Path, bad: tuple[int, ...]
) -> None:
    ran = ranks.run(spoiled, tmp_path, bad, dict.fromkeys(range(101, 107), 60.0))
    assert skipped(ran[0], "bad-data") == [103, 104, 105, 106]
    assert same(ran[0], ran[1])


@pytest.mark.slow
@pytest.mark.parametrize("bad", [(0,), (1,)], ids=["first", "second"])
def test_a_gradient_ten_thousand_times_too_large_is_left_out_by_both_at_once(
    ranks: Ranks, tmp_path: Path, bad: tuple[int, ...]
) -> None:
    """Also the one right after it, which is no larger than the one before."""
    ran = ranks.run(spoiled, tmp_path, bad, {101: 1e4, 102: 1e4, 110: 1e4})
    assert skipped(ran[0], "explosion") == [101, 102, 110]
    assert same(ran[0], ran[1])
    plain = ranks.run(loop, epochs=EPOCHS)
    assert (
        max(abs(a - b) for a, b in zip(flat(ran[0].parameters), flat(plain[0].parameters), strict=True)) < 0.5
    )


class Sticking(IterableDataset[Any]):
    """From the ninth batch to the sixteenth, of both processes together, the eighth comes again."""

    def __iter__(self) -> Iterator[Any]:
        data = dataset()
        for batch in range(20):
            for k in range(BATCH):
                x, y, _ = data[(7 if 8 <= batch < 16 else batch) * BATCH + k]
                yield x, y, torch.tensor(batch * BATCH + k)


@pytest.mark.slow
def test_a_batch_that_comes_again_and_again_is_left_out_by_both(ranks: Ranks, tmp_path: Path) -> None:
    ran = ranks.run(loop, tmp_path, POLICY, stream=Sticking, epochs=1)
    # At the fifth tick it is new to the first process; the seventh is the second that both have had.
    assert [sample.signals["repeats"] for sample in ran[0].samples[3:9]] == [0.0, 0.5, 1.0, 1.0, 1.0, 0.0]
    assert skipped(ran[0], "stuck-loader") == [7, 8]
    assert same(ran[0], ran[1])
