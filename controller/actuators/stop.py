"""``stop``: end the run, with the last good state on disk."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...policies.model import CheckpointFormat
from ...policies.types import Decision
from ..clock import Clock
from ..durable.checkpoints import Parcel
from ..durable.taking import by_accelerate
from ..ring import Snapshot
from ..run import Run
from .effect import Effect, Refused
from .rollback import Saved, moment_of
from .target import find_target

NAME = "stopped"
"""Of the checkpoint that a stopped run leaves."""


def stop(run: Run, decision: Decision, params: Mapping[str, Any]) -> Effect:
    """Restore the last good snapshot, save it, and end the loop at this batch request.

    Raises:
        OSError: the disk of some process did not take it.
    """
    before = run.ranks.together(lambda: Saved.of(run, rewinds=False))
    target = before.or_put_back(run, lambda: _save_good(run, decision))
    path = run.checkpoints.folder / NAME
    saved = "the present state" if target is None else f"the good state of step {target.moment.step}"
    reason = (
        f"rule {decision.rule!r} stopped the run at step {run.clock.step}: {decision.reason}. "
        f"{saved} is in {path}; to go on: Controller(..., resume={str(path)!r})"
    )

    def commit() -> None:
        run.ring.release(before.tensors)
        run.stopped = reason

    details = {"checkpoint": str(path), "good_tick": None if target is None else target.tick}
    return Effect(details, undo=lambda: before.put_back(run), commit=commit)


def _save_good(run: Run, decision: Decision) -> Snapshot | None:
    """Put the good state in place and on disk; without one, the present state. Returns the good one."""
    try:
        target: Snapshot | None = find_target(run, decision, "before_onset")
    except Refused:
        target = None

    def parcel() -> Parcel:
        if target is None:
            place = None if run.feed is None else run.feed.place
            moment = moment_of(run, run.feed, place)
            kept = Snapshot(moment, run.state.tensors(), run.state.small())
        else:
            target.wait()
            run.state.restore(target.tensors, target.small, rewind=True)
            kept = target
        if run.checkpoints.plan.format is CheckpointFormat.ACCELERATE:
            return by_accelerate(run, NAME, kept.moment)
        return Parcel(kept, run.state.labels(), run.own_state())

    clock = run.clock if target is None else Clock(target.tick, target.moment.step, target.moment.branch)
    run.checkpoints.begin(NAME, clock, parcel)
    failure = run.checkpoints.settle()
    if failure is not None:
        raise OSError(failure)
    return target
