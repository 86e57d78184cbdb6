"""Sliding budgets: at most so many acts in any window of ticks, and in the whole run."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from typing import Any

from .model import Budget


class Ledger:
    """The acts charged to one budget.

    An act is known by the tick of its decision: there is at most one act a tick, so charging the
    same tick again (a re-execution, an outcome told twice) charges nothing. Only the newest
    ``budget.acts`` ticks are kept: the window is full while the oldest of them is inside it.

    >>> ledger = Ledger(Budget(acts=2, per=100))
    >>> for tick in (10, 50, 50):
    ...     ledger.charge(tick)
    >>> ledger.spent(109), ledger.spent(110)
    (True, False)
    """

    __slots__ = ("_ticks", "_total", "budget")

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self._ticks: list[int] = []
        self._total = 0

    def spent(self, tick: int) -> bool:
        """Whether an act decided at ``tick`` would go beyond the budget."""
        budget = self.budget
        if budget.max is not None and self._total >= budget.max:
            return True
        return len(self._ticks) >= budget.acts and tick - self._ticks[-budget.acts] < budget.per

    def charge(self, tick: int) -> None:
        """Count the act decided at ``tick``, once."""
        place = bisect_left(self._ticks, tick)
        if place < len(self._ticks) and self._ticks[place] == tick:
            return
        self._ticks.insert(place, tick)
        del self._ticks[: -self.budget.acts]
        self._total += 1

    def __str__(self) -> str:
        budget = self.budget
        whole = "" if budget.max is None else f", {budget.max} in all"
        return f"{budget.acts} {'act' if budget.acts == 1 else 'acts'} in {budget.per} ticks{whole}"

    def state_dict(self) -> dict[str, Any]:
        """What was charged, as JSON."""
        return {"ticks": list(self._ticks), "total": self._total}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what another ledger has charged."""
        self._ticks = list(state["ticks"])
        self._total = state["total"]
