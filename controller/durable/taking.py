"""Taking a durable checkpoint of the run as it stands."""

from __future__ import annotations

import time
from functools import partial

from ...policies.model import CheckpointFormat
from ..actuators.rollback import moment_of
from ..feed import Feed
from ..places import Place
from ..ring import Moment, Snapshot
from ..run import Run
from .checkpoints import Parcel
from .files import BESIDE


def take(run: Run, name: str, feed: Feed | None, place: Place | None, *, good: bool) -> None:
    """Begin to write the present state; training goes on while it is written.

    Args:
        run: Whose state is taken.
        name: What the checkpoint is called.
        feed: The training loader's, if there is one of ours.
        place: Where the feed's next step takes its first batch from.
        good: Whether no rule is about to act on this state.
    """

    def copied() -> Parcel:
        moment = moment_of(run, feed, place)
        if run.checkpoints.plan.format is CheckpointFormat.ACCELERATE:
            return by_accelerate(run, name, moment)
        snapshot = run.ring.snapshot(run.state.tensors(), run.state.small(), moment, run.state.changing)
        snapshot.good = good
        release = partial(run.ring.release, snapshot.tensors)
        return Parcel(snapshot, run.state.labels(), run.own_state(), release)

    run.checkpoints.begin(name, run.clock, copied)


def by_accelerate(run: Run, name: str, moment: Moment) -> Parcel:
    """Have ``accelerator.save_state`` write the tensors that stand in the model now; all processes wait."""
    beside = run.ranks.share(f"{BESIDE}{time.time_ns():x}")
    folder = run.checkpoints.folder / name / beside
    run.ranks.together(lambda: folder.mkdir(parents=True, exist_ok=True))
    run.ranks.together(lambda: run.accelerator.save_state(str(folder)))
    return Parcel(Snapshot(moment, [], run.state.small()), [], run.own_state(), beside=beside)
