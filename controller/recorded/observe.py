"""One pass of a policy's monitors over recorded runs: episodes, scores, and places to try changes at."""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from ...monitors.bank import MonitorBank
from ...monitors.types import Health, Sample
from ...policies.judging import Alarms
from ...policies.model import Policy
from ...policies.replay import Replay
from .injected import Spot
from .needs import Needs
from .recording import Recording, RecordingError

_JUDGED = (Health.OK, Health.WARNING, Health.ALARM)


@dataclass(slots=True)
class Seen:
    """What one pass saw of each monitor.

    ``samples`` are those of the runs that it is not blind in, ``episodes`` of alarm; ``scores`` those of each
    run and instance in order; ``spots`` the places that were asked for.
    """

    samples: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    episodes: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    scores: dict[str, dict[tuple[int, str], array[float]]] = field(default_factory=lambda: defaultdict(dict))
    spots: list[Spot] = field(default_factory=list)


def observe(
    policy: Policy, recordings: Sequence[Recording], places: frozenset[tuple[int, int]] = frozenset()
) -> Seen:
    """Let a policy's monitors watch runs; its rules are left out.

    Args:
        policy: the policy.
        recordings: the runs.
        places: (run, sample) at which it is kept how the monitors stood, and what came after.

    Raises:
        RecordingError: a run goes back to where its recording does not reach.
    """
    watching = replace(policy, rules=(), limits=None, baselines=())
    seen, needs = Seen(), Needs(policy)
    for number, recording in enumerate(recordings):
        try:
            count = _watch(watching, recording, number, places, seen)
        except ValueError as error:
            raise RecordingError([f"{recording.name}: {error}"]) from None
        blind = needs.blind(recording.signals)
        for spec in policy.monitors:
            seen.samples[spec.name] += 0 if spec.name in blind else count
    return seen


def _watch(
    policy: Policy, recording: Recording, number: int, places: frozenset[tuple[int, int]], seen: Seen
) -> int:
    """One run; returns how many samples it has."""
    count = 0
    replay = Replay(policy, recording.landmarks)
    for chapter in recording.chapters:
        if chapter.resumed is None:
            replay = Replay(policy, recording.landmarks)
        alarms, spots = Alarms(replay.bank), list[Spot]()
        for event in chapter.events():
            replay.take(event)
            if not isinstance(event, Sample):
                continue
            _look(replay.bank, event, number, seen, alarms)
            for spot in spots:
                spot.follow(event)
            if (number, count) in places:
                readings = {name: dict(own) for name, own in replay.bank.readings.items()}
                spots.append(Spot(replay.bank.state_dict(), readings))
            count += 1
        seen.spots += spots
    return count


def _look(bank: MonitorBank, sample: Sample, number: int, seen: Seen, alarms: Alarms) -> None:
    if bank.news:
        bank.news = False
        for name, _, reading in alarms.begun():
            seen.episodes[name] += reading.health is Health.ALARM  # no threshold mends what is not finite
    for name, readings in bank.readings.items():
        for instance, reading in readings.items():
            if reading.tick == sample.tick and reading.health in _JUDGED:
                seen.scores[name].setdefault((number, instance), array("d")).append(reading.score)
