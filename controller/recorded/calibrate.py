"""Thresholds from healthy runs: the smallest that keep a rate of false alarms, and what they cost in delay.

Three passes over the runs and a few thousand short ones: the first with thresholds that nothing reaches, for
the scores (until the first alarm they do not depend on the threshold); one with the old thresholds and one
with the new, for what they really do. Where the new ones still alarm too often, because of how an alarm
clears, they are raised by a tenth and tried again. Then changes are put into the runs' own values.

Rules do not act meanwhile: the runs are as they were. What is not finite is no false alarm here: no threshold
would mend it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...monitors.types import Sample
from ...policies.judging import poisson_interval
from ...policies.model import Policy
from .injected import Delays, Shape, delays
from .observe import Seen, observe
from .recording import Recording
from .tails import Basis, Choice, choose, evidence
from .thresholds import least_from, rounded_up, threshold_of, tuned_of, with_thresholds

PLACES = 24
"""Places in all runs together at which changes are put."""

_UNREACHED = 1e60
_TRIES = 5  # of a threshold; after each in which it alarms too often it is raised
_NO_THRESHOLD = "has no threshold that its score alone is compared with"


@dataclass(frozen=True, slots=True)
class Calibrated:
    """One monitor: its parameter, old and new, false alarms of both in ``samples``, and delays of both.

    ``new`` is None where the runs cannot support a threshold: ``choice`` says why.
    """

    monitor: str
    parameter: str
    old: float
    new: float | None
    choice: Choice
    samples: int
    before: int
    after: int | None
    delays: Mapping[Shape, tuple[Delays, Delays | None]]

    def to_json(self) -> dict[str, Any]:
        """All of it, as plain numbers."""
        return {
            "monitor": self.monitor,
            "parameter": self.parameter,
            "old": self.old,
            "new": self.new,
            "basis": self.choice.basis.value,
            "largest_score": self.choice.largest,
            "samples": self.samples,
            "samples_needed": self.choice.needed,
            "before": _rate(self.before, self.samples),
            "after": None if self.after is None else _rate(self.after, self.samples),
            "delays": {
                shape.value: [None if each is None else each.to_json() for each in pair]
                for shape, pair in self.delays.items()
            },
        }


@dataclass(frozen=True, slots=True)
class Calibration:
    """All monitors that have a threshold and judged something; ``left_out`` says why the others were not."""

    rate: float
    monitors: tuple[Calibrated, ...]
    left_out: Mapping[str, str]

    @property
    def thresholds(self) -> dict[str, dict[str, float]]:
        """The parameters that change, by monitor."""
        return {
            each.monitor: {each.parameter: each.new}
            for each in self.monitors
            if each.new is not None and each.new != each.old
        }


def calibrate(policy: Policy, recordings: Sequence[Recording], rate: float, seed: int = 0) -> Calibration:
    """Find thresholds for a policy's monitors.

    Args:
        policy: the policy; its rules do not act.
        recordings: healthy runs.
        rate: false alarms a sample that are accepted, of each monitor with all of its instances.
        seed: of the places at which changes are put.

    Raises:
        RecordingError: a run goes back to where its recording does not reach.
    """
    choices, left_out = _choices(policy, recordings, rate)
    new = {name: choice.threshold for name, choice in choices.items() if choice.threshold is not None}
    places = _places(recordings, seed)
    before = observe(policy, recordings, places)
    after, loud = dict[str, Seen](), list(new)
    for trial in range(_TRIES):
        if trial:
            new |= {name: rounded_up(1.1 * new[name]) for name in loud}
        trying = replace(policy, monitors=tuple(spec for spec in policy.monitors if spec.name in loud))
        after |= dict.fromkeys(loud, observe(with_thresholds(trying, new), recordings, places))
        loud = [name for name in loud if after[name].episodes[name] > rate * after[name].samples[name]]
        if not loud:
            break
    choices = {name: replace(choice, threshold=new.get(name)) for name, choice in choices.items()}
    found = (_compared(policy, name, choice, before, after.get(name)) for name, choice in choices.items())
    return Calibration(rate, tuple(found), left_out)


def _choices(
    policy: Policy, recordings: Sequence[Recording], rate: float
) -> tuple[dict[str, Choice], dict[str, str]]:
    """A threshold for each monitor by its scores, and why the others have none."""
    tuned = {spec.name: kind for spec in policy.monitors if (kind := tuned_of(spec)) is not None}
    seen = observe(with_thresholds(policy, dict.fromkeys(tuned, _UNREACHED)), recordings)
    choices, left_out = dict[str, Choice](), dict[str, str]()
    for spec in policy.monitors:
        kind, scores = tuned.get(spec.name), seen.scores.get(spec.name)
        if kind is None or not scores:
            left_out[spec.name] = _NO_THRESHOLD if kind is None else "judged nothing in these runs"
            continue
        series = [evidence(each, kind) for each in scores.values()]
        choice = choose(series, kind, seen.samples[spec.name], rate)
        if choice.threshold is not None:
            wanted = rounded_up(choice.threshold)
            # A cumulative sum takes none below what one measurement adds: then it alarms less than is asked.
            taken = least_from(spec, wanted)
            choice = replace(choice, threshold=taken, basis=Basis.LEAST if taken > wanted else choice.basis)
        choices[spec.name] = choice
    return choices, left_out


def _compared(policy: Policy, name: str, choice: Choice, before: Seen, after: Seen | None) -> Calibrated:
    """One monitor with its old threshold and its new one."""
    [spec] = [each for each in policy.monitors if each.name == name]
    new, tuned = choice.threshold, tuned_of(spec)
    assert tuned is not None
    pairs = {}
    for shape in Shape:
        first = delays(spec, before.spots, shape)
        if first is not None:
            changed = None if new is None else with_thresholds(replace(policy, monitors=(spec,)), {name: new})
            then = (
                None if changed is None or after is None else delays(changed.monitors[0], after.spots, shape)
            )
            pairs[shape] = (first, then)
    return Calibrated(
        monitor=name,
        parameter=tuned.parameter,
        old=threshold_of(spec),
        new=new,
        choice=choice,
        samples=before.samples[name],
        before=before.episodes[name],
        after=None if after is None else after.episodes[name],
        delays=pairs,
    )


def _places(recordings: Sequence[Recording], seed: int) -> frozenset[tuple[int, int]]:
    """Places in the runs, none in the first quarter of one or its last tenth."""
    lengths = [
        sum(isinstance(event, Sample) for chapter in recording.chapters for event in chapter.events())
        for recording in recordings
    ]
    room = np.array([max(0, int(0.9 * length) - length // 4) for length in lengths])
    if not room.sum():
        return frozenset()
    random = np.random.default_rng(seed)
    runs = random.choice(len(lengths), size=PLACES, p=room / room.sum())
    return frozenset((int(run), lengths[run] // 4 + int(random.integers(room[run]))) for run in runs)


def _rate(count: int, samples: int) -> dict[str, Any]:
    low, high = poisson_interval(count)
    per = 1e5 / samples if samples else float("nan")
    return {
        "false_alarms": count,
        "per_100k": round(count * per, 2),
        "interval_95": [round(low * per, 2), round(high * per, 2)],
    }
