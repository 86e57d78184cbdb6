"""Three arms of the same run, clean, uncontrolled and controlled, and what became of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate import Accelerator

from ...policies.policy import parse_policy
from ...policies.types import Decision, Disposition, Outcome, Status, Verdict
from ..journal.reader import JournalReader
from ..journal.tables import Transition
from .corpus import load_corpus
from .training import Plan, Progress, Run, train

if TYPE_CHECKING:
    from ..controller import Controller


class Arm(Enum):
    """Which of the three runs."""

    CLEAN = "clean"
    UNCONTROLLED = "uncontrolled"
    CONTROLLED = "controlled"


@dataclass(frozen=True, slots=True)
class Act:
    """One correction, as the journal tells it. ``verdict`` is empty where none was asked for."""

    tick: int
    rule: str
    actions: tuple[str, ...]
    status: str
    verdict: str


@dataclass(frozen=True, slots=True)
class Detection:
    """What became of one fault: from its first tick on, the first alarm that a rule reads, and correction.

    ``tick`` is None if the fault never came, because the run was stopped before.
    """

    fault: str
    tick: int | None
    alarm_tick: int | None
    alarm_by: str
    act_tick: int | None

    @property
    def delay(self) -> int | None:
        """Steps from the fault's first to the alarm."""
        return None if self.tick is None or self.alarm_tick is None else self.alarm_tick - self.tick


@dataclass(frozen=True, slots=True)
class Comparison:
    """The demo's result: ``midcourse demo --json`` prints `as_json` of it."""

    seed: int
    plan: Plan
    runs: dict[Arm, Run]
    detections: tuple[Detection, ...]
    acts: tuple[Act, ...]
    run_dir: Path

    def excess(self, arm: Arm) -> float:
        """How much worse than the clean twin an arm ended, as a share of its validation loss."""
        return self.runs[arm].loss / self.runs[Arm.CLEAN].loss - 1.0

    def acts_before_first_fault(self) -> int:
        """Corrections made while nothing was wrong."""
        first = self.detections[0].tick
        return sum(first is None or act.tick < first for act in self.acts)


def compare(
    plan: Plan,
    seed: int,
    control: Callable[[Accelerator], Controller],
    watch: Callable[[Arm, Progress], None],
) -> Comparison:
    """Run the three arms one after another; the same seed gives all of them the same start and order."""
    corpus = load_corpus()
    runs: dict[Arm, Run] = {}
    run_dir = Path()

    def controlled(accelerator: Accelerator) -> Controller:
        nonlocal run_dir
        controller = control(accelerator)
        run_dir = controller.run_dir
        return controller

    for arm in Arm:
        runs[arm] = train(
            plan.without_faults() if arm is Arm.CLEAN else plan,
            corpus,
            seed,
            lambda progress, arm=arm: watch(arm, progress),  # type: ignore[misc]
            controlled if arm is Arm.CONTROLLED else None,
        )
    detections, acts = _told_by_journal(run_dir, plan, runs[Arm.CONTROLLED])
    return Comparison(seed, plan, runs, detections, acts, run_dir)


def _told_by_journal(run_dir: Path, plan: Plan, run: Run) -> tuple[tuple[Detection, ...], tuple[Act, ...]]:
    assert plan.faults is not None
    with JournalReader(run_dir) as journal:
        life = journal.attempts()[-1]
        attempt = life.number
        rules = parse_policy(life.policy_text).rules
        acted_on = {name for rule in rules for name in rule.when.monitors}  # the others are for the record
        alarms = [
            change
            for change in journal.transitions(attempt)
            if change.reading.bad and change.monitor in acted_on
        ]
        verdicts = {verdict.decision_id: verdict for verdict in journal.verdicts(attempt)}
        outcomes = {outcome.decision_id: outcome for outcome in journal.outcomes(attempt)}
        decisions = [d for d in journal.decisions(attempt) if d.disposition is Disposition.ACT]
    acts = tuple(_act(d, outcomes.get(d.id), verdicts.get(d.id)) for d in decisions)
    data_tick = plan.faults.broken_from + 1 if run.ticks > plan.faults.broken_from else None
    detections = (
        _detection(f"{plan.faults.source} delivers binaries", data_tick, run.restart_tick, alarms, acts),
        _detection(f"learning rate x {plan.faults.restart_factor:g}", run.restart_tick, None, alarms, acts),
    )
    return detections, acts


def _detection(
    fault: str, tick: int | None, until: int | None, alarms: Sequence[Transition], acts: Sequence[Act]
) -> Detection:
    def during(when: int) -> bool:
        return tick is not None and when >= tick and (until is None or when < until)

    alarm = next((alarm for alarm in alarms if during(alarm.tick)), None)
    act = next((act for act in acts if during(act.tick) and act.status == Status.APPLIED.value), None)
    act_tick = None if act is None else act.tick
    if alarm is None:
        return Detection(fault, tick, None, "", act_tick)
    by = alarm.monitor + (f"[{alarm.instance}]" if alarm.instance else "")
    return Detection(fault, tick, alarm.tick, by, act_tick)


def _act(decision: Decision, outcome: Outcome | None, verdict: Verdict | None) -> Act:
    rule = decision.rule + (f"[{decision.instance}]" if decision.instance else "")
    return Act(
        decision.tick,
        rule,
        tuple(_words(action.name, action.params) for action in decision.actions),
        outcome.status.value if outcome else "",
        verdict.result.value.replace("_", " ") if verdict else "",
    )


def _words(name: str, params: Any) -> str:
    return " ".join([name, *(f"{key}={value}" for key, value in params.items() if value is not None)])
