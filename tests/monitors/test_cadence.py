"""Signals at every cadence, short runs: what is seldom measured, and what has only begun."""

from __future__ import annotations

import numpy as np
import pytest

from midcourse.monitors.bank import MonitorBank
from midcourse.monitors.sustained_rise import SustainedRise
from midcourse.monitors.types import Health, MonitorSpec, Sample
from midcourse.policies.engine import Engine
from midcourse.policies.policy import load_policy
from midcourse.policies.types import Turn


def losses(n: int, seed: int, at: int | None = None, by: float = 0.0) -> list[float]:
    noise = np.random.default_rng(seed).standard_t(8, n) * 0.05
    loss: list[float] = (2 + 4 * (np.arange(n) + 20.0) ** -0.5 + noise).tolist()
    return [value + by * (at is not None and index >= at) for index, value in enumerate(loss)]


@pytest.mark.parametrize("every", [1, 10, 500, 3000])
def test_a_step_is_found_in_as_many_measurements_at_every_cadence(every: int) -> None:
    """And never is a signal stale that is only measured seldom, or its onset put late by ticks."""
    bank = MonitorBank([MonitorSpec("rise", "sustained_rise", {"signal": "eval/loss"})])
    at, found = 150, None
    values = losses(200, 0, at, 0.5)
    for tick in range(200 * every):
        measured = {"eval/loss": values[tick // every]} if tick % every == 0 else {}
        reading = bank.update(Sample(tick, tick, 0, {"loss": 1.0, **measured}))["rise"][""]
        assert reading.health is not Health.STALE or tick <= every, "two measurements make a cadence"
        if reading.bad:
            found = (tick // every, reading.onset)
            break
    assert found is not None
    assert found[0] - at <= 8
    assert found[1] is not None
    assert at - 10 <= found[1] // every <= at
    assert bank.lateness("rise") == every * SustainedRise.lateness + every - 1


def test_a_signal_that_is_no_longer_measured_is_stale_by_its_own_cadence() -> None:
    bank = MonitorBank([MonitorSpec("rise", "sustained_rise", {"signal": "eval/loss"})])
    for tick in range(0, 400_000, 2000):
        bank.update(Sample(tick, tick, 0, {"eval/loss": 2.0 + 0.01 * (tick % 3)}))
    last = 398_000
    health = {
        tick: bank.update(Sample(tick, tick, 0, {}))["rise"][""].health
        for tick in range(last + 1, last + 7000)
    }
    assert health[last + 5900] is Health.OK
    assert health[last + 6100] is Health.STALE


def decided(n: int, faults: dict[int, float]) -> list[tuple[int, str]]:
    """What the baseline policy decides on a loss that is raised by so much from those ticks on."""
    policy = load_policy("baseline")
    bank = MonitorBank(policy.monitors, policy.baselines)
    engine = Engine(policy, bank.lateness)
    said = Turn()
    for tick, value in enumerate(losses(n, 5)):
        loss = value + sum(by for at, by in faults.items() if tick >= at)
        sample = Sample(tick, tick, 0, {"loss": loss, "grad_norm": 1.0 + 0.1 * np.sin(tick), "lr": 1e-4})
        said.extend(engine.judge_step(sample, bank.judge_step(sample)))
        said.extend(engine.tick(sample, bank.update(sample)))
    return [(decision.tick, decision.rule) for decision in said.decisions]


@pytest.mark.parametrize("length", [200, 500, 2000])
def test_a_short_run_is_watched_after_its_first_64_steps(length: int) -> None:
    assert decided(length, {}) == []
    at = length // 2
    (tick, rule), *_ = decided(length, {at: 1.0})
    assert rule == "bad-data"
    assert at <= tick <= at + 10


def test_nothing_but_the_guard_speaks_before() -> None:
    assert decided(60, {30: 50.0}) == []
    assert decided(60, {30: float("nan")})[0] == (30, "bad-step")
