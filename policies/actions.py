"""The actions that a rung may hold: their parameters and their strength."""

from __future__ import annotations

from enum import IntEnum


class Priority(IntEnum):
    """The strength of an action. At one tick the strongest rung acts, and the others stay firing."""

    RECORD = 0
    DATA = 1
    LEARNING_RATE = 2
    SKIP = 3
    ROLLBACK = 4
    STOP = 5


_PRIORITIES = {
    "skip_step": Priority.SKIP,
    "stop": Priority.STOP,
    "checkpoint": Priority.RECORD,
    "reset_moments": Priority.LEARNING_RATE,
    "notify": Priority.RECORD,
    "scale_lr": Priority.LEARNING_RATE,
    "set_lr": Priority.LEARNING_RATE,
    "reweight": Priority.DATA,
    "rollback": Priority.ROLLBACK,
}


def priority_of(action: str) -> Priority:
    """How strong an action is."""
    return _PRIORITIES[action]
