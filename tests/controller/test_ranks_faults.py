"""What goes wrong on one process alone: all act alike or not at all, and the training goes on unharmed."""

from __future__ import annotations

import math
import pydoc
from pathlib import Path
from typing import Any

import pytest
from rank_jobs import NOTHING_FIRES, Ran, check_replay, flat, loop, rank_here, same
from small_loop import pull_policy, rollback_policy
from two_ranks import Ranks

from midcourse.controller.actuators.effect import Refused
from midcourse.controller.journal.store import Journal, JournalError
from midcourse.controller.pilot import Pilot
from midcourse.controller.ranks import FailedElsewhere
from midcourse.controller.ring import Ring
from midcourse.policies.types import Disposition, Status

ANY_RANK = pytest.mark.parametrize("broken_rank", [0, 1])


def nan_on_one(run_dir: Path, broken_rank: int) -> Ran:
    """One rank alone has a NaN in its loss, at tick 12."""
    spoils = rank_here() == broken_rank
    spoil = (lambda tick, loss: loss * float("nan") if tick == 12 else loss) if spoils else None
    return loop(run_dir, NOTHING_FIRES.format(mode="act"), spoil=spoil)


@pytest.mark.slow
@ANY_RANK
def test_a_nan_of_one_rank_is_skipped_by_both(ranks: Ranks, tmp_path: Path, broken_rank: int) -> None:
    ran = ranks.run(nan_on_one, tmp_path, broken_rank)
    assert [o.status for o in ran[0].outcomes] == [Status.APPLIED]
    assert ran[0].decisions[0].tick == 12
    assert "skip_step" in ran[0].outcomes[0].details
    assert same(ran[0], ran[1])
    assert all(map(math.isfinite, flat(ran[0].parameters)))
    # The tick itself is a NaN on both: gradients are averaged, and so is the loss that is judged.
    assert math.isnan(ran[0].samples[11].signals["loss"])


def breaks_once(
    run_dir: Path, broken: str, broken_rank: int, policy: str, error: Exception, **how: Any
) -> Ran:
    """One part of Midcourse does its work and then raises, on one rank only, once."""
    module, _, name = broken.rpartition(".")
    owner: Any = pydoc.locate(module)
    original = getattr(owner, name)
    fuse = [rank_here() == broken_rank]

    def fails(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        if fuse[0]:
            fuse[0] = False
            raise error
        return result

    setattr(owner, name, fails)
    try:
        return loop(run_dir, policy, triggers={17: 1.0}, **how)
    finally:
        setattr(owner, name, original)


RESTORE = "midcourse.controller.training_state.TrainingState.restore"
ACTS = {
    "rollback": (RESTORE, "rollback: {to: {steps: 8}, data: replay}"),
    "rollback-to-the-first-step": (RESTORE, "rollback: {to: {steps: 18}, data: forward}"),
    "rollback-read-back": (
        "midcourse.controller.actuators.rollback.identical",
        "rollback: {to: last_good, data: skip}",
    ),
    "rollback-saving": (
        "midcourse.controller.actuators.rollback.moment_of",
        "rollback: {to: last_good, data: skip}",
    ),
    "checkpoint": ("midcourse.controller.durable.checkpoints.write", "checkpoint: {}"),
    "stop": ("midcourse.controller.durable.checkpoints.write", "stop: {}"),
    "stop-saving": ("midcourse.controller.actuators.rollback.moment_of", "stop: {}"),
    "reweight": ("midcourse.controller.mix.Mix.apply_now", "reweight: {source: b, to: 0}"),
    "compound": (
        "midcourse.controller.mix.Mix.apply_now",
        "rollback: {to: {steps: 8}, data: replay}, scale_lr: {factor: 0.1}, reweight: {source: b, to: 0}",
    ),
}


def check_taken_back(plain: list[Ran], ran: list[Ran], status: Status, broken_rank: int, reason: str) -> None:
    outcome = ran[0].outcomes[0]
    assert outcome.status is status
    assert f"on process {broken_rank}" in outcome.reason
    assert reason in outcome.reason
    for a, b in zip(plain, ran, strict=True):
        assert b.ids == a.ids
        assert b.losses == a.losses
        assert same(a, b)
        assert b.stopped is None


@pytest.mark.slow
@ANY_RANK
@pytest.mark.parametrize("act", ACTS)
def test_an_act_that_fails_on_one_rank_is_taken_back_on_both(
    ranks: Ranks, tmp_path: Path, act: str, broken_rank: int
) -> None:
    broken, actions = ACTS[act]
    plain = ranks.run(loop, mixture=True)
    policy, error = pull_policy(actions), OSError("disk full")
    ran = ranks.run(breaks_once, tmp_path, broken, broken_rank, policy, error, mixture=True)
    check_taken_back(plain, ran, Status.FAILED, broken_rank, "disk full")


@pytest.mark.slow
@ANY_RANK
@pytest.mark.parametrize("act", ["rollback", "rollback-to-the-first-step", "rollback-read-back"])
def test_shards_are_put_back_on_both(ranks: Ranks, tmp_path: Path, act: str, broken_rank: int) -> None:
    broken, actions = ACTS[act]
    plain = ranks.run(loop, sharded=True)
    policy, error = pull_policy(actions), OSError("disk full")
    ran = ranks.run(breaks_once, tmp_path, broken, broken_rank, policy, error, sharded=True)
    check_taken_back(plain, ran, Status.FAILED, broken_rank, "disk full")


@pytest.mark.slow
@ANY_RANK
def test_what_one_rank_refuses_is_refused_by_both(ranks: Ranks, tmp_path: Path, broken_rank: int) -> None:
    plain = ranks.run(loop)
    policy = rollback_policy("replay", "{steps: 8}")
    ran = ranks.run(breaks_once, tmp_path, RESTORE, broken_rank, policy, Refused("not here"))
    check_taken_back(plain, ran, Status.REFUSED, broken_rank, "not here")


@pytest.mark.slow
@pytest.mark.parametrize("actions", ["rollback: {to: last_good, data: replay}", "stop: {}"])
def test_a_target_that_rank_0_cannot_find_makes_nobody_wait(
    ranks: Ranks, tmp_path: Path, actions: str
) -> None:
    plain = ranks.run(loop)
    broken = "midcourse.controller.actuators.target._choose"
    policy = pull_policy(actions)
    ran = ranks.run(breaks_once, tmp_path, broken, 0, policy, KeyError("a bug of ours"))
    check_taken_back(plain, ran, Status.FAILED, 0, "a bug of ours")


def no_memory(run_dir: Path, broken_rank: int, ticks: tuple[int, ...], **how: Any) -> Ran:
    """One rank has no memory for the snapshots of these ticks."""
    original = Ring.take

    def take(self: Ring, tensors: Any, small: Any, moment: Any, *rest: Any) -> Any:
        if rank_here() == broken_rank and moment.tick in ticks:
            raise MemoryError("no memory")
        return original(self, tensors, small, moment, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Ring, "take", take)
        return loop(run_dir, rollback_policy("replay", "{steps: 8}"), triggers={17: 1.0}, **how)


@pytest.mark.slow
@ANY_RANK
@pytest.mark.parametrize("sharded", [False, True], ids=["ddp", "fsdp2"])
def test_a_snapshot_that_one_rank_could_not_take_is_none_to_go_back_to(
    ranks: Ranks, tmp_path: Path, broken_rank: int, sharded: bool
) -> None:
    plain = ranks.run(loop, sharded=sharded)
    ran = ranks.run(no_memory, tmp_path, broken_rank, (10,), sharded=sharded)
    # After tick 18 eight steps back is the snapshot of tick 10; the one before is what both have.
    assert [o.status for o in ran[0].outcomes] == [Status.APPLIED]
    assert ran[0].outcomes[0].details["rollback"]["target_tick"] < 10
    for a, b in zip(plain, ran, strict=True):
        check_replay(a, b)


@pytest.mark.slow
def test_without_any_common_snapshot_both_refuse(ranks: Ranks, tmp_path: Path) -> None:
    plain = ranks.run(loop)
    ran = ranks.run(no_memory, tmp_path, 1, tuple(range(100)))
    assert [o.status for o in ran[0].outcomes] == [Status.REFUSED]
    for a, b in zip(plain, ran, strict=True):
        assert (a.ids, a.losses) == (b.ids, b.losses)
        assert same(a, b)


def pilot_fails(run_dir: Path) -> Ran:
    """Our own deciding part breaks on rank 0 at tick 10."""
    original, calls = Pilot.judge, iter(range(1000))

    def judge(self: Pilot, sample: Any) -> Any:
        if next(calls) == 10:
            raise RuntimeError("a bug of ours")
        return original(self, sample)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pilot, "judge", judge)
        return loop(run_dir, pull_policy("scale_lr: {factor: 0.5}"), triggers={15: 1.0})


@pytest.mark.slow
def test_a_failure_of_our_own_on_rank_0_ends_the_deciding_and_not_the_training(
    ranks: Ranks, tmp_path: Path
) -> None:
    for a, b in zip(ranks.run(loop), ranks.run(pilot_fails, tmp_path), strict=True):
        assert same(a, b)


MONITORED = """
version: 1
signals: [trigger]
snapshots: {keep: 6, reach: 160, every: 5}
monitors:
  rise: {type: sustained_rise, signal: loss}
rules:
  - name: off-course
    when: rise.bad
    ladder:
      - [stop: {}]
  - name: pull
    when: trigger.value > 0.5
    ladder:
      - [rollback: {to: {steps: 8}, data: replay}]
"""


def monitor_fails(run_dir: Path) -> Ran:
    """A monitor breaks on rank 0, where alone there are any; another rule acts later."""
    owner: Any = pydoc.locate("midcourse.monitors.sustained_rise.SustainedRise")

    def update(*_: Any) -> Any:
        raise ArithmeticError("a detector's bug")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, "update", update)
        return loop(run_dir, MONITORED, triggers={17: 1.0})


@pytest.mark.slow
def test_a_monitor_that_raises_hinders_neither_training_nor_other_rules(ranks: Ranks, tmp_path: Path) -> None:
    plain, ran = ranks.run(loop), ranks.run(monitor_fails, tmp_path)
    assert [(d.rule, d.disposition) for d in ran[0].decisions] == [("pull", Disposition.ACT)]
    assert [o.status for o in ran[0].outcomes] == [Status.APPLIED]
    for a, b in zip(plain, ran, strict=True):
        check_replay(a, b)


def no_journal(run_dir: Path, what: str) -> Ran:
    """The disk of rank 0 fills up when this is to be written."""
    original = getattr(Journal, what)

    def write(self: Journal, *args: Any, **kwargs: Any) -> Any:
        if self.full:  # type: ignore[attr-defined]
            raise JournalError("disk full")
        return original(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Journal, "full", True, raising=False)
        patch.setattr(Journal, what, write)
        return loop(run_dir, rollback_policy("replay", "{steps: 8}"), triggers={17: 1.0})


@pytest.mark.slow
@pytest.mark.parametrize("what", ["decision", "sample"])
def test_without_a_writable_journal_neither_acts(ranks: Ranks, tmp_path: Path, what: str) -> None:
    plain, ran = ranks.run(loop), ranks.run(no_journal, tmp_path, what)
    assert ran[0].outcomes == []
    for a, b in zip(plain, ran, strict=True):
        assert (a.ids, a.losses) == (b.ids, b.losses)
        assert same(a, b)


@pytest.mark.slow
def test_an_outcome_that_cannot_be_written_is_one_all_the_same(ranks: Ranks, tmp_path: Path) -> None:
    plain, ran = ranks.run(loop), ranks.run(no_journal, tmp_path, "outcome")
    for a, b in zip(plain, ran, strict=True):
        check_replay(a, b)


def not_started(run_dir: Path) -> str:
    """Make a controller that cannot have a journal; returns what each rank is told."""
    try:
        loop(run_dir, rollback_policy("replay"))
    except (JournalError, FailedElsewhere) as error:
        return f"{type(error).__name__}: {error}"
    return ""


@pytest.mark.slow
def test_a_journal_that_cannot_be_opened_is_told_on_both(ranks: Ranks, tmp_path: Path) -> None:
    taken = tmp_path / "a-file"
    taken.write_text("no folder")
    told = ranks.run(not_started, taken)
    assert told[0].startswith("JournalError")
    assert told[1].startswith("FailedElsewhere: on process 0")
