"""A training command for the tests of forks: a small run in which a policy acts twice.

::

    python forked_loop.py RUN [--checkpoints] [--random] [--fails] [--passes N]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from small_loop import RESUMABLE, train

TRIGGERS = {28: 1.0, 44: 1.0}


def main(arguments: Sequence[str] | None = None) -> None:
    """Train as the command line says, in a run folder that the script names itself."""
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("--checkpoints", action="store_true")
    parser.add_argument("--random", action="store_true", help="what is trained differs from run to run")
    parser.add_argument("--fails", action="store_true", help="in the middle of it")
    parser.add_argument("--passes", type=int, default=4)
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    policy = RESUMABLE if given.checkpoints else RESUMABLE.replace("checkpoints:", "# checkpoints:")
    noise = time.time_ns() % 1000 / 1000 if given.random else 0.0

    def spoil(tick: int, loss: torch.Tensor) -> torch.Tensor:
        if given.fails and tick == 40:
            raise SystemExit("the disk with the data is gone")
        return loss * (1 + noise)

    train(
        given.run,
        policy,
        resume="auto" if given.checkpoints else None,
        triggers=TRIGGERS,
        epochs=given.passes,
        spoil=spoil,
    )


if __name__ == "__main__":
    main()
