"""Which snapshot is given up for a new one, so that a few reach far back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .ring import Snapshot


def least_useful(snapshots: Sequence[Snapshot], now: int, reach: int) -> Snapshot | None:
    """The snapshot whose loss leaves the smallest hole, in ratios of age; None where all are pinned.

    The newest one goes last, and the oldest stays until it is beyond reach and the next one covers
    half of it: in between, the one is dropped whose neighbours' ages are nearest to each other.
    """
    free = [s for s in snapshots[:-1] if not s.pins]
    if not free:
        return None if snapshots[-1].pins else snapshots[-1]
    if len(free) > 1 and now - free[0].tick > reach and now - free[1].tick >= reach / 2:
        return free[0]

    def hole(snapshot: Snapshot) -> float:
        i = snapshots.index(snapshot)
        if i == 0:
            return float("inf")
        older, newer = now - snapshots[i - 1].tick, now - snapshots[i + 1].tick
        return older / max(newer, 1)

    return min(free, key=hole)
