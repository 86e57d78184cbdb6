"""What holds a rule back though it fires: quiet periods, and a rule of the same group that is at work."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from .actions import Priority, priority_of
from .model import Policy
from .phases import Machine
from .types import Action, Phase

_FREE = frozenset({Priority.SKIP, Priority.RECORD})


class Guardrails:
    """Knows how long the run is quiet, and which rules exclude each other.

    Args:
        policy: whose ``quiet`` and ``exclusive`` are kept.
        machines: all machines of its rules, as they stand.
        unverified: whether the verdict of the last act of this rule and instance is open.
    """

    def __init__(
        self,
        policy: Policy,
        machines: Callable[[], Iterable[Machine]],
        unverified: Callable[[tuple[str, str]], bool],
    ) -> None:
        self._quiet = policy.quiet
        self._until = policy.quiet.start and policy.quiet.start + 1
        self._since = "the run began"
        self._machines = machines
        self._unverified = unverified

    def restarted(self, tick: int) -> None:
        """A new process goes on after this tick."""
        until = tick + 1 + self._quiet.restart
        if self._quiet.restart and until > self._until:
            self._until, self._since = until, "the run went on in a new process"

    def objection(self, machine: Machine, actions: Sequence[Action], tick: int) -> str:
        """Why this rule may not take these actions now; empty if it may."""
        if tick < self._until and not all(priority_of(action.name) in _FREE for action in actions):
            return f"quiet until tick {self._until}, since {self._since}"
        group = machine.rule.exclusive
        if group is not None:
            for other in self._machines():
                if other.rule.exclusive == group and other is not machine and self._is_at_work(other):
                    return f"{other.label} of the group '{group}' is at work"
        return ""

    def _is_at_work(self, machine: Machine) -> bool:
        return machine.phase is Phase.COOLDOWN or self._unverified(machine.key)

    def state_dict(self) -> list[Any]:
        """How long it is quiet, as JSON."""
        return [self._until, self._since]

    def load_state_dict(self, state: Sequence[Any]) -> None:
        """Take that over."""
        self._until, self._since = state
