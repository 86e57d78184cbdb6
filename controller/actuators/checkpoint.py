"""``checkpoint``: the present state on disk, durable when the act is done."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...policies.types import Decision
from ..durable.taking import take
from ..run import Run
from .effect import Effect


def checkpoint(run: Run, decision: Decision, params: Mapping[str, Any]) -> Effect:
    """Save the state under ``RUN/checkpoints/NAME``; ``Controller(..., resume=...)`` goes on from it.

    Raises:
        OSError: the disk of some process did not take it.
    """
    name = params["name"] or f"at-{run.clock.tick:08d}"
    take(run, name, run.feed, None if run.feed is None else run.feed.place, good=False)
    failure = run.checkpoints.settle()
    if failure is not None:
        raise OSError(failure)
    return Effect({"path": str(run.checkpoints.folder / name)})
