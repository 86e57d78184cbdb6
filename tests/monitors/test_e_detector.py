"""The e-detector keeps its budget of false alarms, whatever the noise, for what it ranks is white."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from midcourse.monitors.conformance import NOISE, feed, healthy
from midcourse.monitors.e_detector import EDetector
from midcourse.monitors.types import Sample
from midcourse.monitors.whitening import Whitening

Array = np.ndarray[Any, Any]
Noise = Callable[[np.random.Generator, int], Array]


def autoregressive(own: Array, first: float, second: float = 0.0) -> Array:
    made = [0.0, 0.0]
    for value in own.tolist():
        made.append(first * made[-1] + second * made[-2] + value)
    return np.array(made[2:])


NOISES: dict[str, Noise] = {
    "normal": lambda rng, n: rng.standard_normal(n),
    "t of 3": lambda rng, n: rng.standard_t(3, n),
    "exponential": lambda rng, n: rng.exponential(1, n),
    "10 % at 8 noises": lambda rng, n: rng.standard_normal(n) + 8 * (rng.random(n) < 0.1),
    "AR(.6)": lambda rng, n: autoregressive(rng.standard_normal(n), 0.6),
    "AR(.9)": lambda rng, n: autoregressive(rng.standard_normal(n), 0.9),
    "AR(.6) of t of 3": lambda rng, n: autoregressive(rng.standard_t(3, n), 0.6),
    "AR(.5, .3)": lambda rng, n: autoregressive(rng.standard_normal(n), 0.5, 0.3),
    "MA(.8)": lambda rng, n: np.convolve(rng.standard_normal(n), (1, 0.8))[:n],
}


def mean_run_length(make: Callable[[], EDetector], noise: Noise, horizon: int, runs: int) -> float:
    """Measurements until the first alarm: those of all runs over the number of alarms."""
    taken = alarms = 0
    for seed in range(runs):
        detector = make()
        for tick, value in enumerate(noise(np.random.default_rng(seed), horizon).tolist()):
            taken += 1
            if detector.update(Sample(tick, tick, 0, {"loss": value})).bad:
                alarms += 1
                break
    return taken / max(1, alarms)


@pytest.mark.parametrize("name", NOISES)
def test_the_mean_time_to_a_false_alarm_is_no_shorter_than_its_budget(name: str) -> None:
    budget = 500
    make = lambda: EDetector("loss", average_run_length=budget)  # noqa: E731
    assert mean_run_length(make, NOISES[name], 3 * budget, runs=24) >= budget


@pytest.mark.slow
@pytest.mark.parametrize("budget", [2000, 20_000])
@pytest.mark.parametrize("name", NOISES)
def test_so_it_is_for_larger_budgets(name: str, budget: int) -> None:
    make = lambda: EDetector("loss", average_run_length=budget)  # noqa: E731
    assert mean_run_length(make, NOISES[name], 3 * budget, runs=24) >= budget


def test_without_whitening_correlated_noise_breaks_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Whitening, "learn", lambda self, z: None)
    make = lambda: EDetector("loss", average_run_length=1000)  # noqa: E731
    assert mean_run_length(make, NOISES["AR(.6)"], 3000, runs=12) < 500


@pytest.mark.parametrize("name", ["AR(.6)", "AR(.9)", "AR(.5, .3)"])
def test_residuals_are_white_and_their_noise_is_1(name: str) -> None:
    values = NOISES[name](np.random.default_rng(0), 6000)
    whitening = Whitening(512)
    residuals = []
    for z in (values / values.std()).tolist():
        residuals.append(whitening.residual(z))
        whitening.learn(z)
    settled = np.array(residuals[1000:])
    assert settled.std() == pytest.approx(1, abs=0.1)
    for lag in (1, 2, 3):
        assert np.corrcoef(settled[lag:], settled[:-lag])[0, 1] == pytest.approx(0, abs=0.08)


@pytest.mark.parametrize("noises", [3.0, 8.0, 1e6])
def test_what_is_far_out_is_found_in_a_few_measurements_from_the_first_of_them(noises: float) -> None:
    losses = [loss + noises * NOISE * (tick >= 1500) for tick, loss in enumerate(healthy(1520, seed=5))]
    found = next(reading for reading in feed(EDetector("loss"), losses) if reading.bad)
    assert 1503 <= found.tick <= 1512
    assert found.onset == pytest.approx(1500, abs=2)


def test_a_larger_budget_takes_a_little_longer() -> None:
    losses = [loss + 4 * NOISE * (tick >= 1500) for tick, loss in enumerate(healthy(1600, seed=5))]
    found = [
        next(
            reading.tick
            for reading in feed(EDetector("loss", average_run_length=budget), losses)
            if reading.bad
        )
        for budget in (1e3, 1e6, 1e12)
    ]
    assert 1500 <= found[0] <= found[1] <= found[2] <= 1520
    assert found[0] < found[2]


def test_no_evidence_is_too_much_and_it_ends_soon() -> None:
    losses = [loss + 1e90 * (1000 <= tick < 1400) for tick, loss in enumerate(healthy(2000, seed=5))]
    readings = feed(EDetector("loss", average_run_length=1e60), losses)
    assert any(reading.bad for reading in readings[1000:1400])
    assert not any(reading.bad for reading in readings[-50:])
