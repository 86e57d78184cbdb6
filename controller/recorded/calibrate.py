"""Thresholds from healthy runs: the smallest that keep a rate of false alarms, and what they cost in delay.

Three passes over the runs and a few thousand short ones: the first with thresholds that nothing reaches, for
the scores (until the first alarm they do not depend on the threshold); one with the old thresholds and one
with the new, for what they really do. Where the new ones still alarm too often, because of how an alarm
clears, they are raised by a tenth and tried again. Then changes are put into the runs' own values.

Rules do not act meanwhile: the runs are as they were. What is not finite is no false alarm here: no threshold
would mend it.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import floor, isfinite, log10
from typing import Any

import numpy as np

from ...monitors.bank import MonitorBank
from ...monitors.registry import MONITORS, make_monitor
from ...monitors.types import Health, MonitorSpec, ParameterError, Sample, Tuned
from ...policies.judging import Alarms, poisson_interval
from ...policies.model import Policy
from ...policies.replay import Replay
from .injected import Delays, Shape, Spot, delays
from .needs import Needs
from .recording import Recording
from .tails import Choice, choose, evidence

PLACES = 24
"""Places in all runs together at which changes are put."""

_UNREACHED = 1e60
_AGAIN = 3  # times that thresholds are raised and tried again
_JUDGED = (Health.OK, Health.WARNING, Health.ALARM)

Thresholds = Mapping[str, float]


@dataclass(slots=True)
class Seen:
    """What one pass saw of each monitor: samples of the runs that it is not blind in, episodes, scores."""

    samples: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    episodes: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    scores: dict[str, dict[tuple[int, str], array[float]]] = field(default_factory=lambda: defaultdict(dict))
    spots: list[Spot] = field(default_factory=list)


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
        ValueError: a run goes back to where its recording does not reach.
    """
    tuned = {spec.name: kind for spec in policy.monitors if (kind := _tuned(spec)) is not None}
    left_out = {spec.name: _WHY_NOT for spec in policy.monitors if spec.name not in tuned}
    free = observe(with_thresholds(policy, tuned, dict.fromkeys(tuned, _UNREACHED)), recordings)
    judged = {name: kind for name, kind in tuned.items() if free.scores[name]}
    left_out |= {name: "judged nothing in these runs" for name in tuned if name not in judged}
    old = {spec.name: threshold_of(spec) for spec in policy.monitors if spec.name in judged}
    places = _places(recordings, seed)
    before = observe(policy, recordings, places)
    choices = {
        name: choose(
            [evidence(each, kind) for each in free.scores[name].values()], kind, free.samples[name], rate
        )
        for name, kind in judged.items()
    }
    specs = {spec.name: spec for spec in policy.monitors}
    new = {
        name: _fit(specs[name], judged[name], choice.threshold, old[name])
        for name, choice in choices.items()
        if choice.threshold is not None
    }
    after = observe(with_thresholds(policy, judged, new), recordings, places)
    for _ in range(_AGAIN):
        loud = [name for name in new if after.episodes[name] > rate * after.samples[name]]
        if not loud:
            break
        new |= {name: _rounded(1.1 * new[name]) for name in loud}
        after = observe(with_thresholds(policy, judged, new), recordings, places)
    changed = {spec.name: spec for spec in with_thresholds(policy, judged, new).monitors}

    def both(name: str) -> dict[Shape, tuple[Delays, Delays | None]]:
        pairs = {}
        for shape in Shape:
            first = delays(specs[name], before.spots, shape)
            if first is not None:
                second = delays(changed[name], after.spots, shape) if name in new else None
                pairs[shape] = (first, second)
        return pairs

    found = tuple(
        Calibrated(
            name,
            kind.parameter,
            old[name],
            new.get(name),
            choices[name],
            before.samples[name],
            before.episodes[name],
            after.episodes[name] if name in new else None,
            both(name),
        )
        for name, kind in judged.items()
    )
    return Calibration(rate, found, left_out)


_WHY_NOT = "has no threshold that its score alone is compared with"


def observe(
    policy: Policy, recordings: Sequence[Recording], places: frozenset[tuple[int, int]] = frozenset()
) -> Seen:
    """One pass of a policy's monitors over runs.

    Args:
        policy: the policy; its rules are left out.
        recordings: the runs.
        places: (run, sample) at which it is kept how the monitors stood, and what came after.
    """
    watching = replace(policy, rules=(), limits=None, baselines=())
    seen, needs = Seen(), Needs(policy)
    for number, recording in enumerate(recordings):
        blind, count = needs.blind(recording.signals), 0
        replay = Replay(watching, recording.landmarks)
        for chapter in recording.chapters:
            if chapter.resumed is None:
                replay = Replay(watching, recording.landmarks)
            alarms, spots = Alarms(replay.bank), list[Spot]()
            for event in chapter.events():
                replay.take(event)
                if isinstance(event, Sample):
                    _look(replay.bank, event, number, seen, alarms)
                    for spot in spots:
                        spot.follow(event)
                    if (number, count) in places:
                        readings = {name: dict(own) for name, own in replay.bank.readings.items()}
                        spots.append(Spot(replay.bank.state_dict(), readings))
                    count += 1
            seen.spots += spots
        for spec in policy.monitors:
            seen.samples[spec.name] += 0 if spec.name in blind else count
    return seen


def _look(bank: MonitorBank, sample: Sample, number: int, seen: Seen, alarms: Alarms) -> None:
    if bank.news:
        bank.news = False
        for name, _, reading in alarms.begun():
            seen.episodes[name] += reading.health is Health.ALARM
    for name, readings in bank.readings.items():
        for instance, reading in readings.items():
            if reading.tick == sample.tick and reading.health in _JUDGED:
                seen.scores[name].setdefault((number, instance), array("d")).append(reading.score)


def with_thresholds(policy: Policy, tuned: Mapping[str, Tuned], thresholds: Thresholds) -> Policy:
    """The policy with other thresholds."""
    return replace(
        policy,
        monitors=tuple(
            _with(spec, tuned[spec.name], thresholds[spec.name]) if spec.name in thresholds else spec
            for spec in policy.monitors
        ),
    )


def threshold_of(spec: MonitorSpec) -> float:
    """The threshold that a monitor has, written or not."""
    signal = str(spec.params.get("signal", "")).replace("*", "any")
    threshold: float = getattr(make_monitor(spec, signal), "threshold")  # noqa: B009 - no part of the protocol
    return threshold


def _tuned(spec: MonitorSpec) -> Tuned | None:
    kind: Tuned | None = getattr(MONITORS[spec.type], "tuned", None)
    return kind


def _with(spec: MonitorSpec, tuned: Tuned, threshold: float) -> MonitorSpec:
    return replace(spec, params={**spec.params, tuned.parameter: threshold})


def _fit(spec: MonitorSpec, tuned: Tuned, threshold: float, old: float) -> float:
    """The threshold, rounded up to three digits; the least that the monitor takes, where that is larger."""
    low, high = _rounded(threshold), old
    if _takes(_with(spec, tuned, low)):
        return low
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (low, middle) if _takes(_with(spec, tuned, middle)) else (middle, high)
    return _rounded(high * 1.001)


def _takes(spec: MonitorSpec) -> bool:
    try:
        threshold_of(spec)
    except ParameterError:
        return False
    return True


def _rounded(number: float) -> float:
    digits = 2 - floor(log10(number)) if number > 0 and isfinite(number) else 0
    return float(f"{np.ceil(number * 10.0**digits) / 10.0**digits:.3g}")


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
