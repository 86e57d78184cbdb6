"""Scarce: a source of which next to nothing comes any more, among sources of which less comes by chance."""

from __future__ import annotations

from math import log

import numpy as np
import pytest

from midcourse.monitors.bank import MonitorBank
from midcourse.monitors.scarce import Scarce
from midcourse.monitors.types import MonitorSpec, Reading, Sample

AT = 600


def judged(seed: int, then: float, *, batch: int = 16, share: float = 0.25, n: int = 1200) -> list[Reading]:
    """Readings where of a source ``then`` times as many examples come, from ``AT`` on, as are asked for."""
    draws = np.random.default_rng(seed).random((n, batch))
    bank = MonitorBank([MonitorSpec("scarce", "scarce", {"signal": "supply/source=*"})])
    readings = []
    for tick in range(n):
        came = int((draws[tick] < share * (then if tick >= AT else 1.0)).sum())
        evidence = -0.7 * share * batch - log(0.3) * came
        readings.append(bank.update(Sample(tick, tick, 0, {"supply/source=c": evidence}))["scarce"]["c"])
    return readings


@pytest.mark.parametrize("batch", [4, 16, 256])
@pytest.mark.parametrize("then", [0.0, 0.1])
def test_a_source_of_which_next_to_nothing_comes_is_found_and_dated(then: float, batch: int) -> None:
    for seed in range(5):
        found = [reading for reading in judged(seed, then, batch=batch) if reading.bad]
        assert found, "not found"
        assert AT <= found[0].tick <= AT + 5 + 320 // batch, "twenty that should have come, or more"
        assert found[0].onset is not None
        assert AT - 24 <= found[0].onset <= AT + 2


@pytest.mark.parametrize("batch", [4, 16, 256])
def test_chance_is_no_scarcity_and_plenty_is_none(batch: int) -> None:
    assert not [
        r for then in (1.0, 3.0) for seed in range(5) for r in judged(seed, then, batch=batch) if r.bad
    ]


def test_no_measurement_alarms_alone_and_the_alarm_ends_where_the_source_comes_again() -> None:
    scarce = Scarce("supply/source=c")
    evidence = [1.0, 1.0, -1e9, 1.0, -8.0, -8.0, -8.0, *[2.0] * 30]
    readings = [
        scarce.update(Sample(tick, tick, 0, {"supply/source=c": e})) for tick, e in enumerate(evidence)
    ]
    bad = [reading.tick for reading in readings if reading.bad]
    assert bad[0] == 5, "7 are left of the first 8; 15 are not enough, 23 are"
    assert readings[5].onset == 2
    assert 6 in bad
    assert bad[-1] < 30
