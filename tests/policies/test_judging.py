"""What counts as found and as a false alarm, and how sure a rate of few events is."""

from __future__ import annotations

from math import exp, factorial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from midcourse.monitors.bank import MonitorBank
from midcourse.monitors.types import MonitorSpec, Sample
from midcourse.policies.judging import Alarms, Match, match, poisson_interval


@pytest.mark.parametrize(
    ("began", "end", "expected"),
    [
        ([], None, Match(0, None)),
        ([10, 99], None, Match(2, None)),
        ([10, 100, 101], None, Match(1, 1)),
        ([130], 120, Match(0, None)),
        ([120], 120, Match(0, 0)),
    ],
)
def test_a_fault_is_found_by_the_first_episode_inside_it(
    began: list[int], end: int | None, expected: Match
) -> None:
    assert match(began, 100, end) == expected


@pytest.mark.parametrize(
    ("count", "low", "high"), [(1, 0.0253, 5.572), (3, 0.6187, 8.767), (100, 81.364, 121.627)]
)  # Garwood's table
def test_the_exact_interval_is_that_of_the_table(count: int, low: float, high: float) -> None:
    assert poisson_interval(count) == pytest.approx((low, high), rel=1e-3)


@given(st.integers(0, 60), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_the_interval_leaves_what_it_says_on_either_side(count: int, confidence: float) -> None:
    low, high = poisson_interval(count, confidence)
    tail = (1 - confidence) / 2

    def at_most(most: int, mean: float) -> float:
        return sum(exp(-mean) * mean**k / factorial(k) for k in range(most + 1))

    assert at_most(count, high) == pytest.approx(tail)
    assert low == 0 if count == 0 else 1 - at_most(count - 1, low) == pytest.approx(tail)


def test_an_alarm_that_lasts_is_one_episode() -> None:
    bank = MonitorBank([MonitorSpec("guard", "guard")])
    alarms = Alarms(bank)
    began = []
    for tick, loss in enumerate([1.0, float("nan"), float("nan"), 1.0, float("inf")]):
        bank.update(Sample(tick, tick, 0, {"loss": loss}))
        began += [(tick, name) for name, _, _ in alarms.begun()]
    assert began == [(1, "guard"), (4, "guard")]
