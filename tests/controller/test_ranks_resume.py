"""Two processes that end before their time go on together, each from its own part of a checkpoint."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from rank_jobs import Ran, late, loop, rank_here, same
from small_loop import Died
from torch.optim.lr_scheduler import LambdaLR
from two_ranks import Ranks

from midcourse.controller.durable import checkpoints
from midcourse.controller.journal.reader import JournalReader

POLICY = """
version: 1
signals: [trigger]
snapshots: {keep: 6, reach: 160, every: 5}
checkpoints: {every: 5, keep: 100}
rules:
  - name: back
    when: trigger.value > 0.5
    budget: {acts: 3, per: 1000}
    cooldown: 2
    ladder:
      - [rollback: {to: {steps: 6}, data: replay}, scale_lr: {factor: 0.5, hold: 10, ramp: 10}]
"""


def decaying(optimizer: Any) -> LambdaLR:
    return LambdaLR(optimizer, lambda step: 0.98**step)


def dies(job: Any, *args: Any, **kwargs: Any) -> None:
    with pytest.raises(Died):
        job(*args, **kwargs)


def events(folder: Path, kind: str) -> list[Any]:
    with JournalReader(folder) as reader:
        return [event for event in reader.events() if event.kind == kind]


CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "plain": (loop, {}),
    "mixture-accumulation": (loop, {"mixture": True, "accumulation": 3, "epochs": 8}),
    "seedable-lambda": (loop, {"seedable": True, "schedule": decaying}),
    "uneven": (loop, {"examples": 149, "schedule": decaying, "per_epoch": True}),
    "read-late": (late, {"mixture": True}),
}


@pytest.mark.slow
@pytest.mark.parametrize("sharded", [False, True], ids=["ddp", "fsdp2"])
@pytest.mark.parametrize("case", CASES)
def test_a_resumed_run_ends_bit_for_bit_where_an_undisturbed_one_ends(
    ranks: Ranks, tmp_path: Path, case: str, sharded: bool
) -> None:
    job, how = CASES[case]
    how = {"triggers": {13: 1.0}, "sharded": sharded, **how}
    whole = ranks.run(job, tmp_path / "whole", POLICY, **how)
    ranks.run(dies, job, tmp_path / "broken", POLICY, die_at=18, **how)
    resumed = ranks.run(job, tmp_path / "broken", POLICY, resume="auto", **how)
    assert [event.detail["checkpoint"] for event in events(tmp_path / "broken", "resumed")]
    for a, b in zip(whole, resumed, strict=True):
        assert same(a, b)
        assert a.losses[-len(b.losses) :] == b.losses


def failing_on(rank: int, tick: int, *args: Any, **kwargs: Any) -> Ran:
    """The loop, on a disk that takes nothing at this tick on this rank."""
    write = checkpoints.write

    def fails(folder: Path, about: Any, *rest: Any) -> Any:
        if rank_here() == rank and about.tick == tick:
            raise OSError("no space left")
        return write(folder, about, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints, "write", fails)
        return loop(*args, **kwargs)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_disk_that_fails_on_one_process_is_told_and_neither_returns_to_that(
    ranks: Ranks, tmp_path: Path, rank: int
) -> None:
    plain = ranks.run(loop)
    ran = ranks.run(failing_on, rank, 15, tmp_path, POLICY)
    (failed,) = events(tmp_path, "checkpoint_failed")
    assert (failed.tick, failed.detail["name"]) == (15, "tick-00000015")
    assert f"on process {rank}: OSError: no space left" in failed.detail["reason"]
    assert all(same(a, b) for a, b in zip(plain, ran, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_what_one_process_lacks_neither_resumes_from(ranks: Ranks, tmp_path: Path, rank: int) -> None:
    plain = ranks.run(loop)
    ranks.run(dies, loop, tmp_path, POLICY, die_at=18)
    next((tmp_path / "checkpoints" / "tick-00000015").glob(f"rank-{rank}.*.safetensors")).unlink()
    resumed = ranks.run(loop, tmp_path, POLICY, resume="auto")
    assert [event.detail["step"] for event in events(tmp_path, "resumed")] == [10]
    assert all(same(a, b) for a, b in zip(plain, resumed, strict=True))


@pytest.mark.slow
def test_parts_that_two_attempts_have_left_are_no_checkpoint(ranks: Ranks, tmp_path: Path) -> None:
    plain = ranks.run(loop)
    for run in ("first", "second"):
        ranks.run(dies, loop, tmp_path / run, POLICY, die_at=18)
    there, other = (tmp_path / run / "checkpoints" / "tick-00000015" for run in ("first", "second"))
    for path in there.glob("rank-1.*"):
        path.unlink()
    for path in other.glob("rank-1.*"):
        path.rename(there / path.name)
    with pytest.raises(AssertionError, match="its parts were not written at the same time"):
        ranks.run(loop, tmp_path / "first", POLICY, resume=there)
    resumed = ranks.run(loop, tmp_path / "first", POLICY, resume="auto")
    assert [event.detail["step"] for event in events(tmp_path / "first", "resumed")] == [10]
    assert all(same(a, b) for a, b in zip(plain, resumed, strict=True))


@pytest.mark.slow
def test_another_number_of_processes_is_told(ranks: Ranks, tmp_path: Path) -> None:
    ranks.run(dies, loop, tmp_path, POLICY, die_at=18)
    for manifest in tmp_path.glob("checkpoints/*/rank-*.json"):
        manifest.write_text(manifest.read_text().replace('"world": 2', '"world": 4'))
    with pytest.raises(AssertionError, match="was written by 4 processes and this run has 2"):
        ranks.run(loop, tmp_path, POLICY, resume=tmp_path / "checkpoints" / "tick-00000015")


def terminated(rank: int, *args: Any, **kwargs: Any) -> int:
    """The loop, in which one process gets SIGTERM at tick 17; the exit code."""

    def spoil(tick: int, loss: torch.Tensor) -> torch.Tensor:
        if tick == 17 and rank_here() == rank:
            os.kill(os.getpid(), signal.SIGTERM)
        return loss

    with pytest.raises(SystemExit) as left:
        loop(*args, spoil=spoil, **kwargs)
    return int(str(left.value.code))


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_sigterm_on_one_process_has_both_save_and_leave_at_the_same_batch(
    ranks: Ranks, tmp_path: Path, rank: int
) -> None:
    plain = ranks.run(loop)
    policy = POLICY.replace("every: 5, keep: 100", "every: 1000")
    assert ranks.run(terminated, rank, tmp_path, policy) == [128 + signal.SIGTERM] * 2
    (left,) = events(tmp_path, "terminated")
    assert 17 <= left.tick <= 18
    resumed = ranks.run(loop, tmp_path, policy, resume="auto")
    assert [event.detail["step"] for event in events(tmp_path, "resumed")] == [left.tick]
    assert all(same(a, b) for a, b in zip(plain, resumed, strict=True))
