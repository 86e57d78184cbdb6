"""Keyed permutations: bijective at every size, even, and the same for ever."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from midcourse.controller.permutation import key_of, permute, subkeys


@given(size=st.integers(1, 700), key=st.integers(0, 2**64 - 1))
def test_permutes_every_size(size: int, key: int) -> None:
    images = permute(np.arange(size), size, subkeys(key, np.array([0])))
    assert sorted(images) == list(range(size))


@given(size=st.integers(1, 2**40), key=st.integers(0, 2**64 - 1), data=st.data())
def test_stays_in_range_and_apart_in_huge_domains(size: int, key: int, data: st.DataObject) -> None:
    chosen = data.draw(st.sets(st.integers(0, size - 1), min_size=1, max_size=20))
    images = permute(np.array(sorted(chosen)), size, subkeys(key, np.array([3])))
    assert len(set(images.tolist())) == len(chosen)
    assert images.min() >= 0
    assert images.max() < size


@pytest.mark.parametrize("size", [2, 3, 5, 7, 17, 100])
def test_each_image_is_equally_likely(size: int) -> None:
    trials = 400 * size
    images = permute(np.full(trials, size // 2), size, subkeys(9, np.arange(trials)))
    counts = np.bincount(images, minlength=size)
    chi_square = float(((counts - 400) ** 2 / 400).sum())
    assert chi_square < size + 5 * np.sqrt(2 * size)


def test_is_the_same_on_every_machine() -> None:
    assert key_of(0, "code") == 7691430277682003752
    assert permute(np.arange(6), 6, subkeys(key_of(0, "code"), np.array([1]))).tolist() == [0, 2, 1, 4, 5, 3]
