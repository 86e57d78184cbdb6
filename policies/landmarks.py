"""Which states a rollback may return to, by where they lie."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .actions import GO_BY_ONSET, Landmark
from .types import Decision


def fits(decision: Decision, to: Any, tick: int, step: int) -> Callable[[int, int], bool]:
    """Whether a state of this tick and step may be returned to, by a rollback's ``to``.

    Args:
        decision: the rollback.
        to: a landmark's word, or ``{"steps": n}``.
        tick: where the run stands.
        step: the same, as a training step.
    """
    if to == Landmark.LAST_GOOD.value:
        return lambda at, of: at <= tick
    if to in GO_BY_ONSET:
        onset = decision.onset if decision.onset is not None else decision.tick
        return lambda at, of: at < onset
    latest = step - int(to["steps"])
    return lambda at, of: of <= latest
