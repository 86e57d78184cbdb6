"""Kill a real training run again and again; each life goes on from the newest checkpoint of the one before.

::

    python tests/controller/torture.py --kills 200             one process
    python tests/controller/torture.py --kills 50 --ranks 2    two, with gloo

The run draws from a mixture, is rolled back twice, has its learning rate cut and a source quarantined. A
life ends by SIGKILL after a random while, every third one in the middle of writing a checkpoint. When a run
comes to its end its parameters are held, bit for bit, against those of a run that nobody disturbed, and the
next begins.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import tempfile
import time
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from midcourse.controller.journal.reader import JournalReader

POLICY = """
version: 1
signals: [trigger]
snapshots: {keep: 6, reach: 200, every: 10}
checkpoints: {every: 10, keep: 100}
monitors:
  guard: {type: guard}
  rise: {type: sustained_rise, signal: loss}
rules:
  - name: bad-step
    when: guard.bad
    budget: {acts: 9, per: 1000}
    ladder:
      - [skip_step: {}]
  - name: back
    when: trigger.value > 0.5
    budget: {acts: 3, per: 1000}
    cooldown: 5
    ladder:
      - [rollback: {to: {steps: 15}, data: replay}, scale_lr: {factor: 0.5, hold: 30, ramp: 30}]
      - [rollback: {to: before_onset, data: skip}, reweight: {source: b, to: 0, hold: 20, ramp: 20}]
"""
TRIGGERS = {55: 1.0, 130: 1.0}
NAN_AT = 90
WIDTH = 8_000  # long enough in the writing for a checkpoint to be met there
HANGS_AFTER_SECONDS = 120.0
_CONTEXT = get_context("forkserver")


@dataclass
class Tally:
    """What was done."""

    kills: int = 0
    in_writing: int = 0
    lives: int = 0
    runs: int = 0


def train_once(folder: Path, rank: int, ranks: int, store: Path) -> None:
    """One life: begin, or go on from the newest checkpoint; at the end the parameters are put in a file."""
    import torch
    from small_loop import network, train

    torch.set_num_threads(1)
    if ranks > 1:
        _join(rank, ranks, store)

    def spoil(tick: int, loss: Any) -> Any:
        return loss * float("nan") if tick == NAN_AT else loss

    trace = train(
        folder,
        POLICY,
        resume="auto",
        triggers=TRIGGERS,
        spoil=spoil,
        mixture=True,
        batches=40,
        epochs=5 * ranks,
        build=lambda: network(WIDTH),
        schedule=lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda step: 0.995**step),
    )
    end = folder / f"end-{rank}.pt"
    torch.save(trace.parameters, end.with_suffix(".partial"))
    end.with_suffix(".partial").rename(end)


def _join(rank: int, ranks: int, store: Path) -> None:
    import torch.distributed as dist

    os.environ.update(
        WORLD_SIZE=str(ranks), LOCAL_WORLD_SIZE=str(ranks), RANK=str(rank), LOCAL_RANK=str(rank)
    )
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29500")  # Accelerate reads them; nobody listens
    dist.init_process_group(
        "gloo", init_method=store.as_uri(), rank=rank, world_size=ranks, timeout=timedelta(seconds=60)
    )


class Torture:
    """A run that is killed until it comes to its end.

    Args:
        folder: Where the runs are.
        ranks: Processes of a run.
        seed: Of the moments of death.
    """

    def __init__(self, folder: Path, ranks: int = 1, seed: int = 0) -> None:
        _CONTEXT.set_forkserver_preload(
            ["torch", "accelerate", "midcourse.controller.controller", "small_loop"]
        )
        self.tally = Tally()
        self._folder = folder
        self._ranks = ranks
        self._random = random.Random(seed)
        began = time.monotonic()
        self._live(folder / "undisturbed", killed_after=None)
        self._length = time.monotonic() - began
        self.undisturbed = ending(folder / "undisturbed", ranks)

    def kill(self, times: int) -> None:
        """Kill so many lives, in as many runs as that takes; the last run is let come to its end.

        Raises:
            AssertionError: a run ended otherwise than the one that nobody disturbed, or did not go on.
        """
        while self.tally.kills < times:
            run = self._folder / f"run-{self.tally.runs}"
            while not (ended := self._live(run, self._moment(times))):
                pass
            assert ended
            self._check(run)
            self.tally.runs += 1
            shutil.rmtree(run)

    def _moment(self, times: int) -> float | None:
        return None if self.tally.kills >= times else self._random.uniform(0.02, 0.6) * self._length

    def _live(self, run: Path, killed_after: float | None) -> bool:
        """One life; whether it came to the end of the training."""
        self.tally.lives += 1
        store = Path(tempfile.mkdtemp(dir=self._folder)) / "store"
        processes = [
            _CONTEXT.Process(target=train_once, args=(run, rank, self._ranks, store), daemon=True)
            for rank in range(self._ranks)
        ]
        for process in processes:
            process.start()
        killed = killed_after is not None and self._kill_one(processes, run, killed_after)
        deadline = time.monotonic() + HANGS_AFTER_SECONDS
        for process in processes:
            if killed:
                process.kill()  # as a launcher does when one of its processes has died
            process.join(max(0.0, deadline - time.monotonic()))
            assert process.exitcode is not None, "the run hangs"
        if not killed:
            assert [process.exitcode for process in processes] == [0] * self._ranks
        return not killed

    def _kill_one(self, processes: list[Any], run: Path, after: float) -> bool:
        """Kill one process after a while, or, every third time, while a checkpoint is being written then."""
        victim = self._random.choice(processes)
        moment = time.monotonic() + after
        in_writing = self.tally.kills % 3 == 2
        while victim.is_alive():
            due = time.monotonic() >= moment
            writing = in_writing and due and any(run.glob("checkpoints/*/.*.partial"))
            if writing or (due and not in_writing):
                victim.kill()
                victim.join()
                if victim.exitcode == 0:
                    return False
                self.tally.kills += 1
                self.tally.in_writing += writing
                return True
            time.sleep(0.0005)
        return False

    def _check(self, run: Path) -> None:
        import torch

        end = ending(run, self._ranks)
        for found, wanted in zip(end, self.undisturbed, strict=True):
            assert all(map(torch.equal, found, wanted)), f"{run} did not end as an undisturbed run does"
        with JournalReader(run) as reader:
            assert not reader.running
            decided = {d.id for d in reader.decisions()}
        with JournalReader(self._folder / "undisturbed") as reader:
            assert decided == {d.id for d in reader.decisions()}


def ending(run: Path, ranks: int) -> list[list[Any]]:
    """The parameters that a run's processes ended with."""
    import torch

    return [torch.load(run / f"end-{rank}.pt") for rank in range(ranks)]


def main() -> None:
    """Torture as the command line says, and tell what was done."""
    parser = argparse.ArgumentParser(description="Kill a training run again and again.")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        torture = Torture(Path(folder), given.ranks, given.seed)
        torture.kill(given.kills)
    tally = torture.tally
    print(
        f"{tally.kills} kills, {tally.in_writing} of them in the middle of writing a checkpoint, in "
        f"{tally.lives} lives of {tally.runs} runs with {given.ranks} process(es): each "
        "ended bit for bit as if undisturbed"
    )


if __name__ == "__main__":
    main()
