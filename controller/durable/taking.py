"""Taking a durable checkpoint of the run as it stands."""

from __future__ import annotations

from ..actuators.rollback import moment_of
from ..loader import Feed, Place
from ..ring import Snapshot
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
        buffer = run.ring.copy(run.state.tensors())
        snapshot = Snapshot(moment_of(run, feed, place), buffer, run.state.small(), good)
        return Parcel(snapshot, run.state.labels(), run.own_state(), lambda: run.ring.release(buffer))

    run.checkpoints.begin(name, run.clock, copied)
