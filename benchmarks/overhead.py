"""What does watching and steering cost? By tick and part, by signal and rule, in memory, and over a long run.

::

    python benchmarks/overhead.py                      tables
    python benchmarks/overhead.py --json [OUT]         the same for programs
    python benchmarks/overhead.py --only scaling       one question; repeatable
    python benchmarks/overhead.py --long [TICKS]       and very many ticks, by default a million

A real Accelerate loop on one CPU thread trains a tiny model on three sources, under the shipped baseline
policy unless said otherwise. What is compared takes turns of a few ticks in one process, so that a busy
machine slows all of it alike, and each turn is compared with the bare loop's turn beside it: figures are
medians of those differences, in CPU time of the training thread, which other programs disturb least; where
it may wait, for the journal's thread to let go of the interpreter, that thread's own time is given.

- **tick**: the loop alone, with two empty optimizer hooks, watched (observe), steered (act), and steered with
  timers around its parts. "rest" is what the parts do not add up to: proxies, hooks, and what timers disturb.
- **scaling**: up to 100 logged signals with a detector each, up to 50 rules that read what changes at every
  tick; the slope is that of a straight line through all sizes.
- **allocations**: what Python's allocators gave out at a tick's peak, at its end, while its row waits for the
  journal's thread, and for good, beside the bare loop; and the garbage collections in 1000 ticks.
- **long**: ten looks at two courses, and whether anything grew in their last half: see ``overhead_long.py``.
- **device**: on a CUDA device only: who makes the host wait, and what a snapshot holds up there.

The model is so small that the caches are never warm for what runs between two steps, and a tick of the bare
loop is all overhead too. How much of a cost a GPU's own work hides is not told by the CPU's figures.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import overhead_tables
import torch
from common import add_json_argument, give, machine
from overhead_allocations import allocations
from overhead_device import Device, on_device
from overhead_long import long
from overhead_parts import by_part
from overhead_scaling import scaling

MILLION = 1_000_000

Question = Callable[[int, Path], Any]
"""Asked with a seed and a folder for runs."""


def questions(only: Sequence[str], ticks: int, long_ticks: int | None) -> dict[str, Question]:
    """What is to be measured: those asked for, or all that this machine can answer in a minute or two."""
    every: dict[str, Question] = {
        "tick": partial(by_part, ticks),
        "scaling": partial(scaling, ticks),
        "allocations": partial(allocations, ticks),
        "long": partial(long, long_ticks or MILLION),
        "device": _on_cuda,
    }
    usual = {"tick", "scaling", "allocations"}
    usual |= {"device"} if torch.cuda.is_available() else set()
    wanted = (set(only) or usual) | ({"long"} if long_ticks else set())
    return {name: question for name, question in every.items() if name in wanted}


def measure(asked: Mapping[str, Question], ticks: int, seed: int) -> dict[str, Any]:
    """Everything that was asked for."""
    torch.set_num_threads(1)
    told: dict[str, Any] = {}
    for name, question in asked.items():
        with tempfile.TemporaryDirectory() as runs:
            told[name] = question(seed, Path(runs))
    return {
        "benchmark": "overhead",
        "machine": machine(),
        "policy": "baseline",
        "ticks": ticks,
        "seed": seed,
        **told,
    }


def _on_cuda(seed: int, runs: Path) -> Any:
    if not torch.cuda.is_available():
        raise SystemExit("overhead.py: --only device needs a CUDA device, and torch sees none")
    return on_device(Device.cuda(), seed, runs)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and say."""
    parser = argparse.ArgumentParser(description="What does watching and steering cost?")
    parser.add_argument("--ticks", type=int, default=1500, help="ticks of each arm that count (default 1500)")
    parser.add_argument("--seed", type=int, default=0, help="of data, weights and the order of turns")
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        choices=("tick", "scaling", "allocations", "long", "device"),
        help="only this question; repeatable",
    )
    parser.add_argument(
        "--long", type=int, nargs="?", const=MILLION, metavar="TICKS", help="and a long run (default 1000000)"
    )
    add_json_argument(parser)
    given = parser.parse_args(arguments)
    asked = questions(given.only, given.ticks, given.long)
    result = measure(asked, given.ticks, given.seed)
    give(result, overhead_tables.of(result), given.json)


if __name__ == "__main__":
    main()
