"""``skip_step``: no update at this tick; moments and step counts stay untouched."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...policies.types import Decision
from ..run import Run
from .effect import Effect, Refused


def skip_step(run: Run, decision: Decision, params: Mapping[str, Any]) -> Effect:
    """Take the gradients away before the update: torch's optimizers pass over parameters without one."""
    if decision.tick != run.clock.tick + 1:
        raise Refused("the update has been made already; a step can only be skipped before it")
    parameters = [p for group in run.optimizer.param_groups for p in group["params"]]
    gradients = [p.grad for p in parameters]
    for parameter in parameters:
        parameter.grad = None

    def undo() -> None:
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient

    if any(p.grad is not None for p in parameters):
        undo()
        raise RuntimeError("a gradient could not be taken away")
    return Effect({"step": run.clock.step + 1}, undo=undo)
