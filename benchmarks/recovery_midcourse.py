"""The arms of the recovery benchmark that are Midcourse: under the shipped policy, and in hindsight.

In *hindsight* the policy is written for the fault: it is told the fault's first step and acts then, or some
steps later, with Midcourse's own actions. Of a few such sequences, and doing nothing, the best on other
seeds is taken. It is the limit of what acting can do, not of what can be known.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import nan
from pathlib import Path
from typing import Any

from recovery_arms import CLIP_NORM, Parts, Told
from recovery_faults import START, Fault
from torch import Tensor

from midcourse import Controller
from midcourse.controller.journal.reader import JournalReader
from midcourse.policies.policy import Policy, parse_policy
from midcourse.policies.types import Disposition, Status


class Midcourse:
    """A run under a policy; ``clip`` also clips every gradient to a norm of 1, as most loops do."""

    def __init__(self, accelerator: Any, policy: str | Policy, folder: Path, clip: bool = False) -> None:
        self._accelerator, self._clip = accelerator, clip
        self._parts: Parts
        self._lost = 0
        self.controller = Controller(accelerator, policy, run_dir=folder, say=lambda line: None)
        self.controller.on_rollback(self._went_back)

    def prepared(self, parts: Parts) -> None:
        """The loop's parts are there."""
        self._parts = parts

    def epochs(self, count: int) -> Iterator[int]:
        """The controller's own."""
        return self.controller.epochs(count)

    def log_examples(self, losses: Tensor, groups: Tensor) -> None:
        """Handed on."""
        self.controller.log_examples(losses, groups)

    def takes(self, loss: Tensor) -> bool:
        """Always: a step that is skipped is skipped inside the optimizer."""
        if self._clip:
            self._accelerator.clip_grad_norm_(self._parts.model.parameters(), CLIP_NORM)
        return True

    def breaks(self) -> bool:
        """Never: the loader goes back by itself."""
        return False

    def told(self) -> Told:
        """What the journal says."""
        told = Told(lost=self._lost, stopped=self.controller.stopped is not None)
        with JournalReader(self.controller.run_dir) as journal:
            policy = parse_policy(journal.attempts()[-1].policy_text)
            read = {name for rule in policy.rules for name in rule.when.monitors}
            told.alarms = [t.tick for t in journal.transitions() if t.reading.bad and t.monitor in read]
            outcomes = {outcome.decision_id: outcome for outcome in journal.outcomes()}
            verdicts = {verdict.decision_id: verdict.result.value for verdict in journal.verdicts()}
            for decision in journal.decisions():
                outcome = outcomes.get(decision.id)
                applied = outcome is not None and outcome.status is Status.APPLIED
                if decision.disposition is Disposition.ACT and applied:
                    told.acts.append(decision.tick)
                    told.lost += any(action.name == "skip_step" for action in decision.actions)
                status = outcome.status.value if outcome else decision.disposition.value
                acts = "; ".join(_words(action.name, action.params) for action in decision.actions)
                rule = f"{decision.rule}[{decision.instance}]" if decision.instance else decision.rule
                told.words.append(f"{decision.tick} {rule}: {acts}: {status} {verdicts.get(decision.id, '')}")
        return told

    def _went_back(self, from_step: int, to_step: int) -> None:
        self._lost += from_step - to_step


def _words(name: str, parameters: Mapping[str, Any]) -> str:
    return " ".join([name, *(f"{key}={value}" for key, value in parameters.items() if value is not None)])


class Hindsight(Midcourse):
    """A run that is told its fault: ``since`` counts ticks from it on, ``faulty`` is NaN while it lasts."""

    def __init__(self, accelerator: Any, sequence: Sequence, fault: Fault, folder: Path) -> None:
        super().__init__(accelerator, sequence.policy(), folder)
        self._until = fault.until()
        self._tick = 0

    def log_examples(self, losses: Tensor, groups: Tensor) -> None:
        """Handed on, with the truth."""
        super().log_examples(losses, groups)
        faulty = START <= self._tick < self._until
        self.controller.log(since=float(self._tick - START), faulty=nan if faulty else 0.0)
        self._tick += 1


_TOLD = """
version: 1
signals: [since, faulty]
snapshots: {{keep: 8, reach: 400, max_overhead: 0.05}}
monitors:
  truth: {{type: guard, signals: [faulty]}}
rules:
"""
_SKIP = """
  - name: leave-out
    when: truth.bad
    budget: {acts: 1000, per: 1000, max: 1000}
    ladder:
      - [skip_step: {}]
"""
_ACT = """
  - name: told
    when: since.value >= {after}
    budget: {{acts: 1, per: 10000, max: 1}}
    ladder:
      - [{rung}]
"""


@dataclass(frozen=True, slots=True)
class Sequence:
    """What is done: a rung so many ticks ``after`` the fault's first, or every faulty step is skipped."""

    after: int = 0
    rung: str = ""

    def policy(self) -> Policy:
        """Written out, with limits that do not bind."""
        rule = _ACT.format(after=self.after, rung=self.rung) if self.rung else _SKIP
        return parse_policy(_TOLD.format() + rule + "limits: {acts: 2000, per: 10000, then: observe}\n")


_BACK = "rollback: {{to: {{steps: {steps}}}, data: {data}}}"


def _back(steps: int, data: str, *others: str) -> str:
    return ", ".join([_BACK.format(steps=steps, data=data), *others])


_SKIPS = {"skip": Sequence()}
_ONCE = {**_SKIPS, "replay": Sequence(0, _back(1, "replay")), "leave out": Sequence(0, _back(1, "skip"))}
_STRETCH = {
    **_SKIPS,
    "leave out": Sequence(100, _back(100, "skip")),
    "replay": Sequence(102, _back(102, "replay")),
    "cooler": Sequence(1, "scale_lr: {factor: 0.1, hold: 100}"),
}


def _without(source: str) -> dict[str, Sequence]:
    quarantine = f"reweight: {{source: {source}, to: 0}}"
    return {
        "quarantine": Sequence(0, _back(1, "skip", quarantine)),
        "less of it": Sequence(0, f"reweight: {{source: {source}, scale: 0.3}}"),
        "cooler": Sequence(0, "scale_lr: {factor: 0.3}"),
        "still": Sequence(0, "scale_lr: {factor: 0.01}"),
        "quarantine, still": Sequence(0, _back(1, "skip", quarantine, "scale_lr: {factor: 0.01}")),
    }


def sequences(fault: str, names: tuple[str, ...]) -> dict[str, Sequence]:
    """What can be tried against a fault in a world whose sources have these names; nothing, besides."""
    return {
        "nan": _ONCE,
        "gradient": _ONCE,
        "moments": _ONCE,
        "bit": {"replay": Sequence(0, _back(1, "replay"))},
        "shard": {**_SKIPS, "leave out": Sequence(20, _back(20, "skip"))},
        "source": _without(names[0]),
        "labels": _without(names[1]),
        "rate": {
            "tenth": Sequence(0, "scale_lr: {factor: 0.1}"),
            "back, tenth": Sequence(0, _back(1, "replay", "scale_lr: {factor: 0.1}")),
            "back, 0.05": Sequence(0, _back(1, "replay", "scale_lr: {factor: 0.05}")),
        },
        "ramp": {
            "0.3": Sequence(0, "scale_lr: {factor: 0.3}"),
            "0.1": Sequence(0, "scale_lr: {factor: 0.1}"),
            "held": Sequence(0, "set_lr: {to: 0.001}"),
        },
        "stuck": _STRETCH,
        "duplicates": _STRETCH,
        "starved": {
            f"x {factor}": Sequence(0, f"reweight: {{source: {names[2]}, scale: {factor}}}")
            for factor in (5, 20)
        },
    }[fault]
