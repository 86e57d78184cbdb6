"""Which rules need not be looked at while nothing is bad."""

from __future__ import annotations

import pytest
from engine_kit import expression

from midcourse.policies.lanes import only_while_bad


@pytest.mark.parametrize(
    "condition",
    [
        "a.bad",
        "a.alarm or b.nonfinite",
        "a.bad and b.level > 3",
        "a.level > 3 and (b.bad or c.bad) and not c.bad",
        "any(source.bad)",
        "all(source.bad and source.score > 3)",
    ],
)
def test_a_condition_that_wants_something_bad_holds_only_then(condition: str) -> None:
    assert only_while_bad(expression(condition))


@pytest.mark.parametrize(
    "condition",
    [
        "a.level > 3",
        "a.bad or b.level > 3",
        "not a.bad",
        "not (a.bad and b.bad)",
        "a.warning",
        "a.stale or a.error",
        "count(source.bad) == 0",
        "any(source.score > 3)",
    ],
)
def test_other_conditions_may_hold_at_any_time(condition: str) -> None:
    assert not only_while_bad(expression(condition))


def test_this_counts_as_the_monitor_that_it_stands_for() -> None:
    assert only_while_bad(expression("this.bad and count(source.score > 8) == 1", foreach="source"))
    assert not only_while_bad(expression("this.score > 8", foreach="source"))
