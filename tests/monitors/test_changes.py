"""What is meant to change is no alarm, and what breaks at the same time still is one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from math import cos, pi

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from midcourse.monitors.bank import MonitorBank
from midcourse.monitors.changes import MARK, ChangeWatch, Kind, Way
from midcourse.monitors.types import Health, MonitorSpec, Sample

STACK = {
    "divergence": "loss",
    "spike": "loss",
    "sustained_rise": "loss",
    "too_good": "loss",
    "stalled": "loss",
    "adwin": "loss",
    "page_hinkley": "loss",
    "shift": "grad_norm",
    "jump": "update_ratio",
}
AT = 700


def bank() -> MonitorBank:
    return MonitorBank([MonitorSpec(kind, kind, {"signal": signal}) for kind, signal in STACK.items()])


def course(
    seed: int, n: int = 1100, *, moved: float = 0.0, noisier: float = 1.0, rate: float = 1.0, broken: int = 0
) -> Iterator[dict[str, float]]:
    """Signals of a healthy run in which, from ``AT`` on, the loss is ``moved`` and ``noisier``, the learning
    rate (and with it the update) multiplied; ``broken`` ticks later the loss shoots up besides."""
    rng = np.random.default_rng(seed)
    for tick in range(n):
        on = tick >= AT
        noise = 0.05 * rng.standard_normal() * (noisier if on else 1)
        loss = 2 + 4 * (tick + 20) ** -0.5 + noise + moved * on + 1.5 * (broken > 0 and tick >= AT + broken)
        lr = 1e-3 * (rate if on else 1)
        update = lr * np.exp(0.05 * rng.standard_normal())
        grad = np.exp(0.1 * rng.standard_normal()) * (1 + 2 * moved * on)
        yield {"loss": loss, "lr": lr, "grad_norm": grad, "update_ratio": update}


def alarms(samples: Iterator[dict[str, float]], told: dict[int, dict[str, float]]) -> dict[str, int]:
    """Monitors that alarmed after ``AT``, with the tick of the first time."""
    watching, first = bank(), dict[str, int]()
    for tick, signals in enumerate(samples):
        watching.update(Sample(tick, tick, 0, {**signals, **told.get(tick, {})}))
        for name, readings in watching.readings.items():
            if tick >= AT and readings[""].bad:
                first.setdefault(name, tick)
    assert not watching.take_errors()
    return first


EXPECTED = {AT: {MARK: 1.0}}
MIXED = {300: {MARK: 1.0, "mix/a": 0.5, "mix/b": 0.5}, AT: {MARK: 1.0, "mix/a": 0.1, "mix/b": 0.9}}


@pytest.mark.parametrize("told", [EXPECTED, MIXED], ids=["announced", "mix"])
@pytest.mark.parametrize("moved", [0.8, -0.8])
def test_a_level_that_was_meant_to_move_is_no_alarm(told: dict[int, dict[str, float]], moved: float) -> None:
    seen = [alarms(course(seed, moved=moved), told) for seed in range(6)]
    assert sum(map(len, seen)) <= 1, seen
    assert any(alarms(course(0, moved=moved), {})), "unannounced it is one"


def test_nor_is_one_whose_noise_has_changed_too() -> None:
    seen = [alarms(course(seed, moved=0.8, noisier=3.0), EXPECTED) for seed in range(6)]
    assert sum(map(len, seen)) <= 1, seen


@pytest.mark.parametrize("broken", [5, 20, 60])
def test_what_breaks_right_after_it_is_found(broken: int) -> None:
    for seed in range(6):
        seen = alarms(course(seed, moved=0.8, broken=broken), EXPECTED)
        found = [tick for name, tick in seen.items() if name in ("divergence", "sustained_rise")]
        assert found, f"a loss that shot up {broken} ticks after a change was not seen: {seen}"
        assert min(found) <= AT + broken + 16


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_a_lower_learning_rate_is_no_alarm(rate: float) -> None:
    seen = [alarms(course(seed, rate=rate), {}) for seed in range(6)]
    assert sum(map(len, seen)) <= 1, seen


def test_a_higher_one_is_until_it_is_announced() -> None:
    assert "jump" in alarms(course(1, rate=10.0), {})
    assert "jump" not in alarms(course(1, rate=10.0), {AT: {MARK: 1.0, f"{MARK}/lr": 1.0}})


def test_a_lower_learning_rate_does_not_hide_a_loss_that_rises() -> None:
    for seed in range(6):
        seen = alarms(course(seed, rate=0.5, broken=2), {})
        assert min(seen.get(name, 9999) for name in ("divergence", "sustained_rise")) <= AT + 2 + 8


def test_a_forecast_begins_anew_where_the_loss_is_meant_to_move() -> None:
    def healths(told: dict[int, dict[str, float]]) -> dict[int, Health]:
        spec = MonitorSpec("outcome", "forecast", {"signal": "loss", "horizon": 1500})
        watching = MonitorBank([spec])
        return {
            tick: watching.update(Sample(tick, tick, 0, {**signals, **told.get(tick, {})}))["outcome"][
                ""
            ].health
            for tick, signals in enumerate(course(0, moved=0.8))
        }

    announced, not_announced = healths(EXPECTED), healths({})
    assert announced[AT - 1] is Health.OK
    assert announced[AT] is Health.WARMUP
    assert announced[1099] is Health.OK
    assert Health.ALARM not in announced.values()
    assert Health.ALARM in not_announced.values()


def rates_of(rates: list[float], told: dict[int, set[str]] | None = None) -> list[tuple[int, float]]:
    """The sudden changes, with the product of what slow ones were told in between folded in."""
    watch, found = ChangeWatch(), []
    for tick, rate in enumerate(rates):
        marks = {f"{MARK}/{name}": 1.0 for name in (told or {}).get(tick, ())}
        change = watch.take(Sample(tick, tick, 0, {"lr": rate, **marks, **({MARK: 1.0} if marks else {})}))
        if change is not None and change.rate is not None and not change.slow:
            found.append((tick, change.rate))
    return found


def test_a_warm_restart_is_known_and_what_goes_beyond_it_is_not() -> None:
    cycle = [0.5 * (1 + cos(pi * t / 200)) * 1e-3 for t in range(200)]
    jumps = [tick for tick, factor in rates_of(cycle * 3) if factor > 2]
    assert jumps == [200, 400]
    assert not [tick for tick, factor in rates_of([*cycle, 1.2e-3]) if factor > 1]
    assert rates_of([1e-3] * 50 + [3e-3]) == []
    assert rates_of([1e-3] * 50 + [3e-3], {50: {"lr"}}) == [(50, pytest.approx(3.0))]


def test_a_warm_up_and_a_slow_decay_are_no_changes() -> None:
    warm_up = [1e-3 * (t + 1) / 100 for t in range(100)]
    decay = [1e-3 * 0.5 * (1 + cos(pi * t / 10_000)) for t in range(9000)]
    assert rates_of(warm_up + decay) == []


@given(
    st.lists(
        st.sampled_from([0.0, 1e-6, 1e-4, 1e-3, 1.1e-3, 1e-2, float("nan"), float("inf"), -1.0]), max_size=60
    )
)
def test_any_course_of_the_rate_is_taken_and_multiplies_up(rates: list[float]) -> None:
    watch = ChangeWatch()
    for tick, rate in enumerate(rates):
        change = watch.take(Sample(tick, tick, 0, {"lr": rate}))
        if change is not None and change.rate is not None:
            assert 0 < change.rate < float("inf")
        again = ChangeWatch()
        again.load_state_dict(json.loads(json.dumps(watch.state_dict(), allow_nan=False)))
        assert again.state_dict() == watch.state_dict()


def test_what_a_change_does_to_which_signal() -> None:
    watch = ChangeWatch()
    watch.take(Sample(0, 0, 0, {MARK: 1.0, "mix/a": 1.0, "mix/b": 0.0}))
    mix = watch.take(Sample(1, 1, 0, {MARK: 1.0, "mix/a": 0.5, "mix/b": 0.5}))
    assert mix is not None
    effects = {name: mix.effect_on(name) for name in ("loss", "loss/source=a", "eval/loss", "param_norm")}
    assert {name: effect and effect.kind for name, effect in effects.items()} == {
        "loss": Kind.MOVES,
        "loss/source=a": None,
        "eval/loss": None,
        "param_norm": None,
    }
    small = watch.take(Sample(2, 2, 0, {MARK: 1.0, "mix/a": 0.45, "mix/b": 0.55}))
    assert small is None, "a loss does not move by this"
    told = watch.take(Sample(3, 3, 0, {MARK: 1.0, f"{MARK}/eval": 1.0}))
    assert told is not None
    assert told.effect_on("loss") is None
    assert told.effect_on("eval/loss") is not None
    lower = [watch.take(Sample(t, t, 0, {"lr": 1e-3 if t < 90 else 1e-4})) for t in range(4, 92)][-2]
    assert lower is not None
    loss = lower.effect_on("loss")
    assert loss is not None
    assert (loss.kind, loss.way) == (Kind.TURNS, Way.DOWN)
    update = lower.effect_on("update_ratio")
    assert update is not None
    assert (update.kind, round(update.factor, 3)) == (Kind.SCALES, 0.1)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 120), st.sampled_from([EXPECTED, MIXED, {}]), st.sampled_from([1.0, 0.1]))
def test_a_state_taken_in_the_midst_of_it_goes_on_as_its_source(
    after: int, told: dict[int, dict[str, float]], rate: float
) -> None:
    alone, carried = bank(), bank()
    for tick, signals in enumerate(course(3, AT + 200, moved=0.5, rate=rate)):
        sample = Sample(tick, tick, 0, {**signals, **told.get(tick, {})})
        if tick == AT + after:
            state = json.dumps(alone.state_dict(), allow_nan=False)
            carried.load_state_dict(json.loads(state))
            assert json.dumps(carried.state_dict(), allow_nan=False) == state
        one = alone.update(sample)
        if tick >= AT + after:
            other = carried.update(sample)
            assert {k: r[""].to_json() for k, r in one.items()} == {
                k: r[""].to_json() for k, r in other.items()
            }
