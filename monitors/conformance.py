"""The conformance suite: what every monitor must do, checked by doing it.

    import pytest
    from midcourse.monitors.conformance import yield_checks

    @pytest.mark.parametrize("check", yield_checks(make), ids=lambda check: check.__name__)
    def test_my_monitor(check):
        check(make)

where ``make()`` gives a new monitor. Each check raises ``AssertionError`` with what is wrong. All streams are
seeded, and nothing is measured in seconds: the suite says the same on every machine. (The idea is that of
river's and scikit-learn's ``check_estimator``; river's own suite leaves drift detectors out.)
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from math import sqrt
from types import FrameType
from typing import Any, Protocol, runtime_checkable

from .calm import Calming
from .conformance_waiting import check_waiting_changes_nothing
from .streams import NOISE as NOISE
from .streams import healthy as healthy
from .streams import stepped as stepped
from .streams import troubled as troubled
from .types import Health, Monitor, Reading, Sample, Tuned


@runtime_checkable
class Declared(Monitor, Protocol):
    """A monitor that declares how well it works, as the suite needs it.

    ``warm_up`` is how many measurements it does not judge. ``false_alarms_per_100k`` bounds the episodes of
    alarm in 100 000 healthy measurements. A step of ``step_noises`` is found within ``step_delay``
    measurements, its onset put at most ``lateness`` too late; None if the monitor looks for no step, below 0
    if it looks for one downwards.
    """

    warm_up: int
    false_alarms_per_100k: float
    step_noises: float | None
    step_delay: int


Make = Callable[[], Declared]
Check = Callable[[Make], None]


def yield_checks(make: Make) -> Iterator[Check]:
    """All checks that apply to what ``make`` makes; call each with ``make``."""
    yield check_declares
    yield check_is_deterministic
    yield check_is_silent_while_warming_up
    yield check_says_why
    if getattr(make(), "tuned", None) is not None:
        yield check_alarms_begin_beyond_the_threshold
    yield check_memory_is_bounded
    yield check_cost_is_bounded
    yield check_nonfinite_is_said_and_forgotten
    yield check_missing_keeps_the_last_reading
    yield check_state_survives_json_at_every_point
    yield check_state_stays_as_it_was_taken
    if isinstance(make(), Calming):
        yield check_waiting_changes_nothing
    yield check_is_quiet_on_a_healthy_loss
    if make().step_noises is not None:
        yield check_finds_a_step
        yield check_finds_a_step_after_trouble
        yield check_alarm_clears


def feed(monitor: Monitor, values: Sequence[float | None], start: int = 0) -> list[Reading]:
    """Give values to all signals of a monitor, one a tick; None is not measured."""
    return [monitor.update(_sample(monitor, start + index, value)) for index, value in enumerate(values)]


def check_declares(make: Make) -> None:
    """It keeps the protocol and declares how well it works."""
    monitor = make()
    assert isinstance(monitor, Declared), "it lacks something that the protocol Declared asks for"
    assert monitor.signals, "it names no signal"
    assert all(isinstance(name, str) for name in monitor.signals), "a signal is no name"
    assert monitor.lateness >= 0, "an onset cannot be late by less than nothing"


def check_is_deterministic(make: Make) -> None:
    """The same samples give the same readings."""
    values = troubled(900, seed=1)
    first, second = (_plain(feed(make(), values)) for _ in range(2))
    assert first == second, "two monitors read the same samples differently"


def check_is_silent_while_warming_up(make: Make) -> None:
    """WARMUP for as long as declared, whatever is measured, and no longer."""
    monitor = make()
    wild = [(-1) ** index * 10.0 ** (index % 7) + 1e7 for index in range(monitor.warm_up)]
    early = {reading.health for reading in feed(monitor, wild)}
    assert early <= {Health.WARMUP}, f"it read {early} while warming up"
    after = feed(monitor, healthy(1, seed=2), start=len(wild))[0].health
    assert after is not Health.WARMUP, f"it still warms up after {monitor.warm_up} measurements"


def check_says_why(make: Make) -> None:
    """What is bad has a reason and an onset; what is OK has neither."""
    for reading in feed(make(), troubled(900, seed=3)):
        if reading.bad:
            assert reading.reason, f"{reading} gives no reason"
            assert reading.onset is not None, f"{reading} has no onset"
            assert reading.onset <= reading.tick, f"{reading} begins after it was measured"
        elif reading.health is Health.OK:
            assert not reading.reason, f"{reading} gives a reason"
            assert reading.onset is None, f"{reading} has an onset"


def check_alarms_begin_beyond_the_threshold(make: Make) -> None:
    """Its score is what is compared with the parameter that it is calibrated by, as ``tuned`` says."""
    monitor: Any = make()
    tuned: Tuned = monitor.tuned
    scores: list[float] = []
    bad = False
    for reading in feed(monitor, troubled(900, seed=3)):
        if reading.health not in (Health.OK, Health.ALARM):
            continue
        assert reading.threshold == monitor.threshold, f"{reading} has another threshold"
        scores = [*scores, reading.score][-tuned.of :]
        beyond = sum(score >= monitor.threshold for score in scores) >= tuned.times
        assert beyond or bad or not reading.bad, f"{reading} alarms at scores of {scores}"
        assert reading.bad or not beyond, f"{reading} does not alarm at scores of {scores}"
        assert not reading.score > tuned.stops * monitor.threshold, f"{reading} has too large a score"
        bad = reading.bad


def check_memory_is_bounded(make: Make) -> None:
    """Its state does not grow with the length of the run."""
    monitor = make()
    feed(monitor, healthy(4000, seed=4))
    before = len(_json(monitor))
    feed(monitor, healthy(6000, seed=5), start=4000)
    after = len(_json(monitor))
    assert after <= 1.1 * before + 200, f"its state grew from {before} to {after} bytes in 6000 measurements"


def check_cost_is_bounded(make: Make) -> None:
    """An update does not take more work late in a run: lines of Python are counted, not seconds."""
    monitor = make()
    feed(monitor, healthy(1500, seed=6))
    before = lines_run(lambda: feed(monitor, healthy(300, seed=7), start=1500))
    feed(monitor, healthy(8000, seed=8), start=1800)
    after = lines_run(lambda: feed(monitor, healthy(300, seed=7), start=9800))
    assert after <= 1.25 * before + 100, f"300 updates took {before} lines early in the run, {after} late"


def check_nonfinite_is_said_and_forgotten(make: Make) -> None:
    """NONFINITE at once for NaN, infinities and what would overflow; then all is as if it were missing."""
    values = troubled(1200, seed=9)
    clean = [value if value is not None and abs(value) < 1e300 else None for value in values]
    said = feed(make(), values)
    as_if = feed(make(), clean)
    for value, kept, reading, other in zip(values, clean, said, as_if, strict=True):
        if kept is not None:
            assert _plain([reading]) == _plain([other]), f"{reading}, not {other}, after NaN or the like"
        elif value is not None:
            assert reading.health is Health.NONFINITE, f"{value} gave {reading}"


def check_missing_keeps_the_last_reading(make: Make) -> None:
    """A missing value keeps the last reading; after long it is STALE, and the next value ends that."""
    monitor = make()
    assert feed(monitor, [None])[0].tick == -1, "it speaks of a measurement that never was"
    last = feed(monitor, healthy(1000, seed=10), start=1)[-1]
    kept = feed(monitor, [None] * 5, start=1001)
    assert _plain(kept) == _plain([last] * 5), "missing values changed its reading"
    late = feed(monitor, [None], start=1_000_000)[0]
    assert late.health is Health.STALE, f"it reads {late.health} a million ticks later"
    assert late.tick == last.tick, "a missing value counts as a measurement"
    back = feed(monitor, healthy(1000, seed=10)[-1:], start=1_000_001)[0]
    assert back.health is Health.OK, f"it reads {back.health} after a gap"


def check_state_survives_json_at_every_point(make: Make) -> None:
    """A monitor made anew from the JSON of its state before every sample reads the same as one left alone."""
    alone, carried = make(), make()
    for tick, value in enumerate(troubled(1100, seed=11)):
        state = _json(carried)
        carried = make()
        carried.load_state_dict(json.loads(state))
        assert _json(carried) == state, f"its state changed by being loaded, at tick {tick}"
        readings = [monitor.update(_sample(monitor, tick, value)) for monitor in (alone, carried)]
        assert len({str(_plain([reading])) for reading in readings}) == 1, f"{readings} differ"


def check_state_stays_as_it_was_taken(make: Make) -> None:
    """A state is a snapshot: neither its monitor nor one that loads it changes it by going on."""
    monitor, other = make(), make()
    feed(monitor, healthy(1010, seed=12))
    state = monitor.state_dict()
    taken = json.dumps(state)
    other.load_state_dict(state)
    for each in (monitor, other):
        feed(each, healthy(130, seed=13), start=1010)
        assert json.dumps(state) == taken, "its state changed after it was taken"


def check_is_quiet_on_a_healthy_loss(make: Make) -> None:
    """No more episodes of alarm on healthy losses than declared (and three standard deviations of chance)."""
    runs = [healthy(4000, seed) for seed in range(20, 26)]
    episodes = sum(_episodes(feed(make(), run)) for run in runs)
    expected = make().false_alarms_per_100k * sum(map(len, runs)) / 1e5
    allowed = expected + 3 * sqrt(expected)
    assert episodes <= allowed, f"{episodes} false alarms, where {expected:.2g} were declared"


def check_finds_a_step(make: Make) -> None:
    """The declared step is found within the declared delay, its onset where it was, in 9 of 10 runs."""
    _find_steps(make, lambda seed, at: healthy(at, seed))


def check_finds_a_step_after_trouble(make: Make) -> None:
    """The same after NaN, infinities, gaps and an earlier fault: nothing of it has blinded the monitor."""

    def run(seed: int, at: int) -> list[float | None]:
        dirty = [*healthy(300, seed), *troubled(300, seed)]
        return [*dirty, *healthy(at, seed)[len(dirty) :]]

    _find_steps(make, run)


def check_alarm_clears(make: Make) -> None:
    """Some time after a step was undone the monitor is quiet again, and stays so."""
    monitor = make()
    noises, length = _step(monitor)
    at, back = 1507, 1507 + 2 * length + 10
    run = stepped(back, 41, at, noises) + healthy(back + 1500, 41)[back:]
    readings = feed(monitor, run)
    assert any(reading.bad for reading in readings[at:back]), "it did not alarm"
    since = [reading.tick for reading in readings if reading.bad][-1] - back
    assert since <= 1000, f"it still alarms {since} measurements after all was well again"


def _find_steps(make: Make, before: Callable[[int, int], Sequence[float | None]]) -> None:
    found = 0
    seen = []
    for seed in range(30, 40):
        monitor = make()
        noises, delay = _step(monitor)
        at = 1500 + 7 * (seed - 30)
        feed(monitor, before(seed, at))
        readings = feed(monitor, stepped(at + delay + 1, seed, at, noises)[at:], start=at)
        alarm = next((reading for reading in readings if reading.health is Health.ALARM), None)
        seen.append(None if alarm is None else (alarm.tick - at, (alarm.onset or 0) - at))
        found += alarm is not None and alarm.onset is not None and alarm.onset <= at + monitor.lateness
    assert found >= 9, f"found {found} of 10 steps of {noises} noises within {delay}: (delay, onset) {seen}"


def _step(monitor: Declared) -> tuple[float, int]:
    assert monitor.step_noises is not None
    return monitor.step_noises, monitor.step_delay


def _sample(monitor: Monitor, tick: int, value: float | None) -> Sample:
    return Sample(tick, tick, 0, {} if value is None else dict.fromkeys(monitor.signals, value))


def _plain(readings: list[Reading]) -> list[dict[str, Any]]:
    """Readings that can be compared, NaN with NaN too."""
    return [reading.to_json() for reading in readings]


def _json(monitor: Monitor) -> str:
    return json.dumps(monitor.state_dict(), allow_nan=False)


def _episodes(readings: list[Reading]) -> int:
    bad = [False, *(reading.bad for reading in readings)]
    return sum(now and not before for before, now in pairwise(bad))


def lines_run(work: Callable[[], object]) -> int:
    """How many lines of Python some work runs through, those of loops each time."""
    lines = 0

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        nonlocal lines
        lines += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return lines
