"""The ledger against a count of the whole history."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from midcourse.policies.budget import Ledger
from midcourse.policies.model import Budget

budgets = st.builds(Budget, acts=st.integers(1, 4), per=st.integers(1, 30), max=st.none() | st.integers(1, 8))


@given(budgets, st.lists(st.integers(0, 5), max_size=60))
def test_no_window_holds_more_than_its_acts(budget: Budget, gaps: list[int]) -> None:
    ledger, charged, tick = Ledger(budget), [], 0
    for gap in gaps:
        tick += gap
        window = [past for past in charged if tick - past < budget.per]
        full = len(window) >= budget.acts or (budget.max is not None and len(charged) >= budget.max)
        assert ledger.spent(tick) == full
        if not full and tick not in charged:
            ledger.charge(tick)
            ledger.charge(tick)
            charged.append(tick)
        state = json.loads(json.dumps(ledger.state_dict()))
        ledger = Ledger(budget)
        ledger.load_state_dict(state)


def test_going_back_in_time_frees_nothing() -> None:
    ledger = Ledger(Budget(acts=2, per=10))
    for tick in (50, 60):
        ledger.charge(tick)
    ledger.charge(50)
    assert not ledger.spent(60)
    ledger.charge(55)
    assert ledger.spent(52)
    assert ledger.spent(64)
    assert not ledger.spent(65)


def test_it_tells_itself_in_words() -> None:
    assert str(Ledger(Budget(acts=3, per=5000, max=10))) == "3 acts in 5000 ticks, 10 in all"
    assert str(Ledger(Budget(acts=1, per=100))) == "1 act in 100 ticks"
