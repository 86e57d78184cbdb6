"""Two real gloo processes that stay up and run one job after another.

Starting a process that imports torch takes seconds, so the pair is started once. A job is a top-level
function; both processes call it at the same time, and what each returns comes back in order of rank.
"""

from __future__ import annotations

import faulthandler
import os
import queue
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing import get_context
from pathlib import Path
from typing import Any

HANGS_AFTER = 40.0
"""Seconds after which a job counts as hanging: it would have taken one or two."""

STARTED_AFTER = 180.0
"""Seconds that both processes may take to start: on a machine that others use, torch takes long to load."""


class Ranks:
    """A pair of processes in one process group."""

    def __init__(self) -> None:
        self._processes: list[Any] = []
        self._jobs: list[Any] = []
        self._results: Any = None

    def run(self, job: Callable[..., Any], *args: Any, **kwargs: Any) -> list[Any]:
        """Call ``job`` in both processes; raises AssertionError if one fails or does not come back."""
        if not self._processes:
            self._start()
        for jobs in self._jobs:
            jobs.put((job, args, kwargs))
        answers = self._answers(HANGS_AFTER)
        failed = {rank: value for rank, (fine, value) in answers.items() if not fine}
        if failed:
            self.stop()  # a collective may be half done: the next job gets new processes
            raise AssertionError("\n".join(f"rank {rank}:\n{text}" for rank, text in failed.items()))
        return [answers[rank][1] for rank in (0, 1)]

    def _answers(self, timeout: float) -> dict[int, tuple[bool, Any]]:
        answers: dict[int, tuple[bool, Any]] = {}
        try:
            while len(answers) < 2:
                rank, fine, value = self._results.get(timeout=timeout)
                answers[rank] = (fine, value)
        except queue.Empty:
            self.stop()
            raise AssertionError(f"hangs; only these ranks came back: {sorted(answers)}") from None
        return answers

    def stop(self) -> None:
        """End both processes."""
        for process in self._processes:
            process.kill()
            process.join()
        self._processes = []

    def _start(self) -> None:
        context = get_context("spawn")
        store = Path(tempfile.mkdtemp()) / "store"
        self._results = context.Queue()
        self._jobs = [context.Queue() for _ in range(2)]
        self._processes = [
            context.Process(target=_serve, args=(rank, store, self._jobs[rank], self._results), daemon=True)
            for rank in range(2)
        ]
        for process in self._processes:
            process.start()
        self._answers(STARTED_AFTER)


def _serve(rank: int, store: Path, jobs: Any, results: Any) -> None:
    os.environ.update(WORLD_SIZE="2", LOCAL_WORLD_SIZE="2", RANK=str(rank), LOCAL_RANK=str(rank))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29500")  # Accelerate reads them; nobody listens
    import torch
    import torch.distributed as dist
    import torch.distributed.fsdp
    from accelerate.state import PartialState

    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=store.as_uri(),
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=HANGS_AFTER / 2),
    )
    # The end of a training would destroy the group that the next job needs.
    PartialState.destroy_process_group = lambda self, group=None: None
    results.put((rank, True, None))
    while True:
        faulthandler.cancel_dump_traceback_later()
        job, args, kwargs = jobs.get()
        faulthandler.dump_traceback_later(HANGS_AFTER - 5.0)
        try:
            results.put((rank, True, job(*args, **kwargs)))
        except BaseException:  # noqa: BLE001 - whatever it is, the test is told
            results.put((rank, False, traceback.format_exc()))
