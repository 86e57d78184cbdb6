"""What holds a rule back though it fires: quiet periods, and a rule of the same group that is at work."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

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
        self._restart_over = 0
        self._machines = machines
        self._unverified = unverified

    def restarted(self, tick: int) -> None:
        """A new process goes on after this tick."""
        self._restart_over = self._quiet.restart and tick + 1 + self._quiet.restart

    def objection(self, machine: Machine, actions: Sequence[Action], tick: int) -> str:
        """Why this rule may not take these actions now; empty if it may."""
        start_over = self._quiet.start and self._quiet.start + 1
        until = max(start_over, self._restart_over)
        if tick < until and not all(priority_of(action.name) in _FREE for action in actions):
            began = "the run began" if until == start_over else "the run went on in a new process"
            return f"quiet until tick {until}, since {began}"
        group = machine.rule.exclusive
        if group is not None:
            for other in self._machines():
                if other.rule.exclusive == group and other is not machine and self._is_at_work(other):
                    return f"{other.label} of the group '{group}' is at work"
        return ""

    def _is_at_work(self, machine: Machine) -> bool:
        return machine.phase is Phase.COOLDOWN or self._unverified(machine.key)

    def state_dict(self) -> int:
        """Until when it is quiet after a restart; what the start asks for is the policy's word."""
        return self._restart_over

    def load_state_dict(self, state: int) -> None:
        """Take that over."""
        self._restart_over = state
