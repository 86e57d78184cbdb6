"""Where a rollback goes: the newest good state that fits, in memory or on disk."""

from __future__ import annotations

from typing import Any

from ...policies.actions import GO_BY_ONSET
from ...policies.landmarks import fits
from ...policies.types import Decision
from ..ring import Snapshot
from ..run import Run
from .effect import Refused


def find_target(run: Run, decision: Decision, to: Any) -> Snapshot:
    """The snapshot that ``to`` asks for, the same one on all processes.

    Rank 0 chooses. A state after the onset is never a target of ``before_onset`` or ``before_first_act``,
    nor one that is not good, unless it is a checkpoint that was named. Those on disk serve where none in
    memory is as new; a damaged one is passed over.

    Raises:
        Refused: there is none.
    """
    run.checkpoints.settle()  # one that is still being written serves too, and is of this course
    _keep_common(run)
    while True:
        tick, name = run.ranks.ask_main(lambda: _choose(run, decision, to))
        if name is not None:
            snapshot = _from_disk(run, name)
        else:
            snapshot = next((s for s in run.ring.snapshots if s.tick == tick), None)
            if snapshot is None:
                raise Refused(_why_none(run, decision, to))
        if snapshot is not None:
            return snapshot


def _keep_common(run: Run) -> None:
    """Only what all processes have is a state to return to: one may have had no memory for a snapshot."""
    ticks = run.ranks.gather([s.tick for s in run.ring.snapshots])
    run.ring.keep_only(set(ticks[0]).intersection(*ticks))


def _choose(run: Run, decision: Decision, to: Any) -> tuple[int | None, str | None]:
    """Tick of a snapshot in memory, or name of a checkpoint on disk."""
    if isinstance(to, dict) and "checkpoint" in to:
        entry = run.checkpoints.named(to["checkpoint"])
        return None, None if entry is None else entry.name
    may = fits(decision, to, run.clock.tick, run.clock.step)
    kept = next((s for s in reversed(run.ring.snapshots) if s.good and may(s.tick, s.moment.step)), None)
    entry = next((e for e in reversed(run.checkpoints.entries) if e.good and may(e.tick, e.step)), None)
    if entry is not None and (kept is None or entry.tick > kept.tick):
        return None, entry.name
    return None if kept is None else kept.tick, None


def _from_disk(run: Run, name: str) -> Snapshot | None:
    """A checkpoint's training state; None where some process' part is damaged, which all then forget."""
    parcel, failure = run.checkpoints.read_together(name)
    if parcel is None:
        run.checkpoints.forget(name, failure)
        return None
    if parcel.beside is not None:
        raise Refused(f"checkpoint {name!r} is in Accelerate's format: a run can only be resumed from it")
    return parcel.snapshot


def _why_none(run: Run, decision: Decision, to: Any) -> str:
    if isinstance(to, dict) and "checkpoint" in to:
        known = ", ".join(entry.name for entry in run.checkpoints.entries) or "none"
        return f"no checkpoint {to['checkpoint']!r} of this course; there are: {known}"
    good = [s.tick for s in run.ring.snapshots if s.good]
    have = f"good snapshots are of ticks {good}" if good else "there is no good snapshot"
    if run.checkpoints.entries:
        have += f", good checkpoints of ticks {[e.tick for e in run.checkpoints.entries if e.good]}"
    wanted = f"before the onset at tick {decision.onset}" if to in GO_BY_ONSET else f"for {to!r}"
    return f"no snapshot {wanted}: {have}"
