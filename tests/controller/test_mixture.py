"""The mixture's stream: a pure function of seed, position and weight history."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from midcourse.controller.mixture import BLOCK, Mixture

SIZES = {"code": 40, "docs": 7, "tables": 1000}
WEIGHTS = {"code": 5.0, "docs": 1.0, "tables": 2.0}

weights = st.fixed_dictionaries(
    {name: st.sampled_from([0.0, 0.003, 0.5, 1.0, 7.0]) for name in SIZES}
).filter(lambda chosen: any(chosen.values()))
changes = st.lists(st.tuples(st.integers(0, 3 * BLOCK), weights), max_size=5).map(
    lambda listed: sorted(listed, key=lambda change: change[0])
)


def build(seed: int = 0, history: list[tuple[int, dict[str, float]]] | None = None) -> Mixture:
    mixture = Mixture({name: range(size) for name, size in SIZES.items()}, WEIGHTS, seed=seed)  # type: ignore[misc]
    for at, new in history or []:
        mixture.set_weights(new, at)
    return mixture


def drawn(mixture: Mixture, start: int, stop: int) -> list[tuple[int, int]]:
    return list(zip(*(ids.tolist() for ids in mixture.draw(start, stop)), strict=True))


@settings(max_examples=40, deadline=None)
@given(history=changes, start=st.integers(0, 4 * BLOCK), length=st.integers(0, 200))
def test_seeking_equals_walking(history: list[tuple[int, dict[str, float]]], start: int, length: int) -> None:
    walked = drawn(build(history=history), 0, start + length)[start:]
    assert drawn(build(history=history), start, start + length) == walked


@settings(max_examples=40, deadline=None)
@given(history=changes, abandoned=changes, cut=st.integers(0, 3 * BLOCK), later=changes)
def test_truncated_and_continued_equals_fresh(
    history: list[tuple[int, dict[str, float]]],
    abandoned: list[tuple[int, dict[str, float]]],
    cut: int,
    later: list[tuple[int, dict[str, float]]],
) -> None:
    past = [change for change in history if change[0] <= cut]
    future = [change for change in later if change[0] > cut]
    mixture = build(history=past + [change for change in abandoned if change[0] > cut])
    mixture.truncate(cut)
    for at, new in future:
        mixture.set_weights(new, at)
    fresh = build(history=past + future)
    assert mixture.history == fresh.history
    assert drawn(mixture, 0, 4 * BLOCK) == drawn(fresh, 0, 4 * BLOCK)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(-(2**70), 2**70), history=changes)
def test_every_example_comes_once_in_each_epoch_of_its_source(
    seed: int, history: list[tuple[int, dict[str, float]]]
) -> None:
    stream = drawn(build(seed, history), 0, 4 * BLOCK)
    for source, size in enumerate(SIZES.values()):
        examples = [example for drawn_from, example in stream if drawn_from == source]
        rounds = [examples[first : first + size] for first in range(0, len(examples) - size + 1, size)]
        assert all(sorted(one) == list(range(size)) for one in rounds)
        assert len(rounds) < 3 or len({tuple(one) for one in rounds[:20]}) > 1, "each epoch has its own order"


@settings(max_examples=30, deadline=None)
@given(history=changes)
def test_weight_zero_is_never_drawn_and_others_follow_their_weight(
    history: list[tuple[int, dict[str, float]]],
) -> None:
    mixture = build(history=history)
    bounds = [at for at, _ in mixture.history] + [10 * BLOCK]
    for (start, now), stop in zip(mixture.history, bounds[1:], strict=True):
        sources, _ = mixture.draw(start, stop)
        counts = Counter(sources.tolist())
        total = sum(now.values())
        for source, name in enumerate(SIZES):
            if now[name] == 0:
                assert counts[source] == 0
            else:  # rounded once a block, drawn at random only in the last, partial one
                expected = (stop - start) * now[name] / total
                assert abs(counts[source] - expected) < 2 * (stop - start) / BLOCK + 400


def test_frequencies_within_a_block_are_even() -> None:
    sources, _ = build().draw(0, BLOCK)
    windows = sources[: BLOCK // 64 * 64].reshape(-1, 64)
    share = (windows == 0).mean(axis=1)
    assert share.mean() == pytest.approx(5 / 8, abs=1e-3)
    as_if_random = np.sqrt(5 / 8 * 3 / 8 / 64)
    assert share.std() == pytest.approx(as_if_random, rel=0.15)


def test_far_positions_are_sought_at_once() -> None:
    assert len(drawn(build(), 10**15, 10**15 + 3)) == 3


def test_seeds_give_different_streams() -> None:
    assert drawn(build(0), 0, 50) != drawn(build(1), 0, 50)


def test_stream_is_the_same_on_every_machine() -> None:
    assert drawn(build(), 0, 6) == [(1, 5), (1, 0), (1, 2), (0, 18), (0, 10), (1, 3)]


@settings(max_examples=20, deadline=None)
@given(history=changes)
def test_state_round_trips_through_json(history: list[tuple[int, dict[str, float]]]) -> None:
    mixture = build(history=history)
    copy = build(history=[(5, {"code": 9.0})])
    copy.load_state_dict(json.loads(json.dumps(mixture.state_dict())))
    assert copy.history == mixture.history
    assert drawn(copy, 0, 4 * BLOCK) == drawn(mixture, 0, 4 * BLOCK)


def test_state_of_other_data_is_refused() -> None:
    state = build(seed=1).state_dict()
    with pytest.raises(ValueError, match="seed"):
        build(seed=2).load_state_dict(state)
    with pytest.raises(ValueError, match="sizes"):
        Mixture({"code": [1]}, seed=1).load_state_dict(state)  # type: ignore[dict-item]


def test_partial_weights_keep_the_others() -> None:
    mixture = build()
    mixture.set_weights({"docs": 0}, at=10)
    assert mixture.weights_at(9) == WEIGHTS
    assert mixture.weights_at(10) == {**WEIGHTS, "docs": 0.0}
    assert mixture.base_weights == WEIGHTS


def test_setting_the_same_weights_changes_nothing() -> None:
    mixture = build()
    mixture.set_weights(WEIGHTS, at=10)
    assert mixture.history == ((0, WEIGHTS),)


def test_weights_default_to_the_sizes() -> None:
    mixture = Mixture({"a": [1, 2, 3], "b": [4]})  # type: ignore[dict-item]
    assert mixture.base_weights == {"a": 3.0, "b": 1.0}
    assert mixture.epoch_size == 4


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"code": -1.0}, "finite and >= 0"),
        ({"code": float("nan")}, "finite and >= 0"),
        ({"code": 0, "docs": 0, "tables": 0}, "all weights are 0"),
        ({"cod": 1.0}, "no source named cod; the sources are code, docs, tables"),
    ],
)
def test_weights_that_cannot_be_are_errors(bad: dict[str, float], message: str) -> None:
    mixture = build()
    with pytest.raises(ValueError, match=message):
        mixture.set_weights(bad, at=10)
    assert mixture.history == ((0, WEIGHTS),)


def test_weights_cannot_be_set_in_the_past() -> None:
    mixture = build(history=[(100, {"code": 1.0})])
    with pytest.raises(ValueError, match="truncate first"):
        mixture.set_weights({"code": 2.0}, at=99)


@pytest.mark.parametrize("sources", [{}, {"a": []}])
def test_nothing_to_draw_from_is_an_error(sources: dict[str, list[int]]) -> None:
    with pytest.raises(ValueError, match="source"):
        Mixture(sources)  # type: ignore[arg-type]
