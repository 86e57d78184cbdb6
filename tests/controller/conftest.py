"""What the tests of several processes share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from two_ranks import Ranks


@pytest.fixture(scope="session")
def ranks() -> Iterator[Ranks]:
    """Two processes for all tests of a worker: to start them takes longer than any test."""
    pair = Ranks()
    yield pair
    pair.stop()
