"""The bound on the acts of all rules together.

Counted are the applied acts that change the course of the run (``phases.corrects``): skipping a step,
recording and stopping are free. When one more is wanted than ``limits`` allow, the decision named ``limits``
says so, and stops the run or ends all acting.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..monitors.types import Sample
from .budget import Ledger
from .evidence import facts_of
from .expressions import Readings
from .model import Budget, LimitResponse, Limits
from .phases import corrects
from .types import Action, Decision, Disposition

LIMITS = "limits"
"""The name under which the policy's limits decide, in the place of a rule's."""


class Limiter:
    """Applies a policy's ``limits``."""

    def __init__(self, limits: Limits) -> None:
        self.ledger = Ledger(Budget(limits.acts, limits.per))
        self._then = limits.then

    def forbids(self, actions: Sequence[Action], tick: int) -> bool:
        """Whether these actions would be one act more than allowed."""
        return self.ledger.spent(tick) and corrects(actions)

    def decision(self, sample: Sample, readings: Readings) -> Decision:
        """What follows: to ACT and stop the run, or to OBSERVE from now on."""
        stops = self._then is LimitResponse.STOP
        return Decision(
            id=f"{LIMITS}@{sample.tick}",
            rule=LIMITS,
            instance="",
            tick=sample.tick,
            step=sample.step,
            branch=sample.branch,
            disposition=Disposition.ACT if stops else Disposition.OBSERVE,
            rung=0,
            actions=(Action("stop"),) if stops else (),
            onset=None,
            reason=f"the limits of all rules are spent: {self.ledger}",
            facts=facts_of(readings),
        )
