"""Which arm is kept: the one that is clearly better than nothing, and nothing where none is."""

from __future__ import annotations

import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from midcourse.policies.trials import BATCHES, LEAST_STEPS, MARGIN, NOTHING, THRESHOLD, choose, compare

VALUES = st.floats(-1e6, 1e6)
SERIES = st.lists(VALUES, min_size=LEAST_STEPS, max_size=100)


def noisy(seed: int, steps: int = 60, level: float = 2.0, memory: float = 0.0) -> list[float]:
    """A judge around a level, with noise of 0.1 that remembers this much of the step before."""
    random, values, last = Random(seed), [], 0.0
    for _ in range(steps):
        last = memory * last + math.sqrt(1 - memory**2) * random.gauss(0, 0.1)
        values.append(level + last)
    return values


@given(SERIES)
def test_what_changes_nothing_is_not_better(series: list[float]) -> None:
    compared = compare(series, series)
    assert (compared.difference, compared.t, compared.better) == (0.0, 0.0, False)
    assert choose({NOTHING: series, "twin": series, "other-twin": series}) == NOTHING


@given(st.integers(0, 10**6), st.floats(-1, 1), st.integers(-5, 5), st.floats(-3, 3))
def test_units_and_origin_of_the_judge_do_not_matter(
    seed: int, gain: float, power: int, shift: float
) -> None:
    nothing, arm = noisy(seed), [value + gain for value in noisy(seed + 1)]
    plain = compare(nothing, arm)
    other = compare(*([10.0**power * (value + shift) for value in series] for series in (nothing, arm)))
    assert other.t == pytest.approx(plain.t, rel=1e-3)
    assert other.noises == pytest.approx(plain.noises, rel=1e-3)
    assert other.difference == pytest.approx(10.0**power * plain.difference, rel=1e-3)


@given(st.integers(0, 10**6), st.floats(0.5, 5), st.floats(0, 0.9))
def test_a_great_gain_is_seen_through_the_noise_and_a_great_loss_never_kept(
    seed: int, gain: float, memory: float
) -> None:
    nothing, arm = noisy(seed, memory=memory), noisy(seed + 1, memory=memory)
    assert choose({NOTHING: nothing, "arm": [value - 2 * gain for value in arm]}) == "arm"
    assert choose({NOTHING: nothing, "arm": [value + 2 * gain for value in arm]}) == NOTHING


@given(st.permutations(["a", "b", "c"]), st.integers(0, 10**6))
def test_the_best_of_those_that_are_better_wins_in_whatever_order(order: list[str], seed: int) -> None:
    gains = {"a": 1.0, "b": 3.0, "c": -1.0}
    arms = {name: [value - gains[name] for value in noisy(seed)] for name in order}
    assert choose({NOTHING: noisy(seed), **arms}) == "b"


@given(SERIES, st.lists(VALUES, min_size=0, max_size=50))
def test_only_the_second_half_counts(series: list[float], other: list[float]) -> None:
    half = len(series) // 2
    changed = (other + series)[-len(series) :] if len(other) > half else series
    changed = [*changed[:half], *series[half:]]
    assert compare(changed, series).difference == 0.0


@given(SERIES, st.sampled_from([math.nan, math.inf, -math.inf]), st.data())
def test_an_arm_that_comes_to_no_number_loses(series: list[float], odd: float, data: st.DataObject) -> None:
    arm: list[float | None] = [value - 1e7 for value in series]
    arm[data.draw(st.integers(len(series) // 2, len(series) - 1))] = odd
    assert not compare(series, arm).better
    assert choose({NOTHING: series, "arm": arm, "unmeasured": [None] * len(series)}) == NOTHING


def test_where_nothing_comes_to_no_number_any_sound_arm_is_better() -> None:
    lost = [2.0] * 40 + [math.nan] * 20
    assert (
        choose({NOTHING: lost, "also-lost": lost, "sound": noisy(0), "better": noisy(1, level=1.0)})
        == "better"
    )


def test_where_nothing_was_measured_nothing_is_changed() -> None:
    unmeasured = [None] * 60
    assert choose({NOTHING: unmeasured, "arm": unmeasured}) == NOTHING
    assert choose({NOTHING: unmeasured, "arm": noisy(0)}) == NOTHING


@pytest.mark.parametrize("every", [1, 2, 3, 4])
def test_steps_that_were_not_measured_are_left_out(every: int) -> None:
    sparse = [[v if step % every == 0 else None for step, v in enumerate(noisy(0))] for _ in range(2)]
    arm = [None if value is None else value - 1.0 for value in sparse[1]]
    compared = compare(sparse[0], arm)
    assert compared.pairs == sum(step % every == 0 for step in range(30, 60))
    assert compared.better == (compared.pairs >= BATCHES)


def test_a_gain_that_the_noise_hides_is_no_reason_to_leave_the_course() -> None:
    # As of a lower learning rate in a healthy run: surely there, and small.
    compared = compare(noisy(0), [value - 0.05 for value in noisy(0)])
    assert compared.t < -THRESHOLD
    assert compared.noises > -MARGIN
    assert not compared.better


@pytest.mark.parametrize(("memory", "most", "wrong"), [(0.0, 20, 0), (0.5, 40, 2), (0.8, 100, 50)])
def test_noise_that_lasts_is_hardly_taken_for_evidence(memory: float, most: int, wrong: int) -> None:
    """Of 1000 arms that change nothing: how many are beyond -3 standard errors, and how many are kept."""
    beyond = of_single_steps = kept = 0
    for seed in range(0, 2000, 2):
        nothing, arm = (noisy(seed + part, memory=memory) for part in (0, 1))
        compared = compare(nothing, arm)
        differences = [a - b for a, b in zip(arm[30:], nothing[30:], strict=True)]
        spread = math.sqrt(sum((d - compared.difference) ** 2 for d in differences) / 29 / 30)
        beyond += compared.t <= -THRESHOLD
        of_single_steps += compared.difference / spread <= -THRESHOLD
        kept += compared.better
    assert beyond <= most
    assert of_single_steps > beyond or not memory
    assert kept <= wrong
