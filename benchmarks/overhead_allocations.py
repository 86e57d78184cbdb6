"""What a tick allocates: at its peak, until the journal's thread has written it, and for good.

Python's own allocators are asked, so the memory of tensors is not in it. The bare loop and the steered one
make as many ticks one after the other; what the steered one takes beyond the other is ours. A peak is that of
the whole tick: ours shows in it only as far as it is higher than the loop's own. What is given out and given
back again within a tick, below its peak, is not seen.
"""

from __future__ import annotations

import gc
import sys
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from overhead_loop import Arm, baseline, controlled, ended, records_of, training

STEADY = 2200  # ticks until nothing fills up any more: a run remembers the places of its last 2000
TRACED = 10  # one tick in so many is enough for what is traced, which takes ten times as long


def allocations(ticks: int, seed: int, runs: Path, steady: int = STEADY) -> dict[str, Any]:
    """Blocks and bytes a tick, and garbage collections in 1000 ticks, of the bare loop and of the steered.

    Args:
        ticks: Of each arm and question.
        seed: Of weights and data.
        runs: A folder for journals.
        steady: Ticks before anything counts.
    """
    length = steady + 3 * ticks + 20
    arms = {
        "bare": training(seed, length),
        "act": training(seed, length, controlled(baseline(), runs / "allocations", norms_every=10)),
    }
    for arm in reversed(arms.values()):  # the steered one has written its rows when the bare one's turn comes
        _go_on(arm, steady)
        _settle(arm)
    told: dict[str, Any] = {}
    for name, arm in arms.items():
        found = {**_kept(arm, ticks), **_collections(arm, ticks), **_within(arm, -(-ticks // TRACED))}
        told[name] = {what: round(value, 3) for what, value in found.items()}
    ended(arms)
    ours = {what: round(value - told["bare"][what], 3) for what, value in told["act"].items()}
    return {"ticks": ticks, **told, "ours": ours}


def _kept(arm: Arm, ticks: int) -> dict[str, float]:
    """Blocks that are still there after so many ticks, once the journal's thread has written them.

    It may be one or two below zero: what snapshots share with the state they were taken from varies. Whether
    anything grows is a question of many more ticks.
    """
    _settle(arm)
    before = sys.getallocatedblocks()
    _go_on(arm, ticks)
    _settle(arm)
    return {"kept_blocks": (sys.getallocatedblocks() - before) / ticks}


def _collections(arm: Arm, ticks: int) -> dict[str, float]:
    """Garbage collections of each generation in 1000 ticks."""
    gc.collect()
    with _collected() as seen:
        _go_on(arm, ticks)
    return {f"collections_{generation}": 1e3 * seen[generation] / ticks for generation in range(3)}


def _within(arm: Arm, ticks: int) -> dict[str, float]:
    """Median bytes of a tick at its peak and at its end, beyond what there was at its beginning."""
    peaks, left = [], []
    tracemalloc.start()
    try:
        _go_on(arm, 5)  # what was made before is not known to it, so its end is not seen either
        for _ in range(ticks):
            tracemalloc.reset_peak()
            before, _ = tracemalloc.get_traced_memory()
            next(arm)
            now, peak = tracemalloc.get_traced_memory()
            peaks.append(peak - before)
            left.append(now - before)
    finally:
        tracemalloc.stop()
    return {"peak_bytes": median(peaks), "waiting_bytes": median(left)}


def _go_on(arm: Arm, ticks: int) -> None:
    for _ in range(ticks):
        next(arm)


def _settle(arm: Arm) -> None:
    """Let all be written and collected that waits for it."""
    controller = next(arm)
    if controller is not None:
        records_of(controller).journal.flush()
    gc.collect()


@contextmanager
def _collected() -> Iterator[Counter[int]]:
    """Counts collections by generation."""
    seen: Counter[int] = Counter()

    def count(phase: str, info: dict[str, int]) -> None:
        seen[info["generation"]] += phase == "start"

    gc.callbacks.append(count)
    try:
        yield seen
    finally:
        gc.callbacks.remove(count)
