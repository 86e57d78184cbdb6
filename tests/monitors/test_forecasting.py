"""The forecaster: its features and fit against plain computations, and what it rests on when."""

from __future__ import annotations

from itertools import chain, combinations

import numpy as np
import pytest

from midcourse.monitors.forecasting.course import Course, Floats, course
from midcourse.monitors.forecasting.curve import fit_curve, nonnegative
from midcourse.monitors.forecasting.forecast import forecast
from midcourse.monitors.forecasting.history import MOST, History
from midcourse.monitors.forecasting.intervals import Method
from midcourse.monitors.forecasting.references import Reference
from midcourse.monitors.forecasting.schedules import make_schedule
from midcourse.monitors.types import ParameterError

HORIZON = 4000.0
STEPS = np.arange(100.0, HORIZON + 1, 100.0)
TRAPEZOID = make_schedule([[0, 1], [0.6, 1], [1, 0]])


def rates(steps: Floats) -> Floats:
    return TRAPEZOID(steps / HORIZON)


def loss(scale: float = 1.0, noise: float = 0.0, seed: int = 0) -> Floats:
    """What the curve itself says of the trapezoid."""
    features = Course(STEPS, rates(STEPS), HORIZON).features(STEPS)
    assert features.eta is not None
    clean = 2.5 + 0.8 * (features.s1 / 1000) ** -0.6 + 0.2 * features.eta
    made: Floats = scale * (clean + noise * np.random.default_rng(seed).standard_normal(len(STEPS)))
    return made


def test_features_are_the_integral_of_the_rate_and_its_moving_average() -> None:
    features = Course(STEPS, rates(STEPS), HORIZON).features(STEPS)
    fine = np.arange(HORIZON)
    eta, average = 1.0, []
    for rate in rates(fine):
        average.append(eta := eta + (rate - eta) / (0.02 * HORIZON))
    assert features.eta is not None
    np.testing.assert_allclose(features.s1, np.cumsum(rates(fine))[STEPS.astype(int) - 1], rtol=0.01)
    np.testing.assert_allclose(features.eta, np.array(average)[STEPS.astype(int) - 1], atol=0.01)


@pytest.mark.parametrize("columns", [2, 3])
def test_least_squares_without_negatives_is_the_best_of_all_subsets(columns: int) -> None:
    random = np.random.default_rng(columns)
    x = random.standard_normal((50, 20, columns)) + 0.5
    y = random.standard_normal((50, 20))
    gram, moment = np.einsum("bnk,bnl->bkl", x, x), np.einsum("bnk,bn->bk", x, y)
    found = nonnegative(gram, moment)
    assert (found >= 0).all()
    for a, b, own in zip(x, y, found, strict=True):
        subsets = chain.from_iterable(combinations(range(columns), size) for size in range(1, columns + 1))
        least = float(b @ b)
        for subset in map(list, subsets):
            part = np.linalg.lstsq(a[:, subset], b, rcond=None)[0]
            if (part >= 0).all():
                least = min(least, float(np.square(a[:, subset] @ part - b).sum()))
        assert float(np.square(a @ own - b).sum()) == pytest.approx(least)


def test_outliers_hardly_move_the_fit() -> None:
    features = Course(STEPS, rates(STEPS), HORIZON).features(STEPS)
    clean = fit_curve(loss(noise=0.003), features)
    wild = loss(noise=0.003)
    wild[[7, 19, 30]] += 2.0
    np.testing.assert_allclose(fit_curve(wild, features).at(features), clean.at(features), rtol=0.01)


def test_a_known_schedule_foretells_the_drop_of_its_decay() -> None:
    seen, values = slice(0, 22), loss(noise=0.002)
    told = forecast(STEPS[seen], values[seen], horizon=HORIZON, rates=rates(STEPS[seen]), future=rates)
    blind = forecast(STEPS[seen], values[seen], horizon=HORIZON)
    assert told.method is Method.SCHEDULE
    assert blind.method is Method.POWER_LAW
    assert told.low <= values[-1] <= told.high
    assert abs(told.final - values[-1]) < 0.5 * abs(blind.final - values[-1])
    assert blind.high - blind.low > told.high - told.low


def test_the_future_is_a_function_or_its_values() -> None:
    seen, values = slice(0, 20), loss(noise=0.002)
    known = {"horizon": HORIZON, "rates": rates(STEPS[seen])}
    by_function = forecast(STEPS[seen], values[seen], future=rates, **known)  # type: ignore[arg-type]
    by_values = forecast(STEPS[seen], values[seen], future=rates(np.arange(2001.0, 4001.0)), **known)  # type: ignore[arg-type]
    assert by_values.final == pytest.approx(by_function.final, rel=1e-3)


def test_a_rate_without_a_future_or_of_zero_is_no_schedule() -> None:
    assert course(STEPS[:9], rates(STEPS[:9]), HORIZON, None).rates is None
    assert course(STEPS[:9], np.zeros(9), HORIZON, np.zeros_like).rates is None
    assert course(STEPS, rates(STEPS), HORIZON, None).rates is not None


def test_two_finished_runs_of_the_schedule_tell_the_end_and_others_are_left_out() -> None:
    seen, values = slice(0, 12), loss(1.1, 0.002, seed=1)
    known = {"horizon": HORIZON, "rates": rates(STEPS[seen]), "future": rates}
    alike = [Reference(STEPS, loss(scale, 0.002, seed=2), rates(STEPS)) for scale in (1.0, 0.9)]
    told = forecast(STEPS[seen], values[seen], references=alike, **known)  # type: ignore[arg-type]
    assert told.method is Method.REFERENCES
    assert told.final == pytest.approx(values[-1], rel=0.005)
    assert told.low <= values[-1] <= told.high
    others = [
        Reference(STEPS, loss(), np.ones_like(STEPS)),
        Reference(3 * STEPS, loss(), rates(STEPS)),
        Reference(STEPS, loss()),
        alike[0],
    ]
    assert forecast(STEPS[seen], values[seen], references=others, **known).method is Method.SCHEDULE  # type: ignore[arg-type]


def test_an_interval_scales_with_the_signal_and_narrows() -> None:
    widths = []
    for seen in (10, 20, 30):
        known = {"horizon": HORIZON, "rates": rates(STEPS[:seen]), "future": rates}
        one, ten = (forecast(STEPS[:seen], loss(k, 0.002)[:seen], **known) for k in (1, 10))  # type: ignore[arg-type]
        assert ten.high - ten.low == pytest.approx(10 * (one.high - one.low))
        widths.append(one.high - one.low)
    assert widths == sorted(widths, reverse=True)


def test_a_positive_signal_has_no_negative_bound() -> None:
    values = 5 * (STEPS[:10] / 100) ** -0.8
    assert forecast(STEPS[:10], values, horizon=HORIZON).low >= 0


@pytest.mark.parametrize("values", [np.zeros(30), np.full(30, -3.0), np.full(30, 1e99), np.arange(30.0)])
def test_what_does_not_fall_is_forecast_without_a_crash(values: Floats) -> None:
    told = forecast(STEPS[:30], values, horizon=HORIZON, rates=rates(STEPS[:30]), future=rates)
    assert np.isfinite([told.final, told.low, told.high]).all()


def test_too_few_values_or_arrays_that_differ_are_an_error() -> None:
    for steps, values in ((STEPS[:4], loss()[:4]), (STEPS[:9], loss()[:8])):
        with pytest.raises(ValueError, match="needs 5 values"):
            forecast(steps, values, horizon=HORIZON)


def test_history_keeps_means_of_blocks_in_constant_memory() -> None:
    history = History()
    for step in range(10_000):
        history.add(step, 2.0 * step, 0.1 if step > 50 else float("nan"))
    steps, values, known = history.arrays()
    assert MOST / 2 <= len(steps) < MOST
    np.testing.assert_allclose(values, 2 * steps)
    np.testing.assert_allclose(np.diff(steps), history.size)
    assert known is not None
    np.testing.assert_allclose(known, 0.1)  # before the first, as the first
    again = History()
    again.load_state_dict(history.state_dict())
    assert again.state_dict() == history.state_dict()


@pytest.mark.parametrize(
    "written", ["cosin", [[0, 1], [0, 0]], [[0, 1], [2, 0]], [[0, -1], [1, 1]], [[0, 0]], [1, 2], [], 3]
)
def test_a_schedule_that_cannot_be_is_refused(written: object) -> None:
    with pytest.raises(ParameterError, match="schedule"):
        make_schedule(written)  # type: ignore[arg-type]


def test_schedules_by_name() -> None:
    shares = np.array([0.0, 0.5, 1.0])
    wanted = {"constant": [1, 1, 1], "linear": [1, 0.5, 0], "cosine": [1, 0.5, 0]}
    for name, at in wanted.items():
        np.testing.assert_allclose(make_schedule(name)(shares), at, atol=1e-12)
