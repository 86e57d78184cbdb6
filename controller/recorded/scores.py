"""What labelled runs say of a policy: how surely and how soon each rule and monitor finds a fault, and how
often it cries wolf.

Episodes, false alarms and finding are those of ``policies.judging``. Every decision counts that is not
suppressed, whether or not it is evidence of the policy's acts: an alarm is judged by what was measured.
Delays are in ticks; false alarms are counted in 100 000 samples, of healthy runs and of those before an
onset.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from ...policies.judging import changes_the_run, match, poisson_interval
from ...policies.model import Policy
from ...policies.types import Disposition
from .backtest import Backtest
from .labels import Label
from .recording import RecordingError

PER = 100_000
ANY_ACT = "any act that changes the run"


class Episode(NamedTuple):
    """Where one began, counted in samples, its tick, and the tick of the onset that was told."""

    sample: int
    tick: int
    onset: int | None


@dataclass(slots=True)
class Score:
    """How one rule or monitor fared on all labelled runs; ``delays``, ``biases``: of what was found."""

    runs: int = 0
    delays: list[int] = field(default_factory=list)
    biases: list[int] = field(default_factory=list)
    false_alarms: int = 0
    samples: int = 0

    def take(self, episodes: Sequence[Episode], fault: Fault | None, samples: int) -> None:
        """Count one run; a healthy one has no fault."""
        if fault is None:
            self.false_alarms += len(episodes)
            self.samples += samples
            return
        matched = match([each.sample for each in episodes], fault.sample, fault.last)
        self.runs += 1
        self.false_alarms += matched.early
        self.samples += fault.sample
        if matched.found is not None:
            found = episodes[matched.found]
            self.delays.append(found.tick - fault.tick)
            self.biases += [] if found.onset is None else [found.onset - fault.tick]

    def to_json(self) -> dict[str, Any]:
        """All of it, as plain numbers; None is what nothing can be said of."""
        low, high = poisson_interval(self.false_alarms)
        rates = [round(PER * number / self.samples, 2) if self.samples else None for number in (low, high)]
        return {
            "faults": self.runs,
            "found": len(self.delays),
            "missed": self.runs - len(self.delays),
            "delay_median": median(self.delays) if self.delays else None,
            "delay_p90": round(float(np.quantile(self.delays, 0.9)), 1) if self.delays else None,
            "onset_bias": median(self.biases) if self.biases else None,
            "false_alarms": self.false_alarms,
            "healthy_samples": self.samples,
            "false_alarms_per_100k": round(PER * self.false_alarms / self.samples, 2)
            if self.samples
            else None,
            "interval_95": rates,
        }


class Fault(NamedTuple):
    """A fault of a run: its first sample and that one's tick, and its last sample, None if the run's."""

    sample: int
    tick: int
    last: int | None


@dataclass(frozen=True, slots=True)
class Scores:
    """By name: each rule, all rules together, each monitor. ``runs`` are those with a label."""

    runs: int
    rules: Mapping[str, Score]
    monitors: Mapping[str, Score]


def score(policy: Policy, tests: Sequence[Backtest], labels: Mapping[str, Label]) -> Scores:
    """Judge a policy by the runs that have a label.

    A monitor or rule that could not see or do anything, because the run lacks its signals, is not judged by
    it.

    Raises:
        RecordingError: a fault begins after its run's end.
    """
    rules = {name: Score() for name in (ANY_ACT, *(rule.name for rule in policy.rules))}
    monitors = {spec.name: Score() for spec in policy.monitors}
    judged = [test for test in tests if test.recording.name in labels]
    problems: list[str] = []
    for test in judged:
        fault = _fault(test, labels[test.recording.name], problems)
        acted, alarmed = _acted(test, list(rules)), _alarmed(test, list(monitors))
        for name in rules.keys() - test.dead:
            rules[name].take(acted[name], fault, test.samples)
        for name in monitors.keys() - test.blind:
            monitors[name].take(alarmed[name], fault, test.samples)
    if problems:
        raise RecordingError(problems)
    return Scores(len(judged), rules, monitors)


def _fault(test: Backtest, label: Label, problems: list[str]) -> Fault | None:
    if label.onset is None:
        return None
    steps = [step for course in test.courses for step in course.steps]
    began = next((at for at, step in enumerate(steps) if step >= label.onset), None)
    if began is None:
        last_step = max(steps, default=0)
        problems.append(
            f"{test.recording.name}: the onset, {label.onset}, is after its last step, {last_step}"
        )
        return None
    tick = [tick for course in test.courses for tick in course.ticks][began]
    if label.end is None:
        return Fault(began, tick, None)
    return Fault(began, tick, max(at for at, step in enumerate(steps) if step <= label.end))


def _acted(test: Backtest, names: Sequence[str]) -> dict[str, list[Episode]]:
    found: dict[str, list[Episode]] = {name: [] for name in names}
    before = 0
    for course in test.courses:
        for decision in course.decisions:
            if decision.disposition is Disposition.SUPPRESSED:
                continue
            episode = Episode(before + course.place_of(decision.tick), decision.tick, decision.onset)
            if decision.rule in found:
                found[decision.rule].append(episode)
            if changes_the_run(decision.actions):
                found[ANY_ACT].append(episode)
        before += len(course.ticks)
    return found


def _alarmed(test: Backtest, names: Sequence[str]) -> dict[str, list[Episode]]:
    found: dict[str, list[Episode]] = {name: [] for name in names}
    before = 0
    for course in test.courses:
        for alarm in course.alarms:
            found[alarm.monitor].append(
                Episode(before + course.place_of(alarm.tick), alarm.tick, alarm.onset)
            )
        before += len(course.ticks)
    return found
