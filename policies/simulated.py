"""A run that is made up: written series are its samples, and what a policy does to it has made-up outcomes.

It follows the order of a real run: a step is skipped before its sample is complete, everything else is done
after it, and before the next. What an act would have changed is for the series to say:

- Ticks never rewind, and a series goes on from its own next value, also after a rollback.
- A rollback takes the monitors back to how they stood at the newest snapshot that it may return to. The first
  is of tick 0, before the first sample; others follow so many ticks after the last one, or after a rollback,
  as soon as nothing is suspected. A real run keeps only a few of them, spread over its reach.
  With ``data: skip`` or ``replay`` the training step goes back too.
- ``stop`` ends the run. Any other act is applied and changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from ..monitors.types import Sample
from .actions import GO_BY_ONSET, Data
from .landmarks import fits
from .model import Policy
from .replay import Commanded, PolicyEdited, Replay
from .series import Series
from .types import Action, Decision, Disposition, Facts, Outcome, Status, Turn

EVERY = 10
"""Ticks from one snapshot to the next, where neither policy nor test says so."""


@dataclass(frozen=True, slots=True)
class _Snapshot:
    tick: int
    step: int
    facts: Facts


class SimulatedRun:
    """A run under a policy, driven a tick at a time.

    Args:
        policy: What decides.
        fate: What becomes of a decision to act, in place of being applied: REFUSED or FAILED, and why.
        every: Ticks from one snapshot to the next, unless the policy fixes it.

    ``tick`` is the newest; ``stopped`` the decision that ended the run, if one did; ``refused`` are commands
    that it could not obey, and why.
    """

    def __init__(
        self,
        policy: Policy,
        fate: Callable[[Decision], tuple[Status, str]] = lambda decision: (Status.APPLIED, ""),
        every: int = EVERY,
    ) -> None:
        self.tick = 0
        self.stopped: Decision | None = None
        self.refused: list[str] = []
        self._replay = Replay(policy, at_once=self._skipped)
        self._fate = fate
        self._plan = policy.snapshots
        self._every = policy.snapshots.every or every
        self._step = 0
        self._branch = 0
        self._since = 0  # tick of the newest snapshot, or of a rollback after it
        self._snapshots: list[_Snapshot] = []
        self._checkpoints: dict[str, _Snapshot] = {}
        if self._plan.keep:
            self._snapshots.append(self._taken())

    @property
    def waiting(self) -> Sequence[Decision]:
        """The decisions that wait for approval."""
        return self._replay.engine.waiting

    def take(self, signals: Mapping[str, float], commands: Iterable[Commanded | PolicyEdited] = ()) -> Turn:
        """The next tick: what was measured, then what comes from outside, then what follows from both."""
        replay = self._replay
        self.tick += 1
        self._step += 1
        said = replay.take(Sample(self._step, self.tick, self._branch, dict(signals)))
        good = replay.engine.acting and not replay.engine.suspects
        for command in commands:
            try:
                said.extend(replay.take(command))
            except ValueError as error:
                word = command.command if isinstance(command, Commanded) else "an edit"
                self.refused.append(f"{word} at tick {self.tick}: {error}")
        act = replay.engine.in_flight
        if act is not None:
            outcome = self._outcome(act)
            said.extend(replay.take(outcome))
            if outcome.status is Status.APPLIED:
                self._save(act)
        if good and self._plan.keep and self.tick - self._since >= self._every:
            self._since = self.tick
            self._snapshots.append(self._taken())
            self._forget_what_is_out_of_reach()
        return said

    def _skipped(self, decision: Decision) -> Outcome | None:
        """The outcome of an act that keeps the optimizer from stepping."""
        skips = any(action.name == "skip_step" for action in decision.actions)
        return self._outcome(decision) if skips and decision.disposition is Disposition.ACT else None

    def _outcome(self, decision: Decision) -> Outcome:
        status, reason = self._fate(decision)
        target: _Snapshot | None = None
        for action in decision.actions:
            if action.name == "rollback" and status is Status.APPLIED:
                target = self._target(decision, action)
                if target is None:
                    status, reason = Status.REFUSED, f"no snapshot {_wanted(decision, action)}"
        if status is not Status.APPLIED:
            return Outcome(decision.id, status, self.tick, reason)
        if any(action.name == "stop" for action in decision.actions):
            self.stopped = decision
        if target is None:
            return Outcome(decision.id, status, self.tick, reason)
        self._go_back(decision, target)
        details = {"rollback": {"target_tick": target.tick, "target_step": target.step}}
        return Outcome(decision.id, status, self.tick, reason, target.facts, details)

    def _target(self, decision: Decision, rollback: Action) -> _Snapshot | None:
        to = rollback.params["to"]
        if isinstance(to, Mapping) and "checkpoint" in to:
            return self._checkpoints.get(to["checkpoint"])
        may = fits(decision, to, self.tick, self._step)
        return next((each for each in reversed(self._snapshots) if may(each.tick, each.step)), None)

    def _go_back(self, decision: Decision, target: _Snapshot) -> None:
        self._branch += 1
        self._since = self.tick
        if any(action.params.get("data") in _REWINDS for action in decision.actions):
            self._step = target.step
        while self._snapshots and self._snapshots[-1].tick > target.tick:
            self._let_go(self._snapshots.pop())

    def _save(self, decision: Decision) -> None:
        """Write the checkpoint that an applied act asks for."""
        for action in decision.actions:
            if action.name == "checkpoint":
                self._checkpoints[action.params["name"] or f"tick-{self.tick}"] = self._taken()

    def _taken(self) -> _Snapshot:
        self._replay.keep(self.tick)
        return _Snapshot(self.tick, self._step, self._replay.bank.facts())

    def _forget_what_is_out_of_reach(self) -> None:
        while len(self._snapshots) > 1 and self.tick - self._snapshots[1].tick >= self._plan.reach:
            self._let_go(self._snapshots.pop(0))

    def _let_go(self, snapshot: _Snapshot) -> None:
        if all(snapshot.tick != each.tick for each in self._checkpoints.values()):
            self._replay.forget(snapshot.tick)


_REWINDS = frozenset({Data.SKIP.value, Data.REPLAY.value})


def _wanted(decision: Decision, rollback: Action) -> str:
    onset = f"before the onset at tick {decision.onset}"
    return onset if rollback.params["to"] in GO_BY_ONSET else f"for {rollback.params['to']!r}"


def simulate(
    run: SimulatedRun, series: Mapping[str, Series], commands: Mapping[int, list[Commanded]]
) -> Turn:
    """Play written series to a run until they end, or the run does; returns all that was said.

    Args:
        run: at its beginning.
        series: by signal; where a shorter one has ended, its signal is not measured.
        commands: what is commanded after the sample of a tick.
    """
    said = Turn()
    for tick, row in enumerate(zip_longest(*series.values()), start=1):
        measured = {name: value for name, value in zip(series, row, strict=True) if value is not None}
        said.extend(run.take(measured, commands.get(tick, ())))
        if run.stopped is not None:
            break
    return said
