"""What each monitor says of signals made for it: what it finds, what it leaves alone, and when it began."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from math import inf, nan
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from midcourse.monitors.baseline import Baseline
from midcourse.monitors.conformance import NOISE, feed, healthy
from midcourse.monitors.divergence import Divergence
from midcourse.monitors.frozen import Frozen
from midcourse.monitors.guard import Guard
from midcourse.monitors.jump import Jump
from midcourse.monitors.onset import on_ramp
from midcourse.monitors.registry import MONITORS, make_monitor
from midcourse.monitors.shift import Shift
from midcourse.monitors.spike import Spike
from midcourse.monitors.sustained_rise import SustainedRise
from midcourse.monitors.too_good import TooGood
from midcourse.monitors.types import Health, MonitorSpec, ParameterError, Reading, Sample

ON_LOSSES = [
    kind for kind in MONITORS if kind not in ("guard", "baseline", "frozen", "stuck", "scarce", "overshoot")
]


def monitor(kind: str, **params: Any) -> Any:
    needed = {"horizon": 4000} if kind == "forecast" else {}
    return MONITORS[kind](**{"signal": "loss", **needed, **params})


def alarms(readings: Sequence[Reading]) -> list[int]:
    return [reading.tick for reading in readings if reading.health is Health.ALARM]


def guarded(*steps: dict[str, float]) -> list[Reading]:
    guard = Guard(zeros=3)
    return [guard.update(Sample(tick, tick, 0, signals)) for tick, signals in enumerate(steps)]


def test_guard_says_which_signal_is_not_finite_and_since_when() -> None:
    readings = guarded({"loss": 2.0}, {"loss": 2.0, "grad_norm": inf}, {"loss": nan}, {"loss": 2.0})
    assert [reading.health for reading in readings] == [
        *(Health.OK, Health.NONFINITE, Health.NONFINITE, Health.OK),
    ]
    assert [reading.reason for reading in readings] == ["", "grad_norm is inf", "loss is nan", ""]
    assert [reading.onset for reading in readings] == [None, 1, 1, None]


def test_guard_warns_of_gradients_that_stay_exactly_zero() -> None:
    zero = {"loss": 2.0, "grad_norm": 0.0}
    readings = guarded(zero, zero, {"grad_norm": 0.1}, zero, {"loss": 2.0}, zero, zero, {"grad_norm": 1.0})
    assert [reading.health.value for reading in readings] == [*["ok"] * 6, "warning", "ok"]
    assert readings[6].onset == 3
    assert not readings[6].bad


def test_guard_keeps_its_reading_when_none_of_its_signals_is_measured() -> None:
    readings = guarded({"loss": nan}, {"lr": 0.1})
    assert readings[1] is readings[0]


def test_a_lone_bad_batch_is_a_spike_and_no_more() -> None:
    losses = healthy(1200, seed=0)
    losses[1000] += 30 * NOISE
    assert alarms(feed(Spike("loss"), losses)) == [1000]
    for kind in set(ON_LOSSES) - {"spike", "jump"}:
        assert alarms(feed(monitor(kind), losses)) == [], kind


@pytest.mark.parametrize("kind", ["sustained_rise", "e_detector"])
def test_no_onset_is_dated_before_a_gap(kind: str) -> None:
    """A source that was left out, and is bad when it comes back, was not bad all the while."""
    losses: list[float | None] = [*healthy(600, seed=3)]
    losses[400:560] = [None] * 160
    losses[560:] = [loss + 3 * NOISE for loss in healthy(40, seed=4)]
    bad = [reading for reading in feed(monitor(kind), losses) if reading.bad]
    assert bad
    assert min(reading.onset or 0 for reading in bad) >= 560


def test_two_of_three_far_out_are_a_divergence_from_the_first_of_them() -> None:
    losses = healthy(1200, seed=0)
    losses[1000] += 30 * NOISE
    losses[1002] += 30 * NOISE
    readings = feed(Divergence("loss"), losses)
    assert alarms(readings)[0] == 1002
    assert readings[1002].onset == 1000
    assert alarms(readings)[-1] < 1010


def test_a_rise_in_a_young_run_is_found_though_the_loss_has_just_fallen_fast() -> None:
    for at in (200, 300, 500):
        losses = healthy(at + 50, seed=at)
        rising = [loss + 8 * NOISE * (tick >= at) for tick, loss in enumerate(losses)]
        found = alarms(feed(SustainedRise("loss"), rising))
        assert found[0] - at <= 12, at


@pytest.mark.parametrize(
    "kind", ["sustained_rise", "divergence", "e_detector", "adwin", "page_hinkley", "too_good"]
)
@pytest.mark.parametrize("fall", [0.5, 30.0])
def test_the_end_of_a_fall_is_no_rise(kind: str, fall: float) -> None:
    noise = np.random.default_rng(0).normal(0, NOISE, 3000)
    losses = [2 + fall * max(0.0, 1 - tick / 1500) + noise[tick] for tick in range(3000)]
    assert alarms(feed(monitor(kind), losses)) == []


@pytest.mark.parametrize("kind", ON_LOSSES)
@pytest.mark.parametrize("level", [0.0, 2.0, -3.0])
def test_a_signal_that_does_not_move_is_no_alarm_and_its_rounding_neither(kind: str, level: float) -> None:
    still = [level + abs(level) * 1e-5 * (tick % 7 == 0) for tick in range(1500)]
    assert alarms(feed(monitor(kind), still)) == []


@pytest.mark.parametrize("kind", ON_LOSSES)
def test_the_evidence_of_before_a_gap_does_not_count_after_it(kind: str) -> None:
    detector = monitor(kind)
    noises, delay = detector.step_noises, detector.step_delay
    losses = healthy(1500 + delay, seed=1)
    feed(detector, [loss + noises * NOISE * (tick >= 1500) for tick, loss in enumerate(losses)])
    assert detector.update(Sample(9999, 9999, 0, {})).health is Health.STALE
    back = feed(detector, healthy(3000, seed=2)[2500:], start=10_000)
    assert alarms(back) == []


def test_a_gradient_norm_is_judged_by_ratio_whatever_its_unit() -> None:
    norms = np.exp(np.random.default_rng(0).normal(0, 0.3, 600))
    norms[500:] *= 6
    small, large = (feed(SustainedRise("grad_norm"), (norms * unit).tolist()) for unit in (1e-3, 1e3))
    assert alarms(small) == alarms(large)
    assert 500 <= alarms(small)[0] <= 505
    assert small[499].level == pytest.approx(1e-3, rel=0.1)
    assert small[499].noise == pytest.approx(3e-4, rel=0.2)
    assert large[499].score == pytest.approx(small[499].score)


def test_the_user_decides_whether_a_signal_is_taken_in_log() -> None:
    values = np.exp(np.random.default_rng(0).normal(0, 1.0, 400)).tolist()
    raw, logged = (feed(Baseline("aux", log=log), values)[-1] for log in (False, True))
    assert raw.level == pytest.approx(logged.level, rel=0.05)
    assert raw.score != pytest.approx(logged.score, rel=0.05)


@pytest.mark.parametrize("kind", ["sustained_rise", "divergence", "spike", "baseline", "too_good"])
def test_zero_and_below_have_a_place_in_log(kind: str) -> None:
    norms = [*np.exp(np.random.default_rng(0).normal(0, 0.3, 400)).tolist(), 0.0, -1.0, 0.0, 1.0, 1.0]
    readings = feed(monitor(kind, signal="update_ratio"), norms)
    assert {reading.health for reading in readings[-5:]} == {Health.OK}


def test_an_onset_is_the_tick_of_a_measurement_also_where_many_are_missing() -> None:
    rise = SustainedRise("loss/source=code")
    onset = None
    for tick in range(0, 4500, 3):
        loss = 2 + 0.01 * (tick % 7) + (tick >= 3000)
        onset = onset or rise.update(Sample(tick, tick, 0, {"loss/source=code": loss})).onset
        rise.update(Sample(tick + 1, tick + 1, 0, {"loss": 9.0}))
    assert onset == pytest.approx(3000, abs=15)
    assert onset is not None
    assert onset % 3 == 0


def test_a_slow_ramp_is_dated_far_back_and_a_step_no_worse() -> None:
    late: dict[tuple[float, int], list[int]] = {(2.0, 400): [], (3.0, 1): []}
    for (noises, ramp), seen in late.items():
        for seed in range(12):
            shares = [min(1.0, max(0, tick - 1500 + 1) / ramp) for tick in range(2100)]
            losses = [
                loss + noises * NOISE * share for loss, share in zip(healthy(2100, seed), shares, strict=True)
            ]
            alarm = next(reading for reading in feed(SustainedRise("loss"), losses) if reading.bad)
            seen.append((alarm.onset or 0) - 1500)
    assert abs(np.median(late[2.0, 400])) <= 90  # the sum alone: 132
    assert abs(np.median(late[3.0, 1])) <= 5
    assert max(late[3.0, 1]) <= 2


@given(st.lists(st.floats(-4, 4), max_size=60), st.floats(-100, 100), st.floats(0.1, 100))
def test_a_ramp_is_where_least_squares_put_it_in_any_unit(
    values: list[float], level: float, unit: float
) -> None:
    found = on_ramp(values, len(values))
    count = len(values)
    assert 0 <= found <= max(0, count - 16)

    def gain(length: int) -> float:
        heights = np.maximum(0, np.arange(count) - (count - length) + 1.0)
        centred = heights - heights.mean()
        product = float(centred @ np.array(values))
        return product * max(0.0, product) / float(centred @ centred)

    best = max((gain(length) for length in range(1, count - 15)), default=0.0)
    assert (gain(found) if found else 0.0) == pytest.approx(best, abs=1e-6)
    assert on_ramp([0.0] * 30 + [unit * (1 + n) for n in range(9)], 20) == 9
    assert on_ramp([level + unit * (n >= 30) * (n - 29) for n in range(39)], 20) == 9
    assert on_ramp(values, 3) <= 3


def test_a_shift_is_found_on_either_side_and_its_onset_is_that_of_its_own_side() -> None:
    norms = np.exp(np.random.default_rng(0).normal(0, 0.1, 900))
    norms[400:450] *= 1.6
    norms[700:] *= 0.5
    readings = feed(Shift("grad_norm"), norms.tolist())
    first_up, first_down = alarms(readings)[0], next(tick for tick in alarms(readings) if tick >= 600)
    assert (first_up, readings[first_up].onset) == (403, 400)
    assert (first_down, readings[first_down].onset) == (702, 700)


@pytest.mark.parametrize("seed", range(5))
def test_only_a_fall_beyond_the_trend_is_too_good(seed: int) -> None:
    losses = np.asarray(healthy(2000, seed))
    assert alarms(feed(TooGood("loss"), losses.tolist())) == []
    rising = np.where(np.arange(2000) >= 1500, losses + 1, losses)
    assert alarms(feed(TooGood("loss"), rising.tolist())) == []
    stuck = losses - np.clip((np.arange(2000) - 1500) * 0.03, 0, 1)
    found = feed(TooGood("loss"), stuck.tolist())
    assert 1500 <= alarms(found)[0] <= 1525
    assert found[alarms(found)[0]].onset == pytest.approx(1500, abs=12)


@pytest.mark.parametrize("length", [100, 400])
def test_the_end_of_a_rise_is_not_too_good(length: int) -> None:
    losses = [loss + 2 * min(1.0, max(0, t - 1500) / length) for t, loss in enumerate(healthy(2500, 3))]
    assert alarms(feed(TooGood("loss"), losses)) == []


def test_the_end_of_a_burst_of_bad_batches_is_not_too_good() -> None:
    losses = [loss + 4 * NOISE * (1500 <= tick < 1550) for tick, loss in enumerate(healthy(2000, 3))]
    assert alarms(feed(TooGood("loss"), losses)) == []


def test_a_parameter_norm_jumps_in_one_measurement_and_may_grow_steadily() -> None:
    norms = 50 * np.exp(2e-3 * np.arange(1200)) * (1 + 1e-4 * np.random.default_rng(0).normal(size=1200))
    assert alarms(feed(Jump("param_norm"), norms.tolist())) == []
    for factor in (0.1, 5.0):
        hit = np.where(np.arange(1200) >= 1000, factor * norms, norms)
        readings = feed(Jump("param_norm"), hit.tolist())
        assert (alarms(readings)[0], readings[1000].onset) == (1000, 1000)
        assert alarms(readings)[-1] < 1180


def test_where_it_is_measured_seldom_a_jump_may_have_come_right_after_the_last_time() -> None:
    norms = 50 * (1 + 1e-4 * np.random.default_rng(0).normal(size=1200))
    norms[1003:] *= 3
    seldom = [norm if tick % 10 == 0 and not 950 < tick < 1000 else None for tick, norm in enumerate(norms)]
    readings = feed(Jump("param_norm"), seldom)
    assert (alarms(readings)[0], readings[1010].onset) == (1010, 1001)
    seldom[1000] = None
    readings = feed(Jump("param_norm"), seldom)
    assert (alarms(readings)[0], readings[1010].onset) == (1010, 951)


def test_updates_of_exactly_zero_are_frozen_if_more_than_one_follows_another() -> None:
    ratios: list[float | None] = [0.0] * 19 + [0.1, 0.0, None, 0.2, 0.0, None, 0.0, 0.0, 0.1]
    readings = feed(Frozen(), ratios)
    assert alarms(readings) == [25, 26]
    assert readings[26].onset == 23
    assert alarms(feed(Frozen(), [0.0] * 25)) == [*range(19, 25)]


@pytest.mark.parametrize(
    ("kind", "params", "parameter"),
    [
        ("guard", {"signals": "loss"}, "signals"),
        ("guard", {"signals": ()}, "signals"),
        ("guard", {"zeros": 0}, "zeros"),
        ("spike", {"signal": "loss/source=*"}, "signal"),
        ("spike", {"threshold": 0}, "threshold"),
        ("divergence", {"threshold": nan}, "threshold"),
        ("divergence", {"stale_after": 0}, "stale_after"),
        ("sustained_rise", {"window": 32}, "window"),
        ("sustained_rise", {"warm_up": 2}, "warm_up"),
        ("sustained_rise", {"slack": -1}, "slack"),
        ("sustained_rise", {"clip": 0.2}, "clip"),
        ("sustained_rise", {"threshold": 3}, "clip"),
        ("stalled", {"block": 2}, "block"),
        ("stalled", {"blocks": 2}, "blocks"),
        ("too_good", {"clip": 30}, "clip"),
        ("shift", {"slack": 7}, "clip"),
        ("jump", {"threshold": 3}, "threshold"),
        ("e_detector", {"average_run_length": 10}, "average_run_length"),
        ("frozen", {"zeros": 0}, "zeros"),
        ("frozen", {"zeros_at_start": nan}, "zeros_at_start"),
        ("adwin", {"delta": 1}, "delta"),
        ("adwin", {"rise": -1}, "rise"),
        ("page_hinkley", {"threshold": -1}, "threshold"),
        ("baseline", {"window": 0}, "window"),
        ("outliers", {"threshold": 0}, "threshold"),
        ("outliers", {"times": 0}, "times"),
        ("outliers", {"times": 5}, "of"),
        ("outliers", {"signal": "loss/source=*"}, "signal"),
        ("stuck", {"times": 0}, "times"),
        ("stuck", {"warm_up": -1}, "warm_up"),
        ("scarce", {"threshold": 0}, "threshold"),
        ("scarce", {"clip": 20}, "clip"),
    ],
)
def test_a_parameter_out_of_range_is_named(kind: str, params: dict[str, Any], parameter: str) -> None:
    given = params if kind == "guard" else {"signal": "loss", **params}
    with pytest.raises(ParameterError, match=parameter) as caught:
        make_monitor(MonitorSpec("it", kind, given))
    assert caught.value.parameter == parameter


def test_river_is_loaded_only_by_the_monitors_that_use_it() -> None:
    script = (
        "import sys\n"
        "from midcourse.monitors.registry import MONITORS\n"
        "MONITORS['stalled'](signal='loss')\n"
        "assert 'river' not in sys.modules\n"
        "MONITORS['adwin'](signal='loss')\n"
        "assert 'river' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "sign"),
    [
        *(("sustained_rise", 1), ("e_detector", 1), ("adwin", 1), ("page_hinkley", 1), ("stalled", 1)),
        *(("shift", 1), ("shift", -1), ("too_good", -1)),
    ],
)
def test_an_onset_is_seldom_later_than_the_declared_lateness(kind: str, sign: int) -> None:
    steps = [(1.5, 1), (3.0, 1), (6.0, 1), (15.0, 1)]
    slow = [(2.0, 50), (2.0, 100), (2.0, 400), (4.0, 200), (8.0, 400)]
    shapes = [*steps, *slow, (4.0, 50), (8.0, 100), (16.0, 100)]
    late = []
    for seed in range(20):
        for noises, ramp in shapes:
            detector, at = monitor(kind), 1500 + 11 * seed
            losses = healthy(at + 900, seed)
            losses = [
                loss + sign * noises * NOISE * min(1.0, max(0, tick - at + 1) / ramp)
                for tick, loss in enumerate(losses)
            ]
            found = [reading for reading in feed(detector, losses) if reading.bad and reading.tick >= at]
            late += [(found[0].onset or 0) - at] if found else []
    assert len(late) > 100
    assert np.quantile(late, 0.9) <= monitor(kind).lateness
