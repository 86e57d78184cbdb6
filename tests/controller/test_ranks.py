"""Several processes: the same signals, the same acts at the same batch, and nobody waits for ever."""

from __future__ import annotations

import math
import os
import pydoc
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from small_loop import dataset, rollback_policy, train
from torch.utils.data import DataLoader
from two_ranks import Ranks

from midcourse import Controller
from midcourse.controller import assembly
from midcourse.controller.journal.reader import JournalReader
from midcourse.policies.policy import parse_policy
from midcourse.policies.types import Disposition, Status

PULL = """
version: 1
signals: [trigger]
snapshots: {{keep: 6, reach: 160, every: 5}}
rules:
  - name: pull
    when: trigger.value > 0.5
    budget: {{acts: 5, per: 1000}}
    ladder:
      - [{actions}]
"""

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
    found: list[list[Any]] = [[], [], []]
    if trace.controller is not None and rank_here() == 0:
        with JournalReader(trace.controller.run_dir) as reader:
            found = [list(reader.decisions()), list(reader.outcomes()), list(reader.samples())]
    stopped = None if trace.controller is None else trace.controller.stopped
    return Ran(trace.ids, trace.losses, [p.tolist() for p in trace.parameters], stopped, *found)


def rank_here() -> int:
    return int(os.environ["RANK"])


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
    policy = rollback_policy("replay", "{steps: 8}")
    replayed = ranks.run(loop, tmp_path, policy, triggers={17: 1.0}, epochs=4, **how)
    assert [o.status for o in replayed[0].outcomes] == [Status.APPLIED]
    assert len(replayed[0].losses) > len(plain[0].losses)
    for a, b in zip(plain, replayed, strict=True):
        assert same(a, b)
        assert a.losses[-5:] == b.losses[-5:]


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
    policy = PULL.format(actions="reweight: {source: b, to: 0, hold: 10, ramp: 0}")
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


def unequal(run_dir: Path) -> tuple[list[dict[str, float]], list[float]]:
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
    cycle: Any = controller._cycle
    for n, (x, y, _) in enumerate(loader):
        loss = ((model(x) - y) ** 2).mean()
        losses.append(loss.item())
        accelerator.backward(loss)
        controller.log(aux=float(rank))
        if rank == 1:
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
def test_signals_are_the_mean_over_ranks_and_the_same_on_both(ranks: Ranks, tmp_path: Path) -> None:
    (first, own0), (second, own1) = ranks.run(unequal, tmp_path)
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


def nan_on_one(run_dir: Path) -> Ran:
    """Rank 1 alone has a NaN in its loss, at tick 12."""
    spoil = (lambda tick, loss: loss * float("nan") if tick == 12 else loss) if rank_here() else None
    return loop(run_dir, NOTHING_FIRES.format(mode="act"), spoil=spoil)


@pytest.mark.slow
def test_a_nan_of_one_rank_is_skipped_by_both(ranks: Ranks, tmp_path: Path) -> None:
    ran = ranks.run(nan_on_one, tmp_path)
    assert [o.status for o in ran[0].outcomes] == [Status.APPLIED]
    assert ran[0].decisions[0].tick == 12
    assert "skip_step" in ran[0].outcomes[0].details
    assert same(ran[0], ran[1])
    assert all(map(math.isfinite, flat(ran[0].parameters)))
    # The tick itself is a NaN on both: gradients are averaged, and so is the loss that is judged.
    assert math.isnan(ran[0].samples[11].signals["loss"])


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
    ran = ranks.run(loop, tmp_path, PULL.format(actions="stop: {}"), triggers={12: 1.0})
    assert [len(one.losses) for one in ran] == [13, 13]
    assert ran[0].stopped == ran[1].stopped
    folder = tmp_path / "checkpoints" / "stopped"
    saved = {path.name for path in folder.iterdir()}
    assert {"random_states_0.pkl", "random_states_1.pkl", "midcourse.json"} <= saved
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["stopped"]
    assert same(ran[0], ran[1])


def fails_on_rank_1(run_dir: Path, broken: str, policy: str, mixture: bool) -> Ran:
    """One part of Midcourse raises on rank 1 only, once."""
    module, _, name = broken.rpartition(".")
    owner: Any = pydoc.locate(module)
    original = getattr(owner, name)
    fuse = [rank_here() == 1]

    def fails(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        if fuse[0]:
            fuse[0] = False
            raise OSError("disk full")
        return result

    setattr(owner, name, fails)
    try:
        return loop(run_dir, policy, triggers={17: 1.0}, mixture=mixture)
    finally:
        setattr(owner, name, original)


ACTS = {
    "rollback": (
        "midcourse.controller.training_state.TrainingState.restore",
        "rollback: {to: {steps: 8}, data: replay}",
    ),
    "rollback-read-back": (
        "midcourse.controller.actuators.rollback.identical",
        "rollback: {to: last_good, data: skip}",
    ),
    "checkpoint": ("accelerate.Accelerator.save_state", "checkpoint: {}"),
    "stop": ("accelerate.Accelerator.save_state", "stop: {}"),
    "reweight": ("midcourse.controller.mix.Mix.apply_now", "reweight: {source: b, to: 0}"),
    "compound": (
        "midcourse.controller.mix.Mix.apply_now",
        "rollback: {to: {steps: 8}, data: replay}, scale_lr: {factor: 0.1}, reweight: {source: b, to: 0}",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("act", ACTS)
def test_an_act_that_fails_on_one_rank_is_taken_back_on_both(ranks: Ranks, tmp_path: Path, act: str) -> None:
    broken, actions = ACTS[act]
    plain = ranks.run(loop, mixture=True)
    ran = ranks.run(fails_on_rank_1, tmp_path, broken, PULL.format(actions=actions), mixture=True)
    outcome = ran[0].outcomes[0]
    assert outcome.status is Status.FAILED
    assert "process 1" in outcome.reason
    assert "disk full" in outcome.reason
    for a, b in zip(plain, ran, strict=True):
        assert b.ids == a.ids
        assert b.losses == a.losses
        assert same(a, b)
        assert b.stopped is None


@pytest.mark.slow
@pytest.mark.parametrize("last", [29, 30])
def test_a_decision_that_is_pending_at_the_end_is_settled_and_nobody_waits(
    ranks: Ranks, tmp_path: Path, last: int
) -> None:
    ran = ranks.run(loop, tmp_path, PULL.format(actions="scale_lr: {factor: 0.5}"), triggers={last: 1.0})
    assert len(ran[0].outcomes) == 1
    settled = ran[0].outcomes[0]
    if last == 30:
        assert (settled.status, settled.reason) == (Status.FAILED, "the run ended first")
    else:
        assert settled.status is Status.APPLIED


def late(*args: Any, **kwargs: Any) -> Ran:
    """The loop, with signals that are read a tick late as on a GPU."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assembly, "delays", lambda policy, device: True)
        return loop(*args, **kwargs)


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
    ran = ranks.run(late, tmp_path, PULL.format(actions="scale_lr: {factor: 0.5}"), triggers={last: 1.0})
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


def pilot_fails(run_dir: Path) -> Ran:
    """Our own deciding part breaks on rank 0 at tick 10."""
    from midcourse.controller.pilot import Pilot

    original, calls = Pilot.judge, iter(range(1000))

    def judge(self: Pilot, sample: Any) -> Any:
        if next(calls) == 10:
            raise RuntimeError("a bug of ours")
        return original(self, sample)

    Pilot.judge = judge  # type: ignore[method-assign]
    try:
        return loop(run_dir, PULL.format(actions="scale_lr: {factor: 0.5}"), triggers={15: 1.0})
    finally:
        Pilot.judge = original  # type: ignore[method-assign]


@pytest.mark.slow
def test_a_failure_of_our_own_on_rank_0_ends_the_deciding_and_not_the_training(
    ranks: Ranks, tmp_path: Path
) -> None:
    for a, b in zip(ranks.run(loop), ranks.run(pilot_fails, tmp_path), strict=True):
        assert same(a, b)


def flat(values: Any) -> list[float]:
    return [v for part in values for v in flat(part)] if isinstance(values, list) else [values]
