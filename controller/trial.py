"""A trial: from one state every arm makes the same steps on the same batches, and the best one is kept.

::

    begin      the present state is saved; the run goes back to where the arms begin; nothing is the first arm
    measure    the judge's number is noted at every tick of an arm
    advance    an arm's steps are done: its end is saved if it leads; the run goes back for the next one
               after the last one: the end of the best arm is put in force, or where nothing was better, the
               state saved at first, so that the run goes on bit for bit as if nothing had been tried
    end        the trial is broken off: the state saved at first is in force again

All of it happens between two updates, on all processes at the same batch; rank 0 judges. Ticks go on, and
every arm is a branch of its own. Beside the snapshots a trial takes two buffers: one for the state saved at
first, one for the end of the arm that leads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any

from ..policies.actions import Data, Origin
from ..policies.trials import NOTHING, choose, compare
from ..policies.types import Action, Decision, Outcome, Status
from .actuators.act import attempt, carry_out
from .actuators.effect import Refused
from .actuators.read_back import identical
from .actuators.rollback import PLACE_UNKNOWN, Saved, abandon_after, go_back, tell_loop
from .actuators.target import find_target
from .ring import Snapshot
from .run import Run

Tell = Callable[[str, int, Mapping[str, Any]], object]
"""Told of an event: its kind, its tick, its details."""


class Trial:
    """One trial, from its decision to its outcome.

    Args:
        run: What is tried on.
        decision: Its only action is the trial.
        arrive: Has all samples judged that are still on their way from the device.
        tell: Told whenever the run goes back, so that a replay can follow.
        acting: Whether decisions still change the run; where not any more, no arm is kept. Rank 0 is asked.
        clock: Seconds.
    """

    def __init__(
        self,
        run: Run,
        decision: Decision,
        *,
        arrive: Callable[[], object],
        tell: Tell,
        acting: Callable[[], bool],
        clock: Callable[[], float],
    ) -> None:
        params = decision.actions[0].params
        self.decision = decision
        self._run, self._params = run, params
        self._arrive, self._tell, self._acting, self._clock = arrive, tell, acting, clock
        self._arms = {NOTHING: [], **params["arms"]}
        self._left = list(self._arms)
        self._arm = NOTHING
        self._steps: int = params["steps"]
        self._measured: dict[str, list[float | None]] = {}
        self._failed: dict[str, str] = {}
        self._before: Saved | None = None
        self._target: Snapshot | None = None
        self._best: tuple[str, Saved] | None = None
        self._began, self._first_tick = clock(), run.clock.tick

    # -- the way through ---------------------------------------------------------------------------

    def begin(self) -> Outcome | None:
        """Save the present state and begin the first arm; an outcome where that cannot be done."""
        _, failure = attempt(self._run, "trial", self._prepare)
        return self._next() if failure is None else self._ended(*failure)

    def measure(self, step: int, value: float | None) -> None:
        """What the judge says of a step of the arm that is under way; None: it was not measured."""
        assert self._target is not None
        self._measured[self._arm][step - self._target.moment.step - 1] = value

    def advance(self) -> Outcome | None:
        """Between two updates: once this arm's steps are done, begin the next; the outcome after the last."""
        run = self._run
        assert self._target is not None
        if run.clock.step < self._target.moment.step + self._steps:
            return None
        self._arrive()
        _, failure = attempt(run, "trial", self._save_if_best)
        return self._next() if failure is None else self._broken_off(*failure)

    def end(self, reason: str, *, put_back: bool = True) -> Outcome:
        """Break it off: the state before it is in force again, unless another one was loaded meanwhile."""
        return self._broken_off(Status.FAILED, reason, put_back=put_back)

    # -- its parts ---------------------------------------------------------------------------------

    def _prepare(self) -> None:
        run, origin = self._run, self._params["from"]
        if run.rewinds is not None:
            raise Refused(f"the data cannot be rewound: {run.rewinds}")
        assert run.feed is not None
        self._arrive()
        target = None if origin == Origin.HERE.value else find_target(run, self.decision, origin)
        step, place = (run.clock.step, run.feed.place) if target is None else _where(target)
        if place is None or not run.feed.knows(place):
            raise Refused(PLACE_UNKNOWN)
        horizon = run.horizon()
        if horizon is not None and step + self._steps > horizon:
            raise Refused(
                f"the run ends at step {horizon}, before the {self._steps} steps from {step} are done"
            )
        # Last, since it is the only part that one process alone may fail in.
        before = self._before = Saved.of(run, rewinds=True)
        self._target = target or Snapshot(before.moment, before.tensors, before.small)

    def _next(self) -> Outcome | None:
        """Begin the next arm that can be begun; without one the trial is over."""
        while self._left:
            self._arm = self._left.pop(0)
            _, failure = attempt(self._run, "trial", self._go_back)
            if failure is not None:
                return self._broken_off(*failure)
            self._say(self._arm, self._target)
            actions = tuple(Action(name, params) for name, params in self._arms[self._arm])
            outcome = carry_out(self._run, replace(self.decision, actions=actions))
            if outcome.status is Status.APPLIED:
                self._measured[self._arm] = [None] * self._steps
                return None
            self._failed[self._arm] = outcome.reason
        return self._finish()

    def _go_back(self) -> None:
        """To where all arms begin, with what was in force besides at the decision, as old as it was then."""
        run, left = self._run, self._run.clock.step
        assert self._before is not None
        assert self._target is not None
        self._before.put_back_course(run)
        run.expected.load_state_dict([])
        go_back(run, self.decision, self._target, Data.REPLAY)
        run.trail.back_to(self._target.tick)
        tell_loop(run, left)

    def _save_if_best(self) -> None:
        """Keep the end of this arm if it is better than all before it."""
        run = self._run
        leads = run.ranks.ask_main(lambda: choose(self._measured) == self._arm)
        if self._arm == NOTHING or not leads:
            return
        if self._best is not None:
            run.ring.release(self._best[1].tensors)
            self._best = None
        self._best = self._arm, Saved.of(run, rewinds=True)

    def _finish(self) -> Outcome:
        run, target = self._run, self._target
        assert self._before is not None
        assert target is not None
        acting = run.ranks.share(self._acting())
        kept, end = (self._best if acting else None) or (NOTHING, self._before)
        _, failure = attempt(run, "trial", lambda: self._come_to(end))
        if failure is not None:
            return self._broken_off(*failure)
        self._say(None, end)
        if kept != NOTHING:
            abandon_after(run, target, self.decision)
        return self._ended(Status.APPLIED, "" if acting else "nothing is changed any more", kept)

    def _come_to(self, state: Saved) -> None:
        """Put a saved state in force, on a branch of its own, and read it back."""
        run, left, branch = self._run, self._run.clock.step, self._run.clock.branch
        state.restore(run)
        run.clock.branch = branch + 1
        if not identical(run.state.tensors(), state.tensors):
            raise RuntimeError("the restored state differs from the one that was saved")
        tell_loop(run, left)

    def _broken_off(self, status: Status, reason: str, *, put_back: bool = True) -> Outcome:
        assert self._before is not None
        if put_back:
            self._come_to(self._before)
            self._say(None, self._before)
        self._run.layers.withdraw(self.decision.id)
        return self._ended(status, reason)

    def _ended(self, status: Status, reason: str = "", kept: str | None = None) -> Outcome:
        """Give the buffers back; the outcome."""
        run, target = self._run, self._target
        for saved in (self._before, self._best and self._best[1]):
            if saved is not None:
                run.ring.release(saved.tensors)
        details = {"trial": self._details(kept)}
        facts = {} if target is None else target.moment.facts
        return Outcome(self.decision.id, status, run.clock.tick, reason, facts, details)

    def _details(self, kept: str | None) -> dict[str, Any]:
        target, nothing = self._target, self._measured.get(NOTHING, [])
        compared = {name: asdict(compare(nothing, series)) for name, series in self._measured.items()}
        return {
            "kept": kept,
            "judge": self._params["judge"],
            "steps": self._steps,
            "from_tick": None if target is None else target.tick,
            "from_step": None if target is None else target.moment.step,
            "arms": compared | {name: {"failed": reason} for name, reason in self._failed.items()},
            "ticks": self._run.clock.tick - self._first_tick,
            "ticks_at_most": len(self._arms) * self._steps,
            "seconds": round(self._clock() - self._began, 3),
        }

    def _say(self, arm: str | None, to: Saved | Snapshot | None) -> None:
        """An arm begins there, or (None) the trial is over and the run goes on from there."""
        assert to is not None
        clock = self._run.clock
        about = {"decision": self.decision.id, "arm": arm, "back_to": to.moment.tick, "branch": clock.branch}
        self._tell("trial", clock.tick, about)


def _where(target: Snapshot) -> tuple[int, Any]:
    return target.moment.step, target.moment.place
