"""What do a snapshot and a restore cost? Beside one plain copy of the same bytes, and beside checkpoints.

::

    python benchmarks/rollback.py                     a table
    python benchmarks/rollback.py --json [OUT]        the same for programs
    python benchmarks/rollback.py --sizes 10,100      millions of parameters

A stack of linear layers is trained for a few steps with AdamW on the CPU, under a controller. Then its parts
take turns, so that a busy machine slows all of them alike: ``torch._foreach_copy_`` of the whole state
(parameters and moments) into memory that has been used before, a snapshot as the run takes it, a restore as
the ``rollback`` action does it, its read-back, and the whole action (which keeps the state before it as
well, so that it can be taken back). One thread does it all, and its CPU time is what counts, which other
programs disturb least. Times are medians; a ratio is the median of each turn's time to that of the plain
copy in the same turn. What waits for others is told in time of the clock: a copy into memory never used
before, whose pages the system has to find, and the peers. They write to a disk, which a snapshot in memory
does not, and are what a run would otherwise return to; of ``async_save`` only the part that training has to
wait for is counted.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import set_seed
from common import add_json_argument, columns, give, machine
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save, save

from midcourse import Controller
from midcourse.controller.actuators.read_back import identical
from midcourse.controller.actuators.rollback import moment_of, rollback
from midcourse.controller.run import Run
from midcourse.policies.policy import parse_policy
from midcourse.policies.types import Action, Decision, Disposition

POLICY = "{version: 1, snapshots: {keep: 1, every: 1000000000}}"
STATES = 5  # copies of the state that a size needs at its peak: live, snapshot, spare, and what peers stage
BYTES_A_PARAMETER = 12  # the parameter and AdamW's two moments, 32 bits each
BARS = {"snapshot": 1.2, "restore": 1.5}

Part = Callable[[], object]


def stack(millions: float) -> torch.nn.Sequential:
    """Linear layers of so many million parameters in all: 150 tensors at a hundred million."""
    layers = max(1, round(7.5 * millions**0.5))
    width = max(1, round((1e6 * millions / layers) ** 0.5))
    return torch.nn.Sequential(*(torch.nn.Linear(width, width) for _ in range(layers)))


class Trained:
    """A model that has been trained for a few steps, under a controller.

    Args:
        millions: Parameters.
        seed: Of weights and data.
        folder: Of the run, and of what the peers write.
    """

    def __init__(self, millions: float, seed: int, folder: Path) -> None:
        set_seed(seed)
        self.folder = folder
        self.accelerator = Accelerator(cpu=True)
        self.controller = Controller(
            self.accelerator, policy=parse_policy(POLICY), run_dir=folder / "run", say=lambda line: None
        )
        self.model: Any = stack(millions)
        self.optimizer: Any = torch.optim.AdamW(self.model.parameters(), lr=1e-4)
        self.model, self.optimizer = self.accelerator.prepare(self.model, self.optimizer)
        width = self.model[0].in_features
        for _ in range(3):
            self.accelerator.backward(self.model(torch.randn(2, width)).square().mean())
            self.optimizer.step()
            self.optimizer.zero_grad()
        cycle = self.controller._wiring.cycle
        assert cycle is not None
        self.run: Run = cycle.run

    def snapshot(self) -> None:
        """Take a snapshot as the run takes it."""
        run = self.run
        run.clock.tick += 1
        moment = moment_of(run, None, None)
        taken = run.ring.take(run.state.tensors(), run.state.small(), moment, run.state.changing)
        assert taken is not None, "no memory for a snapshot"
        taken.good = True

    def restore(self) -> None:
        """Put the snapshot back and read it back, as the action does it."""
        target = self.run.ring.snapshots[-1]
        target.wait()
        self.run.state.restore(target.tensors, target.small, rewind=True)
        self.read_back()

    def read_back(self) -> None:
        """The last part of a restore alone."""
        assert identical(self.run.state.tensors(), self.run.ring.snapshots[-1].tensors)

    def act(self) -> None:
        """The whole action, committed; its verdict is in at once."""
        run, action = self.run, Action("rollback", {"to": "last_good", "data": "forward"})
        clock = run.clock
        decision = Decision(
            id=f"benchmark@{clock.tick}",
            rule="benchmark",
            instance="",
            tick=clock.tick,
            step=clock.step,
            branch=clock.branch,
            disposition=Disposition.ACT,
            rung=0,
            actions=(action,),
            onset=None,
            reason="to see what it costs",
        )
        rollback(run, decision, action.params).commit()
        run.ring.unpin(decision.id)

    def whole(self) -> dict[str, Any]:
        """The state as the peers name it."""
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}


def seconds(part: Part, clock: Callable[[], float] = time.thread_time) -> float:
    """How long a part takes, by the CPU time of this thread or another clock."""
    began = clock()
    part()
    return clock() - began


def first_copy(live: Sequence[torch.Tensor]) -> float:
    """Seconds of a copy into memory that nobody has used before."""
    new = [torch.empty_like(tensor) for tensor in live]
    return seconds(lambda: torch._foreach_copy_(new, list(live)), time.perf_counter)


def in_memory(trained: Trained, turns: int) -> dict[str, list[float]]:
    """Seconds of each part in each turn, after one for the caches; and of one copy into new memory."""
    ring, live = trained.run.ring, trained.run.state.tensors()
    found = {"first_copy": [first_copy(live)]}
    parts: dict[str, Part] = {
        "snapshot": trained.snapshot,
        "restore": trained.restore,
        "read_back": trained.read_back,
        "act": trained.act,
    }
    for turn in range(turns + 1):
        buffer = ring.copy(live)
        times = {"copy": seconds(lambda: torch._foreach_copy_(buffer, live))}  # noqa: B023
        ring.release(buffer)
        times |= {name: seconds(part) for name, part in parts.items()}
        for name, took in times.items():
            found.setdefault(name, [])
            found[name] += [took] if turn else []
    return found


def on_disk(trained: Trained, turns: int) -> dict[str, list[float]]:
    """Seconds of the peers in each turn."""
    at = {name: trained.folder / name for name in ("accelerate", "dcp", "dcp_async")}
    accelerator, state = trained.accelerator, trained.whole()
    found: dict[str, list[float]] = {}
    for _ in range(turns):
        for folder in at.values():
            shutil.rmtree(folder, ignore_errors=True)
        pending: list[Any] = []
        parts: dict[str, Part] = {
            "save_state": lambda: accelerator.save_state(str(at["accelerate"])),
            "load_state": lambda: accelerator.load_state(str(at["accelerate"])),
            "dcp_save": lambda: save(state, checkpoint_id=at["dcp"]),
            "dcp_async_save": lambda: pending.append(  # noqa: B023
                async_save(state, checkpoint_id=at["dcp_async"])
            ),
            "dcp_load": lambda: load(state, checkpoint_id=at["dcp"]),
        }
        for name, part in parts.items():
            found.setdefault(name, []).append(seconds(part, time.perf_counter))
            while pending:
                pending.pop().result()
    return found


def one_size(millions: float, seed: int, turns: int) -> dict[str, Any]:
    """All figures of one size, or why there are none."""
    needed = int(STATES * BYTES_A_PARAMETER * 1e6 * millions)
    free = psutil.virtual_memory().available
    if needed > free:
        told = f"needs {needed / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are free"
        return {"millions": millions, "skipped": told}
    with tempfile.TemporaryDirectory() as folder:
        trained = Trained(millions, seed, Path(folder))
        tensors = trained.run.state.tensors()
        times = in_memory(trained, turns)
        trained.run.ring.clear()
        # One process alone: asynchronous checkpoints ask for a group nevertheless.
        dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=0, world_size=1)
        peers = on_disk(trained, max(1, turns // 5))
        trained.accelerator.end_training()  # which also ends the group
    copies = times.pop("copy")
    copy = median(copies)
    return {
        "millions": millions,
        "tensors": len(tensors),
        "bytes": sum(t.numel() * t.element_size() for t in tensors),
        "copy_ms": round(1e3 * copy, 3),
        "ms": {name: round(1e3 * median(took), 3) for name, took in (times | peers).items()},
        "ratio": {
            **{
                name: round(median(t / c for t, c in zip(took, copies, strict=False)), 2)
                for name, took in times.items()
            },
            **{name: round(median(took) / copy, 1) for name, took in peers.items()},
        },
    }


def measure(sizes: Sequence[float], seed: int, turns: int) -> dict[str, Any]:
    """Everything that this benchmark says."""
    torch.set_num_threads(1)
    return {
        "benchmark": "rollback",
        "machine": machine(),
        "seed": seed,
        "turns": turns,
        "bars": BARS,
        "sizes": [one_size(millions, seed, turns) for millions in sizes],
    }


NAMES = {
    "snapshot": "snapshot",
    "restore": "restore, read back",
    "read_back": "  the read-back alone",
    "act": "the whole rollback action",
    "first_copy": "copy into memory never used before",
    "save_state": "accelerator.save_state",
    "load_state": "accelerator.load_state",
    "dcp_save": "torch.distributed.checkpoint.save",
    "dcp_async_save": "  async_save, until it returns",
    "dcp_load": "  load",
}


def table(result: Mapping[str, Any]) -> str:
    """The same for people."""
    about = result["machine"]
    parts = [
        f"{about['processor']}, {about['cores']} cores, Python {about['python']}, torch "
        f"{about['torch']}; one thread, AdamW, medians of {result['turns']} turns"
    ]
    for size in result["sizes"]:
        head = f"{size['millions']:g} M parameters"
        if "skipped" in size:
            parts.append(f"{head}: {size['skipped']}")
            continue
        rows = [[f"{head}, {size['tensors']} tensors, {size['bytes'] / 1e6:.0f} MB", "ms", "copies", "bar"]]
        rows.append(["torch._foreach_copy_", f"{size['copy_ms']:.1f}", "1.00", ""])
        for name, words in NAMES.items():
            bar = result["bars"].get(name, "")
            rows.append([words, f"{size['ms'][name]:.1f}", f"{size['ratio'][name]:.2f}", str(bar)])
        parts.append(columns(rows))
    return "\n\n".join(parts)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and say."""
    parser = argparse.ArgumentParser(description="What do a snapshot and a restore cost?")
    parser.add_argument(
        "--sizes",
        type=lambda text: [float(size) for size in text.split(",")],
        default=[10.0, 100.0, 300.0],
        help="millions of parameters (default 10,100,300; what memory does not hold is left out)",
    )
    parser.add_argument("--turns", type=int, default=15, help="turns that count (default 15; peers a fifth)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and data")
    add_json_argument(parser)
    given = parser.parse_args(arguments)
    result = measure(given.sizes, given.seed, given.turns)
    give(result, table(result), given.json)


if __name__ == "__main__":
    main()
