"""A bank that lets wait what can wait reads as one that judges everything at once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from math import inf, nan
from pathlib import Path
from random import Random
from typing import Any

import pytest

import midcourse
from midcourse.monitors.bank import MonitorBank
from midcourse.monitors.types import Health, MonitorSpec, Sample
from midcourse.policies.policy import load_policy

CONFIGS = Path(midcourse.__path__[0]) / "configs"
WIDE: dict[str, Any] = {"warm_up": 8, "window": 128}
EVERY_KIND = [
    MonitorSpec("guard", "guard"),
    MonitorSpec("garbage", "outliers", {"signal": "loss", **WIDE, "threshold": 4.0}),
    MonitorSpec("stuck", "stuck", {"signal": "repeats", "warm_up": 8}),
    MonitorSpec("rise", "sustained_rise", {"signal": "loss", **WIDE}),
    MonitorSpec("vote", "e_detector", {"signal": "loss", **WIDE}),
    MonitorSpec("blowup", "divergence", {"signal": "loss", **WIDE, "threshold": 4.0}),
    MonitorSpec("good", "too_good", {"signal": "loss", **WIDE}),
    MonitorSpec("stalled", "stalled", {"signal": "loss"}),
    MonitorSpec("source", "sustained_rise", {"signal": "loss/source=*", **WIDE, "threshold": 8.0}),
    MonitorSpec("recent", "baseline", {"signal": "loss/source=*"}),
    MonitorSpec("gradient", "shift", {"signal": "grad_norm", **WIDE}),
    MonitorSpec("left", "jump", {"signal": "grad_norm", **WIDE, "log": True}),
    MonitorSpec("drift", "adwin", {"signal": "update_ratio"}),
    MonitorSpec("update", "sustained_rise", {"signal": "update_ratio"}),
    MonitorSpec("scarce", "scarce", {"signal": "supply/source=*"}),
    MonitorSpec("frozen", "frozen"),
]


def samples(seed: int, count: int) -> Iterator[Sample]:
    """Long stretches of noise, and short ones of all that may go wrong, with gaps and announcements."""
    random = Random(seed)
    tick, level, kind, left = 0, 2.0, "noise", 300
    for index in range(count):
        left -= 1
        if left <= 0:
            kind = random.choice(("noise", "step", "ramp", "spikes", "ties", "nan", "missing"))
            left = random.randrange(3, 60) if kind != "noise" else 150
            level += random.uniform(-0.4, 0.4) if kind == "step" else 0.0
        tick += 1 if random.random() < 0.99 else random.choice((2, 5, 40, 70, 1200))
        level += random.uniform(0, 0.03) if kind == "ramp" else 0.0

        def value(kind: str = kind, level: float = level) -> float:
            measured = random.gauss(level, 0.1)
            if kind == "spikes" and random.random() < 0.2:
                measured += random.uniform(0, 3)
            if kind == "nan" and random.random() < 0.3:
                measured = random.choice((nan, inf, -inf, 1e308))
            return round(measured, 1) if kind == "ties" else measured

        names = ["loss", *(f"loss/source={name}" for name in "abc")]
        measured = {name: value() for name in names if kind != "missing" or random.random() < 0.4}
        rate = 1e-3 * (0.7 if index % 400 > 200 else 1.0) * (1.0 if index % 700 else 3.0)
        measured |= {"lr": rate, "grad_norm": abs(value()), "repeats": float(random.random() < 0.02)}
        measured |= {f"supply/source={name}": random.gauss(0.7, 1) for name in "ab"}
        if index % (1 + 15 * (seed % 2)) == 0:
            measured |= {"update_ratio": 2e-3 * random.gauss(1, 0.05), "param_norm": 50 + 1e-3 * index}
        for name in ("expected_change", "expected_change/loss"):
            measured |= {name: 1.0} if random.random() < 0.003 else {}
        yield Sample(tick, tick, 0, measured)


def healths(bank: MonitorBank) -> dict[tuple[str, str], Health]:
    """Of all instances, without asking for what waits."""
    return {(name, at): each.health for name, own in bank._readings.items() for at, each in own.items()}


def told(bank: MonitorBank) -> dict[str, Any]:
    return {name: {at: each.to_json() for at, each in own.items()} for name, own in bank.readings.items()}


def early(sample: Sample) -> Sample:
    """What is known of it before the step."""
    known = {
        name: sample.signals[name] for name in ("loss", "grad_norm", "repeats") if name in sample.signals
    }
    return Sample(sample.step, sample.tick, 0, known)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("policy", ["baseline", None])
def test_a_bank_that_waits_says_the_same_at_the_same_ticks(policy: str | None, seed: int) -> None:
    loaded = None if policy is None else load_policy(CONFIGS / f"{policy}.yaml")
    specs = EVERY_KIND if loaded is None else loaded.monitors
    lazy, plain = (MonitorBank(specs, ["loss"]) for _ in range(2))
    random, waits = Random(seed), 0
    for sample in samples(seed, 1500):
        for bank in (lazy, plain):
            bank.news = False
        if random.random() < 0.95:
            lazy.judge_step(early(sample), lazily=True)
            plain.judge_step(early(sample))
            assert (lazy.news, lazy.on_edge, healths(lazy)) == (plain.news, plain.on_edge, healths(plain))
        lazy.update(sample, lazily=random.random() < 0.98)
        plain.update(sample)
        assert (lazy.news, lazy.on_edge, healths(lazy)) == (plain.news, plain.on_edge, healths(plain))
        waits += any(line.ticks for line in lazy._lines.values())
        event = random.random()
        if event < 0.02:
            assert told(lazy) == told(plain)
        elif event < 0.025:
            assert lazy.facts() == plain.facts()
        elif event < 0.03:
            assert [lazy.lateness(spec.name) for spec in specs] == [plain.lateness(s.name) for s in specs]
        elif event < 0.036:
            state = json.dumps(lazy.state_dict())
            assert state == json.dumps(plain.state_dict())
            if event < 0.032:
                for bank in (lazy, plain):
                    bank.load_state_dict(json.loads(state))
            elif event < 0.034:
                for bank in (lazy, plain):
                    bank.take_specs(specs, ["loss", "lr"])
    assert json.dumps(lazy.state_dict()) == json.dumps(plain.state_dict())
    assert lazy.take_errors() == plain.take_errors() == []
    assert waits > 300


def test_what_waits_is_bounded_and_read_in_time() -> None:
    """So that who reads without asking, from another thread, sees readings that are not old."""
    bank, random = MonitorBank([MonitorSpec("rise", "sustained_rise", {"signal": "loss"})]), Random(0)
    held = bank.readings["rise"]
    ages = []
    for tick in range(1500):
        bank.update(Sample(tick, tick, 0, {"loss": random.gauss(2, 0.1)} if tick < 1400 else {}), lazily=True)
        ages.append(tick - held[""].tick)
    assert 8 < max(ages[:1400]) <= 16
    assert held[""].tick == 1399


def test_where_progress_has_stopped_measurements_wait_as_ever() -> None:
    """What is said of a plateau stays the same until the next block of measurements is complete."""
    specs = [MonitorSpec("stalled", "stalled", {"signal": "loss"})]
    bank, random = MonitorBank([*specs, MonitorSpec("rise", "sustained_rise", {"signal": "loss"})]), Random(0)
    held, ages = bank.readings, []
    for tick in range(4000):
        loss = random.gauss(2 + 20 * (min(tick, 2000) + 10) ** -0.3, 0.1)
        bank.update(Sample(tick, tick, 0, {"loss": loss}), lazily=True)
        if held["stalled"][""].bad:
            ages.append(tick - held["rise"][""].tick)
    assert len(ages) > 100
    assert sum(age > 0 for age in ages) > 0.8 * len(ages)


def test_a_monitor_that_fails_at_what_waited_is_out_of_service() -> None:
    bank, random = MonitorBank([MonitorSpec("rise", "sustained_rise", {"signal": "loss"})]), Random(0)
    for tick in range(1000):
        bank.update(Sample(tick, tick, 0, {"loss": random.gauss(2, 0.1)}), lazily=True)
    line = bank._lines["loss"]
    assert line.ticks

    def fails(ticks: list[int], values: list[float]) -> Any:
        raise RuntimeError("out of order")

    last = line.ticks[-1]
    line.watches[0].calming.settle = fails  # type: ignore[union-attr, method-assign]
    bank.news = False
    reading = bank.readings["rise"][""]
    assert (reading.health, reading.tick, bank.news) == (Health.ERROR, last, True)
    assert len(bank.take_errors()) == 1
    bank.update(Sample(1000, 1000, 0, {"loss": 2.0}), lazily=True)
    assert bank.readings["rise"][""] is reading
