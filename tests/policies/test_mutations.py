"""Spoiled policy files by the thousand: each is refused in words and with a place, or it works."""

from __future__ import annotations

from collections import Counter

import pytest
from mutations import judge_many


@pytest.mark.parametrize(
    "numbers", [range(200), pytest.param(range(200, 2200), marks=pytest.mark.slow)], ids=str
)
def test_no_spoiled_policy_breaks_a_promise(numbers: range) -> None:
    results = judge_many(0, numbers)
    assert [(result.number, result.broken) for result in results if result.broken] == []
    outcomes = Counter((result.kind, result.accepted) for result in results)
    assert len(outcomes) >= (
        11 if len(numbers) < 1000 else 14
    )  # each kind of spoiling has files of both fates
