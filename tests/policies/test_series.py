"""Written series: Prometheus' notation, its mistakes, and noise that depends on nothing else."""

from __future__ import annotations

import math
from statistics import fmean, pstdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from midcourse.policies.document import Node, Place, read_document
from midcourse.policies.series import MAX_VALUES, Series, Written, noisy
from midcourse.policies.shapes import Invalid


def node(text: str) -> Node:
    faults: list[object] = []
    tree = read_document(f'loss: "{text}"', faults)  # type: ignore[arg-type]
    assert tree is not None
    assert not faults
    assert tree.entries is not None
    return tree.entries["loss"].node


def read(text: str) -> Series:
    return Written().read(node(text), "loss")


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("2 3 4", [2, 3, 4]),
        ("2x3", [2, 2, 2, 2]),
        ("1+0.5x3", [1, 1.5, 2, 2.5]),
        ("4-1x2", [4, 3, 2]),
        ("-2+1x2 7", [-2, -1, 0, 7]),
        ("1 _x3 _ stale 2", [1, None, None, None, None, None, 2]),
        ("1e-3 1e-3+1e-3x1 .5", [1e-3, 1e-3, 2e-3, 0.5]),
        ("inf -inf Inf", [math.inf, -math.inf, math.inf]),
        ("infx1", [math.inf, math.inf]),
    ],
)
def test_the_notation(text: str, values: list[float | None]) -> None:
    assert read(text) == values


def test_nan_is_a_measurement() -> None:
    first, second, third = read("nanx1 NaN")
    assert all(value is not None and math.isnan(value) for value in (first, second, third))


@pytest.mark.parametrize(
    ("text", "column", "words"),
    [
        ("2x300 9y40", 14, "'9y40' is no part of a series"),
        ("1+0.5", 8, "'1+0.5' is no part of a series"),
        ("2 three 4", 10, "'three' is no part of a series"),
        ("2 1x999999", 10, "more than 1000000 values"),
        ("", 7, "must be a series such as '2x300 9x40', got ''"),
    ],
)
def test_a_mistake_is_told_at_the_word(text: str, column: int, words: str) -> None:
    with pytest.raises(Invalid) as caught:
        read(text)
    [fault] = caught.value.faults
    assert fault.place == Place(1, column)
    assert words in fault.message


def test_a_series_has_an_end() -> None:
    assert len(read(f"1x{MAX_VALUES - 1}")) == MAX_VALUES


NUMBER = st.floats(-1e6, 1e6).map(lambda value: round(value, 6) + 0.0)


@given(st.lists(st.one_of(st.none(), NUMBER), min_size=1))
def test_what_is_written_value_by_value_is_read_as_it_was(values: list[float | None]) -> None:
    assert read(" ".join("_" if value is None else repr(value) for value in values)) == values


@given(NUMBER, st.integers(0, 50), st.lists(NUMBER, max_size=3))
def test_a_repeated_value_is_that_many_values_more(value: float, times: int, others: list[float]) -> None:
    text = " ".join([f"{value!r}x{times}", *map(repr, others)])
    assert read(text) == [value] * (times + 1) + others


def test_noise_is_relative_and_each_signal_has_its_own() -> None:
    series: dict[str, Series] = {"loss": [2.0] * 5000, "other": [200.0] * 5000, "quiet": [1.0, math.nan]}
    made = noisy(series, {"loss": 0.1, "other": 0.1, "quiet": 0.0}, seed=0)
    loss = [value for value in made["loss"] if value is not None]
    other = [value / 100 for value in made["other"] if value is not None]
    assert fmean(loss) == pytest.approx(2, abs=0.02)
    assert pstdev(loss) == pytest.approx(0.2, rel=0.05)
    assert pstdev(other) == pytest.approx(0.2, rel=0.05)
    assert loss[:10] != other[:10]
    assert made["quiet"] is series["quiet"]


def test_noise_changes_with_the_seed_and_with_nothing_else() -> None:
    def loss(values: Series, seed: int = 0, **others: Series) -> Series:
        series = {"loss": values, **others}
        return noisy(series, dict.fromkeys(series, 0.1), seed)["loss"]

    assert loss([2.0] * 9) == loss([2.0] * 9, other=[1.0] * 9)
    assert loss([2.0] * 9) != loss([2.0] * 9, seed=1)
    assert loss([2.0, None, 2.0])[2] == loss([2.0, 2.0, 2.0])[2]
    assert loss([math.inf, math.nan])[0] == math.inf
