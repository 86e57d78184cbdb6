"""The life of one rule, or of one instance of a ``foreach`` rule: phases, ladder, cooldown, budget.

What moves a rule between phases (``n`` is its ``for``):

===========  ==================================================================  ==========
from         when                                                                to
===========  ==================================================================  ==========
INACTIVE     the condition is true                                               PENDING
PENDING      it was true at ``n`` new measurements                               FIRING
PENDING      it is false, or the run was rolled back                             INACTIVE
FIRING       it is false, or another rule rolled the run back                    INACTIVE
FIRING       its act was applied (or observed)                                   COOLDOWN
FIRING       it asked for approval, and the answer is no                         COOLDOWN
FIRING       a last resort was applied, or no rung is left to take               EXHAUSTED
COOLDOWN     ``cooldown`` ticks are over, and so is a *wait* (below)             INACTIVE
EXHAUSTED    the condition is false and the budget has room again                INACTIVE
===========  ==================================================================  ==========

Several moves may happen at one tick. *Unknown* moves nothing, and a tick without a new measurement of
anything that ``when`` names does not count towards ``for``; it does not reset it either.

Which rung is next:

===========================================  =====================================================
event                                        rung
===========================================  =====================================================
REFUSED or FAILED                            the next, at once: no cooldown, not charged
verdict DID NOT HELP                         the next; what is left of the cooldown is waived
verdict HELPED                               the first
fires again, not found to have helped        the next; the last one stays, as long as the budget lasts
fires again, and the rung only skips steps   the same: the next bad batch is another batch
fires again after a quiet period             the first: this is another fault
budget spent                                 the last resort, for this once
===========================================  =====================================================

A *quiet period* is ``QUIET_TICKS``, or the rule's cooldown if longer, since its last turn was over. *Fires
again* means that its turn to act has come: a rule that fires at a bad batch which another rule skips has not
seen its fault return.

A *last resort* is the last rung of several if it stops the run, or only records (``notify``,
``checkpoint``). It is free, so that a spent budget can always end in it, and it is taken once: the rule is
then EXHAUSTED. All other acts of a rule, of whichever rung, are charged to its budget. Beyond
the last rung, or beyond the budget where there is no last resort, the rule is EXHAUSTED.

A rule *waits* in COOLDOWN until its condition has once been false while the verdict of its act is open, since
an alarm that still sounds is no news before the window closes, and after an act that was only observed or not
approved, since nothing was done that could end the alarm; so too after a trial in which doing nothing was
best. After a rollback it does not wait: the detectors are those of the target, so firing again is a fault
that came back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .actions import Priority, priority_of
from .budget import Ledger
from .evidence import labelled
from .model import Rule
from .types import Action, Phase, PhaseChange, Turn

QUIET_TICKS = 1000
"""A rule that had no cause to act for this long (or its cooldown, if longer) starts at its first rung again.

As far as the ring of snapshots reaches by default: what comes back sooner may be the same fault.
"""

_CORRECTIONS = frozenset({Priority.DATA, Priority.LEARNING_RATE, Priority.ROLLBACK})
_STATE = (
    "count",
    "rung",
    "tried",
    "flying",
    "waiting",
    "pending_from",
    "quiet_from",
    "until",
    "said",
    "first_act",
)


def corrects(actions: Sequence[Action]) -> bool:
    """Whether these actions change the course of a run that goes on: such an act is verified.

    Skipping a step, recording and stopping do not.
    """
    strengths = {priority_of(action.name) for action in actions}
    return Priority.STOP not in strengths and not _CORRECTIONS.isdisjoint(strengths)


def only_skips(actions: Sequence[Action]) -> bool:
    """Whether these actions deal with one batch only."""
    return {priority_of(action.name) for action in actions} - {Priority.RECORD} == {Priority.SKIP}


def has_last_resort(rule: Rule) -> bool:
    """Whether the rule's last rung is one that a spent budget may still take."""
    return len(rule.ladder) > 1 and rule.ladder[-1].priority in (Priority.STOP, Priority.RECORD)


def is_last_resort(rule: Rule, rung: int) -> bool:
    """Whether this rung is the one that a spent budget may still take, out of turn."""
    return has_last_resort(rule) and rung == len(rule.ladder) - 1


@dataclass(slots=True)
class Machine:
    """One rule, or one instance of a ``foreach`` rule, as it stands.

    ``rung`` is the next to take, and the ladder's length when all were tried. ``tried`` says that it was
    applied and not yet found to help, ``flying`` that its act awaits the outcome, ``waiting`` that
    COOLDOWN lasts until the condition was false. ``said`` is the last reason for which it was suppressed,
    ``first_act`` the tick of the first correction since the ladder is being climbed.
    """

    rule: Rule
    instance: str
    phase: Phase = Phase.INACTIVE
    count: int = 0
    rung: int = 0
    tried: bool = False
    flying: bool = False
    waiting: bool = False
    pending_from: int = 0
    quiet_from: int | None = None
    until: int = 0
    said: str = ""
    first_act: int | None = None
    budget: Ledger = field(init=False)

    def __post_init__(self) -> None:
        self.budget = Ledger(self.rule.budget)

    @property
    def key(self) -> tuple[str, str]:
        """Rule and instance."""
        return self.rule.name, self.instance

    @property
    def label(self) -> str:
        """What people call it: ``bad-source[code]``."""
        return labelled(self.rule.name, self.instance)

    def advance(self, tick: int, holds: bool | None, fresh: bool) -> bool:
        """Take one evaluation of the condition; True if the rule now wants to act.

        Args:
            tick: the tick of the sample.
            holds: what the condition says; None is unknown.
            fresh: whether anything that the condition names was measured at this tick.
        """
        if self.flying or not self._rested(tick, holds) or holds is None:
            return False
        if not holds:
            if self.phase is Phase.FIRING and self.quiet_from is None:
                self.quiet_from = tick
            self.phase = Phase.INACTIVE
            return False
        if self.phase is Phase.INACTIVE:
            self.phase = Phase.PENDING
            self.count = 0
            self.pending_from = tick
        if self.phase is Phase.PENDING:
            self.count += fresh
            if self.count < self.rule.for_measurements:
                return False
            self.phase = Phase.FIRING
            self.said = "" if self._was_quiet() else self.said
        return True

    def _rested(self, tick: int, holds: bool | None) -> bool:
        """Whether the rule may look at its condition: neither in COOLDOWN nor EXHAUSTED any more."""
        if self.phase is Phase.COOLDOWN:
            self.waiting = self.waiting and holds is not False
            if self.waiting or tick < self.until:
                return False
        elif self.phase is Phase.EXHAUSTED:
            if holds is not False or self.budget.spent(tick):
                return False
        else:
            return True
        self.phase = Phase.INACTIVE
        self.quiet_from = tick
        return True

    def plan(self, tick: int, unverified: bool) -> tuple[int | None, str]:
        """The rung that it would take now; None, and why, if there is none left.

        Args:
            tick: the tick of the sample.
            unverified: whether the verdict of its last act is open: then that act did not help.
        """
        rung, last = self._next_rung(unverified), len(self.rule.ladder) - 1
        if rung > last:
            return None, "every rung of the ladder was tried"
        spare = has_last_resort(self.rule)
        if (rung < last or not spare) and self.budget.spent(tick):
            return (last, "") if spare else (None, f"the budget is spent: {self.budget}")
        return rung, ""

    def take_turn(self, unverified: bool) -> None:
        """Its turn has come: what ``plan`` said now holds."""
        self.rung = self._next_rung(unverified)
        if self._was_quiet():
            self.first_act = None
        self.tried = False
        self.quiet_from = None

    def _next_rung(self, unverified: bool) -> int:
        if unverified:
            return self.rung + 1
        if self._was_quiet():
            return 0
        if self.tried and not only_skips(self.rule.ladder[self.rung].actions):
            return min(self.rung + 1, len(self.rule.ladder) - 1)
        return self.rung

    def _was_quiet(self) -> bool:
        quiet_ticks = max(self.rule.cooldown, QUIET_TICKS)
        return self.quiet_from is not None and self.pending_from - self.quiet_from >= quiet_ticks

    def applied(self, rung: int, decided: int, tick: int) -> None:
        """The act that was decided at tick ``decided`` was applied at ``tick``."""
        self.flying = False
        self.waiting = False
        self.said = ""
        if is_last_resort(self.rule, rung):
            self.phase = Phase.EXHAUSTED
            if self.rung == rung:
                self.rung += 1
            return
        self.budget.charge(decided)
        self.phase = Phase.COOLDOWN
        self.until = tick + self.rule.cooldown
        self.tried = True

    def observed(self, rung: int, tick: int) -> None:
        """As if applied, for the record of what would have happened; the ladder is not climbed."""
        self.applied(rung, tick, tick)
        self.tried = False
        self.waiting = self.phase is Phase.COOLDOWN and not only_skips(self.rule.ladder[rung].actions)

    def declined(self, tick: int) -> None:
        """The act was not approved: it is not charged, and not asked for again while this alarm lasts."""
        self.phase = Phase.COOLDOWN
        self.until = tick + self.rule.cooldown
        self.waiting = True
        self.said = ""

    def climb(self, rung: int, tick: int) -> None:
        """The act of this rung was refused, failed, or did not help: the next may follow at once."""
        self.rung = rung + 1
        self.tried = False
        self.flying = False
        self.waiting = False
        self.until = tick
        self.said = ""

    def helped(self) -> None:
        """The act that was verified helped: the next fault starts at the first rung."""
        self.rung = 0
        self.first_act = None
        self.tried = False
        self.waiting = False

    def rewind(self) -> None:
        """The run went back: what led to PENDING or FIRING belongs to an abandoned branch."""
        self.flying = False
        if self.phase in (Phase.PENDING, Phase.FIRING):
            self.phase = Phase.INACTIVE

    def state_dict(self) -> dict[str, Any]:
        """Where it stands, as JSON."""
        state = {name: getattr(self, name) for name in _STATE}
        return {
            "rule": self.rule.name,
            "instance": self.instance,
            "phase": self.phase.value,
            "budget": self.budget.state_dict(),
            **state,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over where another stood; its rule may have a shorter ladder by now."""
        for name in _STATE:
            setattr(self, name, state.get(name))  # earlier versions knew no first act
        if self.rung >= len(self.rule.ladder):
            self.rung, self.tried = len(self.rule.ladder), False
        self.phase = Phase(state["phase"])
        self.budget.load_state_dict(state["budget"])


def note(machine: Machine, before: Phase, tick: int, turn: Turn) -> None:
    """Say that a machine went to another phase, if it did."""
    if machine.phase is not before:
        turn.phases.append(PhaseChange(tick, machine.rule.name, machine.instance, before, machine.phase))
