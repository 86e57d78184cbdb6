"""Taking a durable checkpoint of the run as it stands."""

from __future__ import annotations

import shutil
import time
from functools import partial
from pathlib import Path
from typing import Any

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
        # The buffer is lent last: nothing that fails after it would give it back.
        labels, own, small = run.state.labels(), run.own_state(), run.state.small()
        snapshot = run.ring.snapshot(run.state.tensors(), small, moment, run.state.changing)
        snapshot.good = good
        return Parcel(snapshot, labels, own, partial(run.ring.release, snapshot.tensors))

    run.checkpoints.begin(name, run.clock, copied)


def by_accelerate(run: Run, name: str, moment: Moment) -> Parcel:
    """Have ``accelerator.save_state`` write the tensors that stand in the model now; all processes wait."""
    small, own = run.state.small(), run.own_state()
    beside = run.ranks.share(f"{BESIDE}{time.time_ns():x}")
    folder = run.checkpoints.folder / name / beside
    run.ranks.together(lambda: folder.mkdir(parents=True, exist_ok=True))
    try:
        run.ranks.together(lambda: _save_state(run.accelerator, folder))
    except Exception:
        if run.ranks.main:  # what is half written would take the room of the next one
            shutil.rmtree(folder, ignore_errors=True)
        raise
    return Parcel(Snapshot(moment, [], small), [], own, beside=beside)


def _save_state(accelerator: Any, folder: Path) -> None:
    """Have it write there even if it names its folders itself; the loop's own are numbered as ever."""
    configuration = accelerator.project_configuration
    named, number = configuration.automatic_checkpoint_naming, configuration.iteration
    configuration.automatic_checkpoint_naming = False
    try:
        accelerator.save_state(str(folder))
    finally:
        configuration.automatic_checkpoint_naming, configuration.iteration = named, number
