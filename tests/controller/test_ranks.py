"""Several processes: the same signals, the same acts at the same batch, and nobody waits for ever."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from rank_jobs import NOTHING_FIRES, Ran, cosine, late, loop, rank_here, same
from small_loop import dataset, pull_policy, rollback_policy
from torch.utils.data import DataLoader
from two_ranks import Ranks

from midcourse import Controller
from midcourse.controller.durable.manifest import read_manifest
from midcourse.controller.journal.reader import JournalReader
from midcourse.policies.policy import parse_policy
from midcourse.policies.types import Disposition, Status


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
def test_skip_leaves_out_the_same_guilty_batches_on_both(ranks: Ranks, tmp_path: Path) -> None:
    plain = ranks.run(loop, mixture=True)
    policy = rollback_policy("skip", "before_onset")
    skipped = ranks.run(loop, tmp_path, policy, triggers={17: 1.0}, mixture=True)
    never = skipped[0].outcomes[0].details["rollback"]["never_trained"]
    # Decided at tick 17, done by both after tick 18, back to tick 15: the batches of 17 and 18 are guilty.
    assert never == [[[1, 6], [1, 8]]]
    for a, b in zip(plain, skipped, strict=True):
        assert b.ids == [*a.ids[:18], a.ids[15], *a.ids[18:]]


@pytest.mark.slow
def test_a_new_weight_reaches_the_very_next_batch_of_both_and_their_examples_do_not_overlap(
    ranks: Ranks, tmp_path: Path
) -> None:
    policy = pull_policy("reweight: {source: b, to: 0, hold: 10, ramp: 0}")
    ran = ranks.run(loop, tmp_path, policy, triggers={7: 1.0}, mixture=True)
    of_b = [[sum(100 <= i < 200 for i in batch) for batch in one.ids] for one in ran]
    for counts in of_b:
        assert all(counts[:8])
        assert not any(counts[8:18])
        assert any(counts[18:22])
    # Each source's examples come once before any comes twice, whichever process they go to.
    seen = [i for pair in zip(ran[0].ids, ran[1].ids, strict=True) for batch in pair for i in batch]
    for source in range(3):
        own = [i for i in seen if i // 100 == source]
        for start in range(0, len(own) - 59, 60):
            assert len(set(own[start : start + 60])) == 60
    assert not any(set(a) & set(b) for a, b in zip(*(one.ids for one in ran), strict=True))


def unequal(run_dir: Path, alone: int) -> tuple[list[dict[str, float]], list[float]]:
    """Losses, logged numbers and sources differ by rank; returns what was exchanged, and own losses."""
    AcceleratorState._reset_state(True)
    GradientState._reset_state()
    torch.manual_seed(0)
    accelerator = Accelerator(cpu=True)
    policy = parse_policy("version: 1\nsignals: [aux, rare]\nrules: []\n")
    controller = Controller(
        accelerator, policy=policy, run_dir=run_dir, sources=["a", "b"], say=lambda line: None
    )
    model: Any = torch.nn.Linear(8, 1)
    model, optimizer, loader = accelerator.prepare(
        model, torch.optim.SGD(model.parameters(), lr=0.0), DataLoader(dataset(), batch_size=8)
    )
    losses, rank = [], rank_here()
    exchanged: list[dict[str, float]] = []
    cycle: Any = controller._wiring.cycle
    for n, (x, y, _) in enumerate(loader):
        loss = ((model(x) - y) ** 2).mean()
        losses.append(loss.item())
        accelerator.backward(loss)
        controller.log(aux=float(rank))
        if rank == alone:
            controller.log(rare=float(n), undeclared=1.0)
        # Rank 0 has 6 examples of a; rank 1 has 2 of a and 6 of b.
        sources = ["a"] * 6 if rank == 0 else ["a"] * 2 + ["b"] * 6
        controller.log_examples(torch.full([len(sources)], float(rank + 1)), sources)
        optimizer.step()
        exchanged.append({k: v for k, v in cycle._sample.signals.items() if k not in OWN})
        optimizer.zero_grad()
    controller.close()
    return exchanged, losses


OWN = ("lr", "step_time", "samples_per_second", "param_norm", "update_ratio")
"""What each process measures for itself; rank 0's is what counts."""


@pytest.mark.slow
@pytest.mark.parametrize("alone", [0, 1])
def test_signals_are_the_mean_over_ranks_and_the_same_on_both(
    ranks: Ranks, tmp_path: Path, alone: int
) -> None:
    (first, own0), (second, own1) = ranks.run(unequal, tmp_path, alone)
    assert first == second
    assert [s["loss"] for s in first] == pytest.approx([(a + b) / 2 for a, b in zip(own0, own1, strict=True)])
    for n, signals in enumerate(first):
        assert signals["aux"] == 0.5
        assert signals["rare"] == n  # measured on one rank: its mean, not half of it
        assert signals["loss/source=a"] == pytest.approx((6 * 1.0 + 2 * 2.0) / 8)
        assert signals["loss/source=b"] == 2.0
        assert "undeclared" not in signals
        assert signals["grad_norm"] > 0.0


def differing(run_dir: Path) -> str:
    """Declare other signals on rank 1; returns what the first step says."""
    AcceleratorState._reset_state(True)
    GradientState._reset_state()
    accelerator = Accelerator(cpu=True)
    policy = parse_policy("version: 1\nrules: []\n")
    signals = ["here"] if rank_here() else []
    controller = Controller(
        accelerator, policy=policy, run_dir=run_dir, signals=signals, say=lambda line: None
    )
    model: Any = torch.nn.Linear(8, 1)
    model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
    accelerator.backward(model(torch.ones(2, 8)).mean())
    try:
        optimizer.step()
    except ValueError as error:
        return str(error)
    finally:
        controller.close()
    return ""


@pytest.mark.slow
def test_processes_that_declare_different_signals_are_told_so_instead_of_hanging(
    ranks: Ranks, tmp_path: Path
) -> None:
    for said in ranks.run(differing, tmp_path):
        assert "process 1" in said
        assert "here" in said


def zeros_on_both(run_dir: Path) -> Ran:
    """A rule on the guard that holds at a step which looks sound to every other rank."""
    policy = """
version: 1
monitors:
  guard: {type: guard}
rules:
  - name: odd
    when: guard.value < 1e9
    budget: {acts: 1, per: 1000}
    ladder:
      - [skip_step: {}]
      - [scale_lr: {factor: 0.5}]
"""
    return loop(run_dir, policy)


@pytest.mark.slow
def test_what_is_decided_before_a_sound_step_is_not_lost(ranks: Ranks, tmp_path: Path) -> None:
    ran = ranks.run(zeros_on_both, tmp_path)
    acts = [d.id for d in ran[0].decisions if d.disposition is Disposition.ACT]
    assert acts
    assert [o.decision_id for o in ran[0].outcomes] == acts
    assert "a step can only be skipped before it" in ran[0].outcomes[0].reason
    assert same(ran[0], ran[1])


@pytest.mark.slow
def test_stop_ends_both_loops_at_the_same_batch_and_saves_once(ranks: Ranks, tmp_path: Path) -> None:
    ran = ranks.run(loop, tmp_path, pull_policy("stop: {}"), triggers={12: 1.0})
    assert [len(one.losses) for one in ran] == [13, 13]
    assert ran[0].stopped == ran[1].stopped
    folder = tmp_path / "checkpoints" / "stopped"
    assert all(read_manifest(folder, rank).world == 2 for rank in (0, 1))
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["stopped"]
    assert same(ran[0], ran[1])


@pytest.mark.slow
@pytest.mark.parametrize("last", [29, 30])
def test_a_decision_that_is_pending_at_the_end_is_settled_and_nobody_waits(
    ranks: Ranks, tmp_path: Path, last: int
) -> None:
    ran = ranks.run(loop, tmp_path, pull_policy("scale_lr: {factor: 0.5}"), triggers={last: 1.0})
    assert len(ran[0].outcomes) == 1
    settled = ran[0].outcomes[0]
    if last == 30:
        assert (settled.status, settled.reason) == (Status.FAILED, "the run ended first")
    else:
        assert settled.status is Status.APPLIED


@pytest.mark.slow
@pytest.mark.parametrize("how", [{}, {"mixture": True}])
def test_a_replay_decided_on_late_signals_is_bit_for_bit_too(
    ranks: Ranks, tmp_path: Path, how: dict[str, Any]
) -> None:
    plain = ranks.run(loop, **how)
    replayed = ranks.run(late, tmp_path, rollback_policy("replay", "{steps: 8}"), triggers={13: 1.0}, **how)
    # Judged after tick 14, announced with 15, read after 16: that is when both go back.
    assert [(o.status, o.tick) for o in replayed[0].outcomes] == [(Status.APPLIED, 16)]
    dropped = set(range(1, 30)) - {sample.tick for sample in replayed[0].samples}
    assert dropped == {16}
    for a, b in zip(plain, replayed, strict=True):
        assert same(a, b)


@pytest.mark.slow
@pytest.mark.parametrize("last", [26, 27, 28, 29, 30])
def test_late_decisions_at_the_end_make_nobody_wait(ranks: Ranks, tmp_path: Path, last: int) -> None:
    ran = ranks.run(late, tmp_path, pull_policy("scale_lr: {factor: 0.5}"), triggers={last: 1.0})
    assert [sample.tick for sample in ran[0].samples] == list(range(1, 31))
    assert [o.status for o in ran[0].outcomes] == [Status.APPLIED if last <= 27 else Status.FAILED]


ON_TRIAL = """
version: 1
signals: [trigger]
snapshots: {keep: 3, reach: 40, every: 2}
rules:
  - name: pull
    when: trigger.value > 0.5
    budget: {acts: 5, per: 1000}
    cooldown: 1
    ladder:
      - [rollback: {to: {steps: 2}, data: skip}, scale_lr: {factor: 0.1}]
      - [rollback: {to: {steps: 2}, data: skip}, scale_lr: {factor: 0.1}]
      - [rollback: {to: {steps: 2}, data: skip}, scale_lr: {factor: 0.1}]
    verify: {within: 4, expect: "trigger.value > 0.5"}
"""


@pytest.mark.slow
def test_what_did_not_help_is_withdrawn_by_both_and_both_keep_the_same_snapshots(
    ranks: Ranks, tmp_path: Path
) -> None:
    triggers = {8: 1.0, 20: 1.0, 32: 1.0}
    ran = ranks.run(loop, tmp_path, ON_TRIAL, triggers=triggers, epochs=5)
    assert [o.status for o in ran[0].outcomes] == [Status.APPLIED] * 3
    rates = [sample.signals["lr"] for sample in ran[0].samples]
    assert {round(rate, 6) for rate in rates} == {0.01, 0.001}
    assert rates[-1] == 0.01
    # Another rate, or another snapshot, on one of them would have made their parameters differ.
    assert same(ran[0], ran[1])


@pytest.mark.slow
def test_a_schedule_is_read_ahead_as_both_step_it_and_the_run_is_the_same(
    ranks: Ranks, tmp_path: Path
) -> None:
    policy = "version: 1\nmonitors:\n  outcome: {type: forecast, signal: loss}\n"
    plain = ranks.run(loop, schedule=cosine, epochs=3)
    watched = ranks.run(loop, tmp_path, policy, schedule=cosine, epochs=3)
    assert all(same(a, b) for a, b in zip(plain, watched, strict=True))
    with JournalReader(tmp_path) as journal:
        [plan] = [event.detail for event in journal.events() if event.kind == "plan"]
    rates = np.array(watched[0].rates)
    assert plan["horizon"] == len(rates) == 30
    shares, heights = np.array(plan["schedule"]).T
    np.testing.assert_allclose(
        np.interp(np.arange(1, 31) / 30, shares, heights), rates / rates.max(), atol=2e-3
    )
