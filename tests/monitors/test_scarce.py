"""Scarce: a source of which next to nothing comes any more, among sources of which less comes by chance."""

from __future__ import annotations

import numpy as np
import pytest

from midcourse.monitors.bank import MonitorBank
from midcourse.monitors.types import MonitorSpec, Reading, Sample

AT = 600
BATCH = 16


def judged(seed: int, then: float, *, share: float = 0.25, n: int = 1200) -> list[Reading]:
    """Readings where of a source ``then`` times as many examples come, from ``AT`` on, as are asked for."""
    came = np.random.default_rng(seed).random((n, BATCH))
    bank = MonitorBank([MonitorSpec("scarce", "scarce", {"signal": "supply/source=*"})])
    readings = []
    for tick in range(n):
        count = (came[tick] < share * (then if tick >= AT else 1.0)).sum()
        sample = Sample(tick, tick, 0, {"supply/source=code": count / BATCH / share})
        readings.append(bank.update(sample)["scarce"]["code"])
    return readings


def alarms(readings: list[Reading]) -> list[Reading]:
    return [reading for reading in readings if reading.bad]


@pytest.mark.parametrize("then", [0.0, 0.1])
def test_a_source_of_which_next_to_nothing_comes_is_found_and_dated(then: float) -> None:
    for seed in range(5):
        found = alarms(judged(seed, then))
        assert found, "not found"
        assert AT <= found[0].tick <= AT + 20
        assert found[0].onset is not None
        assert AT - 15 <= found[0].onset <= AT + 5


def test_chance_is_no_scarcity_and_plenty_is_none() -> None:
    for then in (1.0, 3.0):
        assert sum(bool(alarms(judged(seed, then))) for seed in range(10)) <= 1


def test_it_ends_where_the_source_comes_again() -> None:
    came = [1.0, 0.9, 1.1, 1.0] * 100 + [0.0] * 20 + [1.0, 0.9, 1.1, 1.0] * 30
    bank = MonitorBank([MonitorSpec("scarce", "scarce", {"signal": "supply/source=code"})])
    bad = []
    for tick, supply in enumerate(came):
        reading = bank.update(Sample(tick, tick, 0, {"supply/source=code": supply}))["scarce"][""]
        bad += [tick] if reading.bad else []
    assert bad[0] in range(400, 408)
    assert 419 in bad
    assert bad[-1] < 450
