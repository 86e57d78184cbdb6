"""What every test shares: one thread, no network, no state left over from the test before."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest
from hypothesis import settings

# Before torch is loaded anywhere: the models are tiny and the test workers share the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# The same examples every time: a red test stays red, and a slow machine is no failure.
settings.register_profile("midcourse", deadline=None, derandomize=True)
settings.load_profile("midcourse")


@pytest.fixture(autouse=True)
def fresh_accelerate() -> Iterator[None]:
    """Accelerate keeps its state in singletons: forget them after each test that made any."""
    yield
    if "accelerate" in sys.modules:
        from accelerate.state import AcceleratorState, GradientState, PartialState

        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
        PartialState._reset_state()
