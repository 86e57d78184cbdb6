"""Every registered monitor passes the shipped suite, and each of its checks can fail."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import count
from typing import Any

import pytest

from midcourse.monitors import conformance
from midcourse.monitors.calm import ANYTHING, Leeway
from midcourse.monitors.conformance import Make, yield_checks
from midcourse.monitors.conformance_waiting import check_waiting_changes_nothing, how_many_wait
from midcourse.monitors.registry import MONITORS
from midcourse.monitors.sustained_rise import SustainedRise
from midcourse.monitors.types import Health, Reading, Sample

NEEDED: dict[str, dict[str, Any]] = {
    "guard": {},
    "forecast": {"signal": "loss", "horizon": 4000, "every": 50},  # as many fits in each 300 measurements
}
"""Parameters without which a type is not made, where they are not a signal alone."""


def maker(kind: str, **params: Any) -> Callable[[], Any]:
    own = {**NEEDED.get(kind, {"signal": "loss"}), **params}
    return lambda: MONITORS[kind](**own)


NEVER_WAIT = {"adwin", "page_hinkley", "forecast"}

MAKERS: dict[str, Callable[[], Any]] = {
    **{kind: maker(kind) for kind in MONITORS},
    "sustained_rise in log": maker("sustained_rise", log=True, slack=0.5),
    "divergence in log": maker("divergence", log=True),
    "sustained_rise over 128": maker("sustained_rise", window=128),
    "too_good in log": maker("too_good", log=True),
    "forecast by its schedule": maker("forecast", schedule="linear", target=3.0),
    "stalled in short blocks": maker("stalled", block=20),
}
CASES = [(name, check) for name, make in MAKERS.items() for check in yield_checks(make)]


@pytest.mark.parametrize(("name", "check"), CASES, ids=[f"{name}-{check.__name__}" for name, check in CASES])
def test_every_registered_monitor_conforms(name: str, check: conformance.Check) -> None:
    check(MAKERS[name])


@pytest.mark.parametrize("kind", [kind for kind in MONITORS if kind not in NEVER_WAIT])
def test_what_says_little_waits(kind: str) -> None:
    assert how_many_wait(maker(kind)) > 400


@pytest.mark.parametrize("kind", [kind for kind in MONITORS if getattr(MONITORS[kind], "tuned", None)])
def test_the_larger_its_threshold_the_later_its_first_alarm(kind: str) -> None:
    tuned = MONITORS[kind].tuned  # type: ignore[attr-defined]
    usual = maker(kind)().threshold
    run = conformance.stepped(2500, seed=51, at=1700, noises=2 * (maker(kind)().step_noises or 0))

    def first(factor: float) -> int:
        monitor = maker(kind, **{tuned.parameter: factor * usual})()
        assert monitor.threshold == factor * usual
        bad = [reading.bad for reading in conformance.feed(monitor, run)]
        return bad.index(True) if True in bad else len(bad)

    assert first(0.8) <= first(1.0) <= first(1.3) <= first(1e6)
    assert first(0.8) < first(1e6)


class Undeclared(SustainedRise):
    lateness = -1


class Random(SustainedRise):
    calls = count()

    def update(self, sample: Sample) -> Reading:
        return replace(super().update(sample), score=float(next(self.calls)))


class Hasty(SustainedRise):
    def __init__(self, signal: str) -> None:
        super().__init__(signal, warm_up=16)
        self.warm_up = 64


class Mute(SustainedRise):
    def update(self, sample: Sample) -> Reading:
        return replace(super().update(sample), reason="")


class Capricious(SustainedRise):
    def update(self, sample: Sample) -> Reading:
        reading = super().update(sample)
        return reading if reading.bad else replace(reading, score=2 * self.threshold)


class Hoarder(SustainedRise):
    def __init__(self, signal: str) -> None:
        super().__init__(signal)
        self.seen: list[int] = []

    def update(self, sample: Sample) -> Reading:
        self.seen.append(sample.tick)
        return super().update(sample)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "seen": self.seen}


class Sharing(SustainedRise):
    def __init__(self, signal: str) -> None:
        super().__init__(signal)
        self.scores = [0.0]

    def update(self, sample: Sample) -> Reading:
        reading = super().update(sample)
        self.scores[0] = reading.score
        return reading

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "scores": self.scores}


class Laborious(Hoarder):
    def update(self, sample: Sample) -> Reading:
        for _ in self.seen:
            pass
        return super().update(sample)


class Gullible(SustainedRise):
    def update(self, sample: Sample) -> Reading:
        reading = super().update(sample)
        if reading.health is Health.NONFINITE:
            self._scale.take(1e9)
        return reading


class Complacent(SustainedRise):
    def __init__(self, signal: str) -> None:
        super().__init__(signal, stale_after=10**9)


class Forgetful(SustainedRise):
    _state = tuple(name for name in SustainedRise._state if name != "_cusum")


class Nervous(SustainedRise):
    def __init__(self, signal: str) -> None:
        super().__init__(signal, threshold=5.0)


class Sluggish(SustainedRise):
    def __init__(self, signal: str) -> None:
        super().__init__(signal, threshold=400.0)


class Blinded(SustainedRise):
    blind = False

    def update(self, sample: Sample) -> Reading:
        reading = super().update(sample)
        self.blind |= reading.health is Health.NONFINITE
        return replace(reading, health=Health.OK, onset=None, reason="") if self.blind else reading


class Stuck(SustainedRise):
    first: int | None = None

    def _judge(self, tick: int, z: float) -> tuple[float, int | None]:
        score, onset = super()._judge(tick, z)
        self.first = onset if self.first is None else self.first
        return score, self.first


class Careless(SustainedRise):
    """Lets anything wait."""

    def _leeway(self) -> Leeway:
        return ANYTHING


CULPRITS: Mapping[conformance.Check, type[SustainedRise]] = {
    conformance.check_declares: Undeclared,
    conformance.check_is_deterministic: Random,
    conformance.check_is_silent_while_warming_up: Hasty,
    conformance.check_says_why: Mute,
    conformance.check_alarms_begin_beyond_the_threshold: Capricious,
    conformance.check_memory_is_bounded: Hoarder,
    conformance.check_cost_is_bounded: Laborious,
    conformance.check_nonfinite_is_said_and_forgotten: Gullible,
    conformance.check_missing_keeps_the_last_reading: Complacent,
    conformance.check_state_survives_json_at_every_point: Forgetful,
    conformance.check_state_stays_as_it_was_taken: Sharing,
    conformance.check_is_quiet_on_a_healthy_loss: Nervous,
    conformance.check_finds_a_step: Sluggish,
    conformance.check_finds_a_step_after_trouble: Blinded,
    conformance.check_alarm_clears: Stuck,
    check_waiting_changes_nothing: Careless,
}


@pytest.mark.parametrize("check", CULPRITS, ids=lambda check: check.__name__)
def test_each_check_catches_a_monitor_that_is_wrong_in_its_way(check: conformance.Check) -> None:
    culprit = CULPRITS[check]
    make: Make = lambda: culprit("loss")  # noqa: E731
    with pytest.raises(AssertionError):
        check(make)


def test_there_is_a_culprit_for_every_check() -> None:
    assert set(yield_checks(maker("sustained_rise"))) == set(CULPRITS)


def test_a_monitor_that_looks_for_no_step_is_not_asked_to_find_one() -> None:
    assert conformance.check_finds_a_step not in set(yield_checks(maker("baseline")))
