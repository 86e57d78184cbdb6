"""What is known ahead of a run, for the monitors that forecast: its length, its schedule, runs like it."""

from __future__ import annotations

import logging
from math import ceil, isclose
from typing import Any

from ..monitors.plan import Plan
from ..monitors.registry import MONITORS
from .finished_runs import finished_runs
from .loop import Counters
from .pilot import Pilot
from .run import Run
from .schedule_ahead import Copies, Pace, Rates, Unforeseeable, corners, taken

log = logging.getLogger("midcourse")

NEEDS_COUNTER = (
    "how long the run will be is not known: count with controller.steps(n), or with controller.epochs(n) "
    "over a loader that has a length, or write the monitor's horizon"
)
NEEDS_SCHEDULER = "a scheduler drives the optimizer that Accelerate did not prepare, and none is registered"
SET_BY_HAND = "the rate is not what its schedulers make it: something else sets it"
NO_PACE_YET = "its schedulers have not been stepped yet"
NO_PACE = "its schedulers are stepped at no steady pace"

_GUESSES = 3  # at a pace, before it is taken to be none
_CLOSE = 1e-6  # relative difference up to which a rate is as planned


class Foresight:
    """Tells the pilot the run's plan at its first step, and again where the run turns out to go otherwise.

    That a prepared scheduler is stepped with every update, as Accelerate does, is taken for granted at first;
    how often it really was shows at the next steps, or at the second pass.

    Args:
        run: Whose plan it is. Layers on the learning rate are no part of it.
        counters: The loop's.
        pilot: Is told.
    """

    def __init__(self, run: Run, counters: Counters, pilot: Pilot) -> None:
        self._run, self._counters, self._pilot = run, counters, pilot
        self.wanted = any(hasattr(MONITORS[spec.type], "plan") for spec in pilot.policy.monitors)
        """Whether a monitor of the policy goes by it."""
        self._schedulers: list[Any] = []
        self._copies: Copies | None = None  # as they were before step ``first``
        self._first = 0
        self._steps_a_pass: int | None = None
        self._plan = Plan()
        self._paces: list[Pace] = []
        self._changes: list[list[tuple[int, int]]] = []  # of each scheduler: when it was stepped how often
        self._guesses = 0
        self._rates: Rates | None = None
        self._why = ""

    def look(self, micro_batches: int) -> list[str]:
        """Before a step is made: see whether all goes by the plan; what is to be said of it, if it is new.

        Args:
            micro_batches: That make up the step; 0 if that is not known.
        """
        if not self.wanted:
            return []
        step = self._run.clock.step + 1
        if not self._first:
            return self._begin(step, micro_batches)
        if self._copies is not None and not self._as_planned(step):
            self._replan()
            log.warning("forecast: %s", self._schedule_in_words())
        elif self._counters.horizon(self._steps_a_pass) not in (None, self._plan.horizon):
            self._replan()
            log.warning("forecast: %s", self._horizon_in_words())
        return []

    def _begin(self, step: int, micro_batches: int) -> list[str]:
        run, self._first = self._run, step
        self._steps_a_pass = steps_a_pass(run, micro_batches)
        self._schedulers = run.state.schedulers
        horizon, earlier = self._counters.horizon(self._steps_a_pass), self._pilot.bank.planned
        if step > 1 and earlier is not None and earlier.schedule is not None and earlier.horizon == horizon:
            # Resumed: what the process before went by stays, or its readings would not go on as they did.
            self._tell(earlier)
            return []
        finished, faults = finished_runs(self._pilot.policy.monitors)
        self._plan = Plan(finished=finished)
        try:
            if not run.state.schedule_is_known:
                raise Unforeseeable(NEEDS_SCHEDULER)
            self._copies = Copies.of(run.optimizer, self._schedulers)
            counts = [taken(scheduler) for scheduler in self._schedulers]
            by = 1 if run.accelerator.split_batches else run.ranks.world
            self._paces = [Pace(step, count, by) for count in counts]
            self._changes = [[(step, count)] for count in counts]
        except Unforeseeable as why:
            self._give_up(str(why))
        self._replan()
        return [f"forecast: {self._horizon_in_words()}; {self._schedule_in_words()}", *faults]

    def _replan(self) -> None:
        """Read the schedule ahead as it is known now, and tell it."""
        self._rates, schedule = None, None
        horizon = self._counters.horizon(self._steps_a_pass)
        if horizon is None:
            horizon = self._end_of_schedule()
        if self._copies is not None and horizon is not None and horizon > self._first:
            try:
                if not all(pace.period for pace in self._paces):
                    self._why = NO_PACE_YET
                else:
                    self._rates = self._copies.ahead(self._paces, self._first, horizon)
                    schedule = corners(self._rates, self._first, horizon)
            except Unforeseeable as why:
                self._give_up(str(why))
        self._tell(Plan(horizon, schedule, self._plan.finished))

    def _tell(self, plan: Plan) -> None:
        self._plan = plan
        self._pilot.plan(plan, self._run.clock.tick)

    def _as_planned(self, step: int) -> bool:
        """Whether the schedulers were stepped as planned, and the rate is theirs; learns the pace if not."""
        steady = True
        for scheduler, pace, changes in zip(self._schedulers, self._paces, self._changes, strict=True):
            count = taken(scheduler)
            while len(changes) > 1 and changes[-1][0] > step:
                changes.pop()  # the run was rewound
            if count != changes[-1][1]:
                changes.append((step, count))
                del changes[1:-2]
            if pace.period is None:
                steady = steady and count == pace.taken
            else:
                steady = steady and count == max(pace.at(step), changes[0][1])
        if not steady:
            self._learn(step)
            return False
        if self._rates is not None and self._first <= step < self._first + len(self._rates):
            own = self._run.optimizer.param_groups[0]["lr"]
            # A rate that is a tensor may lie on the device: to look at it would wait for it.
            if isinstance(own, float) and not isclose(own, self._rates[step - self._first], rel_tol=_CLOSE):
                self._give_up(SET_BY_HAND)
                return False
        return True

    def _learn(self, step: int) -> None:
        """From when schedulers were stepped last, how often they are."""
        self._guesses += 1
        if self._guesses > _GUESSES * max(1, len(self._paces)):
            self._give_up(NO_PACE)
            return
        for place, changes in enumerate(self._changes):
            (since, before), (now, count) = changes[-2] if len(changes) > 1 else changes[0], changes[-1]
            if now == since:
                self._paces[place] = Pace(since, before, 0, None)
            else:
                self._paces[place] = Pace(since, before, count - before, now - since)

    def _give_up(self, why: str) -> None:
        self._copies, self._rates, self._why = None, None, why

    def _end_of_schedule(self) -> int | None:
        """Where no counter tells it: the step at which a scheduler that knows its end has come to it."""
        ends = [
            self._first + (total - pace.taken - 1) // pace.by * pace.period
            for scheduler, pace in zip(self._schedulers, self._paces, strict=True)
            if (total := getattr(scheduler, "total_steps", None)) is not None and pace.period
        ]
        return max(ends, default=None)

    def _horizon_in_words(self) -> str:
        horizon = self._plan.horizon
        return NEEDS_COUNTER if horizon is None else f"the run will have {horizon} steps"

    def _schedule_in_words(self) -> str:
        if self._plan.schedule is not None:
            names = ", ".join(type(scheduler).__name__ for scheduler in self._schedulers)
            return f"the learning rate is read ahead from {names}" if names else "the learning rate stays"
        if self._copies is not None and self._why != NO_PACE_YET:
            return "the learning rate is not read ahead"
        return f"the learning rate cannot be read ahead: {self._why}"


def steps_a_pass(run: Run, micro_batches: int) -> int | None:
    """Updates that a pass over the training loader makes; None if it has no length.

    ``micro_batches`` make up a step; 0 stands for one, where the Accelerator does not say otherwise.
    """
    try:
        batches = len(run.feed.loader) if run.feed is not None else None
    except TypeError:
        batches = None
    if batches is None:
        return None
    gathered: int = run.accelerator.gradient_accumulation_steps
    if gathered > 1:
        return ceil(batches / gathered)
    return batches // max(micro_batches, 1)
