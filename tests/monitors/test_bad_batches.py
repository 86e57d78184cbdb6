"""Monitors that are judged before the step, so that it can be skipped: outliers and stuck loaders."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from midcourse.monitors.bank import MonitorBank
from midcourse.monitors.conformance import NOISE, feed, healthy
from midcourse.monitors.outliers import Outliers
from midcourse.monitors.stuck import Stuck
from midcourse.monitors.types import Health, MonitorSpec, Reading, Sample

AT = 1000


def outliers_at(*ticks: int, noises: float = 30.0, **params: Any) -> list[tuple[int, int | None]]:
    """Tick and onset of the alarms where these measurements are so many noises too high."""
    losses = healthy(1200, seed=0)
    for tick in ticks:
        losses[tick] += noises * NOISE
    return [
        (reading.tick, reading.onset) for reading in feed(Outliers("loss", **params), losses) if reading.bad
    ]


def test_two_outliers_are_none_and_from_the_third_on_they_are_until_four_in_a_row_are_good() -> None:
    assert outliers_at(AT) == []
    assert outliers_at(AT, AT + 1) == []
    assert outliers_at(*range(AT, AT + 5)) == [(tick, AT) for tick in range(AT + 2, AT + 9)]


def test_three_of_four_need_not_follow_one_another() -> None:
    assert outliers_at(AT, AT + 1, AT + 3)[0] == (AT + 3, AT)
    assert outliers_at(AT, AT + 2, AT + 3)[0] == (AT + 3, AT)
    assert outliers_at(AT, AT + 1, AT + 4) == [], "that is three of five"


def test_good_data_in_between_do_not_make_another_beginning() -> None:
    found = outliers_at(AT, AT + 1, AT + 2, AT + 5, AT + 7)
    assert found == [(tick, AT) for tick in range(AT + 2, AT + 12)]
    again = outliers_at(AT, AT + 1, AT + 2, AT + 40, AT + 41, AT + 42)
    assert {onset for _, onset in again} == {AT, AT + 40}


def test_it_tells_how_many_are_beyond_and_by_how_much_this_one_is() -> None:
    losses = healthy(1200, seed=0)
    for tick in (AT, AT + 1, AT + 3):
        losses[tick] += 30 * NOISE
    readings = feed(Outliers("loss"), losses)[AT : AT + 9]
    assert [reading.extra["beyond"] for reading in readings] == [1, 2, 2, 3, 2, 1, 1, 0, 0]
    assert [reading.bad for reading in readings] == [False] * 3 + [True] * 5 + [False]
    assert [reading.score > reading.threshold for reading in readings[:5]] == [True, True, False, True, False]


def test_one_is_enough_where_that_is_asked_for() -> None:
    assert outliers_at(AT, times=1, of=1) == [(AT, AT), (AT + 1, AT)]
    assert outliers_at(AT, AT + 3, times=2, of=4)[0] == (AT + 3, AT)
    assert outliers_at(AT, noises=5.0, times=1, of=1) == [], "within the threshold"
    assert outliers_at(AT, noises=-30.0, times=1, of=1) == [], "below is no fault"


def on_edge(monitor: Any, signal: str, values: Sequence[float]) -> list[int]:
    """The ticks before which it says that the very next measurement may alarm."""
    found = []
    for tick, value in enumerate(values):
        found += [tick] if monitor.on_edge else []
        monitor.update(Sample(tick, tick, 0, {signal: value}))
    return found


def test_it_is_on_edge_where_one_more_would_alarm() -> None:
    losses = healthy(1200, seed=0)
    for tick in (700, AT, AT + 1, AT + 2):
        losses[tick] += 30 * NOISE
    edges = on_edge(Outliers("loss"), "loss", losses)
    assert {AT + 2, AT + 3, AT + 4} <= set(edges)
    assert set(edges) <= set(range(AT + 2, AT + 10)), "and where none is near, nobody waits"
    assert on_edge(Outliers("loss", times=1, of=1), "loss", losses) == [], "else always"


def test_a_bank_is_on_edge_where_any_monitor_of_it_is() -> None:
    bank = MonitorBank(
        [
            MonitorSpec("rise", "sustained_rise", {"signal": "loss"}),
            MonitorSpec("garbage", "outliers", {"signal": "loss"}),
            MonitorSpec("stuck", "stuck", {"signal": "repeats", "warm_up": 1}),
        ]
    )
    told = []
    for tick, repeats in enumerate([0.0, 1.0, 1.0, 0.0, 0.0]):
        sample = Sample(tick, tick, 0, {"loss": 2.0, "repeats": repeats})
        bank.judge_step(sample)
        bank.update(sample)
        told.append(bank.on_edge)
    assert told == [False, True, True, False, False]


def stuck(repeats: Sequence[float | None], **params: Any) -> list[Reading]:
    monitor = Stuck("repeats", **{"warm_up": 1, **params})
    return [
        monitor.update(Sample(tick, tick, 0, {} if value is None else {"repeats": value}))
        for tick, value in enumerate(repeats)
    ]


def alarms(readings: Sequence[Reading]) -> list[tuple[int, float, int | None]]:
    return [(r.tick, r.score, r.onset) for r in readings if r.health is Health.ALARM]


def test_a_stuck_loader_alarms_while_it_is_stuck_and_at_the_first_other_batch() -> None:
    readings = stuck([0, 1, 1, 1, 0, 0])
    assert alarms(readings) == [(2, 2.0, 1), (3, 3.0, 1), (4, 0.0, 1)]
    assert readings[3].reason == "3 batches in a row that had just been there"
    assert readings[4].reason == "a new batch, after 3 that had just been there"
    assert not readings[5].bad


def test_a_batch_that_comes_twice_by_chance_is_none() -> None:
    assert alarms(stuck([0, 1, 0, 1, 0, 0, 1, 0])) == []
    assert alarms(stuck([0, 1, 0], times=1)) == [(1, 1.0, 1), (2, 0.0, 1)]


def test_only_where_all_micro_batches_and_processes_repeat_it_is_a_repetition() -> None:
    assert alarms(stuck([0, 0.5, 0.5, 0.75, 0.5, 0])) == []


def test_who_trains_on_few_batches_alone_means_to() -> None:
    readings = stuck([0, 0, *[1] * 50], warm_up=64)
    assert {reading.health for reading in readings} == {Health.WARMUP}
    new = [0] * 64
    assert alarms(stuck([1, 1, *new, 1, 1], warm_up=64)) == [(67, 2.0, 66)]
    assert alarms(stuck([*new[1:], 1, *new[1:], 1, 1], warm_up=64)) == [], "new ones, in a row"


def test_what_was_repeated_before_a_long_gap_does_not_count_after_it() -> None:
    short, long = [None] * 20, [None] * 60
    assert alarms(stuck([0, 1, *short, 1, 0], stale_after=50)) == [(22, 2.0, 1), (23, 0.0, 1)]
    assert alarms(stuck([0, 1, *long, 1, 0], stale_after=50)) == []
    assert stuck([0, 1, *long], stale_after=50)[-1].health is Health.STALE


def test_a_stuck_loader_is_found_by_one_that_has_gone_through_a_snapshot() -> None:
    first = Stuck("repeats", warm_up=1)
    for tick, value in enumerate([0.0, 1.0]):
        first.update(Sample(tick, tick, 0, {"repeats": value}))
    other = Stuck("repeats", warm_up=1)
    other.load_state_dict(json.loads(json.dumps(first.state_dict())))
    reading = other.update(Sample(2, 2, 0, {"repeats": 1.0}))
    assert (reading.health, reading.onset) == (Health.ALARM, 1)


@pytest.mark.parametrize("times", [1, 3])
def test_a_stuck_loader_is_on_edge_before_each_tick_at_which_it_may_alarm(times: int) -> None:
    repeats = [1.0, 0.0, *[1.0] * 5, 0.0, 0.0]
    edges = on_edge(Stuck("repeats", times=times, warm_up=1), "repeats", repeats)
    still = {tick for tick, score, _ in alarms(stuck(repeats, times=times)) if score}
    assert still
    assert still <= set(edges)
    assert times == 1 or 2 not in edges
