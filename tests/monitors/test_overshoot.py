"""A learning rate that goes beyond its peak after it had begun to fall."""

from __future__ import annotations

from itertools import chain, repeat
from math import cos, pi

from midcourse.monitors.bank import MonitorBank
from midcourse.monitors.changes import MARK
from midcourse.monitors.types import MonitorSpec, Sample


def alarms(rates: list[float], announced: tuple[int, ...] = ()) -> list[int]:
    bank = MonitorBank([MonitorSpec("beyond", "overshoot", {"signal": "lr"})])
    bad = []
    for tick, rate in enumerate(rates):
        told = {MARK: 1.0, f"{MARK}/lr": 1.0} if tick in announced else {}
        readings = bank.update(Sample(tick, tick, 0, {"lr": rate, **told}))
        if readings["beyond"][""].bad:
            bad.append(tick)
    return bad


def test_schedules_as_they_are_used_leave_it_quiet() -> None:
    warm_up = [step / 50 for step in range(50)]
    cosine = [0.5 * (1 + cos(pi * step / 200)) for step in range(200)]
    one_cycle = [*(step / 100 for step in range(100)), *(1 - step / 100 for step in range(100))]
    restarts = [*warm_up, *chain.from_iterable(repeat(cosine, 3))]
    for rates in (warm_up, [*warm_up, *cosine], one_cycle, restarts, [1.0] * 300, [0.0] * 10):
        assert alarms(rates) == []


def test_a_jump_is_found_at_its_first_step_and_lasts_until_it_is_over() -> None:
    assert alarms([1.0] * 10 + [0.8] * 10 + [8.0] * 3 + [0.7] * 5) == [20, 21, 22]


def test_a_rate_that_only_rises_has_no_peak_yet() -> None:
    assert alarms([1.1**step for step in range(60)]) == []


def test_a_creeping_rate_is_found_a_quarter_beyond_the_peak() -> None:
    rates = [1.0] * 10 + [0.8 * 1.05**step for step in range(20)]
    found = alarms(rates)
    assert rates[found[0]] > 1.25 >= rates[found[0] - 1]


def test_what_is_announced_is_known_from_then_on() -> None:
    rates = [1.0] * 10 + [0.5] * 10 + [2.0] * 10 + [0.5] * 10 + [2.4] * 5 + [2.6] * 5
    assert alarms(rates)[0] == 20
    # With the sample that has changed, as the controller tells it; a quarter beyond what is known now is 2.5.
    assert alarms(rates, announced=(20,)) == [45, 46, 47, 48, 49]


def test_an_act_that_lowers_the_rate_does_not_hide_that_it_goes_on_rising() -> None:
    rates = [1.0] * 5 + [0.8] * 5 + [2.0] * 3 + [0.6] * 3 + [1.4] * 3
    assert alarms(rates, announced=(13,)) == [10, 11, 12, 16, 17, 18]
