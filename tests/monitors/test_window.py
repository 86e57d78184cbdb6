"""Rolling quantiles are those of numpy, at every value, whatever the size of the window."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from midcourse.monitors.window import SortedWindow

FINITE = st.floats(-1e6, 1e6)


@given(st.lists(st.tuples(FINITE, st.integers(1, 12)), min_size=1, max_size=60))
def test_quantiles_are_those_of_the_newest_values(pushes: list[tuple[float, int]]) -> None:
    window = SortedWindow()
    kept: list[float] = []
    for value, size in pushes:
        window.push(value, size)
        kept = [*kept, value][-size:]
        assert window.values() == kept
        assert len(window) == len(kept)
        assert window.quartiles() == pytest.approx(np.quantile(kept, [0.25, 0.5, 0.75]), abs=1e-6)
        assert window.median() == pytest.approx(np.median(kept), abs=1e-6)
        assert SortedWindow(window.values()).quartiles() == window.quartiles()
