"""``reset_moments``: the optimizer starts anew; the weights stay."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...policies.types import Decision
from ..run import Run
from .effect import Effect


def reset_moments(run: Run, decision: Decision, params: Mapping[str, Any]) -> Effect:
    """Drop every parameter's optimizer state, so that the next step makes it anew."""
    state = run.optimizer.state
    kept = dict(state)
    state.clear()

    def undo() -> None:
        state.clear()
        state.update(kept)

    return Effect({"parameters": len(kept)}, undo=undo)
