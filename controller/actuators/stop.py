"""``stop``: end the run, with the last good state on disk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...policies.types import Decision
from ..run import Run
from .checkpoint import save
from .effect import Effect
from .rollback import Saved


def stop(run: Run, decision: Decision, params: Mapping[str, Any]) -> Effect:
    """Restore the last good snapshot, save it, and end the loop at this batch request."""
    good = run.ring.at_or_before((decision.onset or decision.tick) - 1) if run.ranks.main else None
    tick = run.ranks.share(None if good is None else good.tick)
    target = next((s for s in run.ring.snapshots if s.tick == tick), None)
    before = Saved.of(run, rewinds=False)

    def restore() -> None:
        if target is not None:
            run.state.restore(target.tensors, target.small, rewind=True)

    def write() -> Path:
        run.ranks.together(restore)
        return save(run, "stopped", before.moment if target is None else target.moment)

    path = before.or_put_back(run, write)
    saved = "the present state" if target is None else f"the good state of step {target.moment.step}"
    reason = (
        f"rule {decision.rule!r} stopped the run at step {run.clock.step}: {decision.reason}. "
        f"{saved} is in {path}; to go on: accelerator.load_state({str(path)!r})"
    )

    def commit() -> None:
        run.ring.release(before.tensors)
        run.stopped = reason

    details = {"checkpoint": str(path), "good_tick": tick}
    return Effect(details, undo=lambda: before.put_back(run), commit=commit)
