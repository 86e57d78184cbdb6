"""Taking a durable checkpoint of the run as it stands."""

from __future__ import annotations

from functools import partial

from ..actuators.rollback import moment_of
from ..loader import Feed, Place
from ..run import Run
from .checkpoints import Parcel


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
        snapshot = run.ring.snapshot(run.state.tensors(), run.state.small(), moment, run.state.changing)
        snapshot.good = good
        release = partial(run.ring.release, snapshot.tensors)
        return Parcel(snapshot, run.state.labels(), run.own_state(), release)

    run.checkpoints.begin(name, run.clock, copied)
