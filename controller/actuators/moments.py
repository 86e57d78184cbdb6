"""``reset_moments``: the optimizer starts anew; the weights stay."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...policies.types import Decision
from ..run import Run
from .effect import Effect

_CHANGES = frozenset({"update_ratio", "moment_lag"})  # the first updates after it are of another size


def reset_moments(run: Run, decision: Decision, params: Mapping[str, Any]) -> Effect:
    """Drop every parameter's optimizer state, so that the next step makes it anew."""
    state = run.optimizer.state
    kept = dict(state)
    state.clear()

    def undo() -> None:
        state.clear()
        state.update(kept)

    return Effect({"parameters": len(kept)}, undo=undo, announces=_CHANGES)
