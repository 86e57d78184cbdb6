"""What an actuator returns, and how it refuses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ...policies.types import Decision, Facts
from ..run import Run


class Refused(Exception):
    """The action cannot be done as things stand; the message is the reason, for people."""


def _nothing() -> None:
    """For effects that need no such part."""


@dataclass(frozen=True, slots=True)
class Effect:
    """An action that was applied and read back.

    ``undo`` takes it back when another part of the same act fails (its override layers go by themselves,
    being the decision's); ``commit`` does what must wait
    until the whole act has succeeded. ``facts`` are the readings at a rollback's target.
    ``announces`` names signals that it changes on purpose, so that no monitor takes it for a fault.
    """

    details: Mapping[str, Any] = field(default_factory=dict)
    undo: Callable[[], None] = _nothing
    commit: Callable[[], None] = _nothing
    facts: Facts = field(default_factory=dict)
    announces: frozenset[str] = frozenset()


Actuator = Callable[[Run, Decision, Mapping[str, Any]], Effect]
"""Applies one action; raises when it cannot, ``Refused`` with the reason for people, and then has changed
nothing but the decision's layers, which are withdrawn for it."""
