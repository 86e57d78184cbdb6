"""``checkpoint``: the present state on disk, by Accelerate's own ``save_state``."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...policies.types import Decision
from ..ring import Moment
from ..run import Run
from .effect import Effect
from .rollback import moment_of

FOLDER = "checkpoints"
STATE = "midcourse.json"


def checkpoint(run: Run, decision: Decision, params: Mapping[str, Any]) -> Effect:
    """Save the state under ``RUN/checkpoints``; ``accelerator.load_state`` reads it."""
    now = moment_of(run, run.feed, None if run.feed is None else run.feed.place)
    return Effect({"path": str(save(run, f"tick-{run.clock.tick}", now))})


def save(run: Run, name: str, moment: Moment) -> Path:
    """Write a checkpoint that is complete or not there at all: under a temporary name, then renamed.

    ``moment`` is that of the state which stands in the model now: a snapshot's, if one was restored.
    """
    final = run.directory / FOLDER / name
    partial = final.with_name(f".{name}.partial")

    def begin() -> None:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)

    def finish() -> None:
        (partial / STATE).write_text(json.dumps(_own_state(run, moment)), encoding="utf-8")
        _sync(partial)
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        _sync_folder(final.parent)

    ranks = run.ranks
    ranks.together(lambda: begin() if ranks.main else None)
    ranks.together(lambda: run.accelerator.save_state(str(partial)))
    ranks.together(lambda: finish() if ranks.main else None)
    return final


def _own_state(run: Run, moment: Moment) -> dict[str, Any]:
    place = moment.place
    return {
        "tick": moment.tick,
        "step": moment.step,
        "branch": moment.branch,
        "epoch": None if place is None else place.epoch,
        "batch": None if place is None else place.batch,
        "detectors": moment.detectors,
        "overrides": run.layers.state_dict(),
        "mixture": None if run.mix is None else run.mix.state_dict(),
    }


def _sync(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
