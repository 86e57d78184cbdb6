"""The forecast monitor: what it tells, when it alarms and warns, and what it goes by."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from midcourse.monitors.bank import MonitorBank
from midcourse.monitors.forecast import ForecastMonitor
from midcourse.monitors.plan import FinishedRun, Plan
from midcourse.monitors.types import Health, MonitorSpec, ParameterError, Reading, Sample

HORIZON = 3000


def curve(n: int = HORIZON, noise: float = 0.05, seed: int = 0) -> list[float]:
    """A loss under a linear decay to zero."""
    share = np.arange(n) / HORIZON
    s1 = HORIZON * (share - share**2 / 2)
    values = 2 + 3 * ((s1 + 30) / 100) ** -0.5 + 0.15 * (1 - share)
    made: list[float] = (values + noise * np.random.default_rng(seed).standard_normal(n)).tolist()
    return made


def follow(monitor: ForecastMonitor, values: list[float], peak: float | None = 3e-4) -> list[Reading]:
    """Readings of a loss and its rate, None: the rate is not measured."""
    readings = []
    for tick, value in enumerate(values):
        rate = {} if peak is None else {"lr": peak * (1 - tick / HORIZON)}
        readings.append(monitor.update(Sample(tick, tick, 0, {"loss": value, **rate})))
    return readings


def plain(readings: list[Reading]) -> list[dict[str, Any]]:
    """Readings that can be compared, NaN with NaN too."""
    return [reading.to_json() for reading in readings]


def extra(reading: Reading) -> dict[str, float]:
    assert reading.extra is not None
    return dict(reading.extra)


@pytest.mark.parametrize("peak", [3e-4, 1.0, None])
def test_the_end_lies_in_its_interval_whatever_the_unit_of_the_rate(peak: float | None) -> None:
    monitor = ForecastMonitor("loss", horizon=HORIZON, schedule="linear", every=100)
    end = curve(noise=0.0)[-1]
    readings = follow(monitor, curve(), peak)
    assert not any(reading.bad for reading in readings)
    for tick in (1000, 1500, 2500):
        told = extra(readings[tick])
        assert told.keys() == set(ForecastMonitor.extra)
        assert told["low"] <= end <= told["high"]
        assert told["expected_now"] == readings[tick].level == pytest.approx(curve(noise=0.0)[tick], rel=0.02)


def test_silent_for_a_tenth_of_the_run() -> None:
    readings = follow(ForecastMonitor("loss", horizon=HORIZON), curve(400))
    assert {reading.health for reading in readings[: HORIZON // 10]} == {Health.WARMUP}
    assert all(reading.extra is None for reading in readings[: HORIZON // 10])
    assert readings[HORIZON // 10].health is Health.OK


def test_a_run_that_leaves_its_way_alarms_and_its_forecast_stays_for_a_while() -> None:
    monitor = ForecastMonitor("loss", horizon=HORIZON, schedule="linear", every=50)
    shifted = [value + 0.4 * (tick >= 1500) for tick, value in enumerate(curve())]
    readings = follow(monitor, shifted)
    first = next(reading for reading in readings if reading.bad)
    assert 1500 <= first.tick <= 1520
    assert first.onset is not None
    assert abs(first.onset - 1500) <= monitor.lateness
    assert "was forecast" in first.reason
    assert all(reading.bad for reading in readings[1520:1780]), "it took the shift for its way at once"
    assert not readings[-1].bad, "it alarms for ever"


def test_it_warns_while_even_the_lower_end_is_above_the_target() -> None:
    reach, miss = (
        follow(ForecastMonitor("loss", horizon=HORIZON, schedule="linear", target=target), curve())[2500]
        for target in (2.8, 1.5)
    )
    assert reach.health is Health.OK
    assert miss.health is Health.WARNING
    assert not miss.bad
    assert miss.onset == HORIZON // 10
    assert "above the target 1.5" in miss.reason


def test_fits_are_made_on_the_cadence_only() -> None:
    monitor = ForecastMonitor("loss", horizon=HORIZON, every=400)
    finals = [extra(reading)["final"] for reading in follow(monitor, curve())[HORIZON // 10 :]]
    changes = [index for index in range(1, len(finals)) if finals[index] != finals[index - 1]]
    assert changes == list(range(400, len(finals), 400))


def test_a_rare_measurement_is_enough() -> None:
    monitor = ForecastMonitor("eval/loss", horizon=HORIZON, schedule="linear")
    values = curve(noise=0.005)
    for tick in range(2000):
        evaluated = {"eval/loss": values[tick]} if tick % 50 == 49 else {}
        reading = monitor.update(Sample(tick, tick, 0, {"lr": 1.0 - tick / HORIZON, **evaluated}))
    assert extra(reading)["final"] == pytest.approx(values[-1], rel=0.03)


def test_a_nan_is_told_and_the_forecast_stands() -> None:
    monitor = ForecastMonitor("loss", horizon=HORIZON)
    before = follow(monitor, curve(1000))[-1]
    reading = monitor.update(Sample(1000, 1000, 0, {"loss": float("nan")}))
    assert reading.health is Health.NONFINITE
    assert reading.extra == before.extra


def test_readings_and_facts_carry_what_only_it_tells() -> None:
    bank = MonitorBank([MonitorSpec("outcome", "forecast", {"signal": "loss", "horizon": HORIZON})])
    for tick, value in enumerate(curve(500)):
        reading = bank.update(Sample(tick, tick, 0, {"loss": value}))["outcome"][""]
    assert bank.facts()["outcome"]["final"] == extra(reading)["final"]
    again = MonitorBank([MonitorSpec("outcome", "forecast", {"signal": "loss", "horizon": HORIZON})])
    again.load_state_dict(json.loads(json.dumps(bank.state_dict())))
    assert again.readings["outcome"][""] == reading


LINEAR = ((0.0, 1.0), (1.0, 0.0))


def test_it_warms_up_until_the_run_tells_how_long_it_is_and_then_reads_as_if_it_had_known() -> None:
    told = ForecastMonitor("loss")
    early = follow(told, curve(500))
    assert {reading.health for reading in early} == {Health.WARMUP}
    told.plan(Plan(50))  # too short to say anything of
    assert follow(told, curve(1))[0].health is Health.WARMUP
    told, knew = ForecastMonitor("loss"), ForecastMonitor("loss", horizon=HORIZON, schedule="linear")
    told.plan(Plan(HORIZON, LINEAR))
    assert plain(follow(told, curve(900))) == plain(follow(knew, curve(900)))


def test_its_own_parameters_win_over_the_plan() -> None:
    own = ForecastMonitor("loss", horizon=HORIZON, schedule="linear")
    own.plan(Plan(9000, ((0.0, 1.0), (1.0, 1.0))))
    same = ForecastMonitor("loss", horizon=HORIZON, schedule="linear")
    assert plain(follow(own, curve(900))) == plain(follow(same, curve(900)))


def test_the_bank_tells_the_plan_to_all_and_keeps_it_when_it_is_rewound() -> None:
    def bank() -> MonitorBank:
        source = MonitorSpec("source", "forecast", {"signal": "loss/source=*"})
        return MonitorBank([MonitorSpec("outcome", "forecast", {"signal": "loss"}), source])

    def feed(some: MonitorBank, ticks: range) -> None:
        for tick, value in zip(ticks, curve()[ticks.start : ticks.stop], strict=True):
            rate = 1 - tick / HORIZON
            signals = {"loss": value, "lr": rate} | ({"loss/source=a": value} if tick >= 100 else {})
            some.update(Sample(tick, tick, 0, signals))

    run = bank()
    feed(run, range(50))
    before = json.loads(json.dumps(run.state_dict()))
    run.plan(Plan(HORIZON, LINEAR))
    run.load_state_dict(before)
    feed(run, range(50, 500))
    assert extra(run.readings["outcome"][""])
    assert extra(run.readings["source"]["a"])  # made after the plan was told
    again = bank()
    again.load_state_dict(json.loads(json.dumps(run.state_dict())))
    for each in (run, again):
        feed(each, range(500, 900))
    assert again.readings == run.readings


def test_a_plan_survives_json() -> None:
    finished = FinishedRun("runs/1", "loss", "lr", 900, (1.0, 2.0), (3.0, 2.0), None)
    plan = Plan(900, LINEAR, (finished, FinishedRun("runs/2", "loss", "lr", 9, (1.0,), (3.0,), (0.5,))))
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan
    assert Plan.from_json(json.loads(json.dumps(Plan().to_json()))) == Plan()


def test_rare_measurements_of_a_loss_that_falls_are_no_alarm() -> None:
    monitor = ForecastMonitor("loss", horizon=HORIZON, schedule="linear")
    readings = []
    for tick, value in enumerate(curve(noise=0.002)):
        if tick % 75 == 0:
            readings.append(monitor.update(Sample(tick, tick, 0, {"loss": value, "lr": 1 - tick / HORIZON})))
    assert not any(reading.bad for reading in readings)
    assert readings[-1].extra is not None


def test_a_reading_without_extra_numbers_is_written_as_ever_and_one_with_them_comes_back() -> None:
    assert "extra" not in Reading(Health.OK).to_json()
    told = Reading(Health.OK, 3, 1.0, 1.0, 1.0, None, 1.0, 1.0, "", {"final": 2.0, "low": float("-inf")})
    assert Reading.from_json(json.loads(json.dumps(told.to_json(), allow_nan=False))) == told


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        *(("horizon", 10), ("every", 0), ("threshold", 0)),
        *(
            ("lr", "lr/*"),
            ("target", float("nan")),
            ("schedule", "x"),
            ("references", "runs/1"),
            ("references", (1,)),
        ),
    ],
)
def test_parameters_out_of_range_are_refused_by_name(parameter: str, value: Any) -> None:
    with pytest.raises(ParameterError, match=parameter) as caught:
        ForecastMonitor(**{"signal": "loss", "horizon": HORIZON, parameter: value})
    assert caught.value.parameter == parameter
