"""The conformance suite: what every law must do under a regulator, checked by doing it.

    import pytest
    from midcourse.policies.regulators.conformance import yield_checks

    @pytest.mark.parametrize("check", yield_checks(make), ids=lambda check: check.__name__)
    def test_my_law(check):
        check(make)

where ``make()`` gives a new ``Regulator`` that has not been started, on the signal ``loss/source=*``, or
``loss`` where its law gives a factor on ``lr``. Each check raises ``AssertionError`` with what is wrong. All
streams are seeded. (The same idea as the suite for monitors.)
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from math import inf, nan
from random import Random

from .law import Numbers
from .regulator import Regulator

SOURCES = ("code", "docs", "tables")
OWN = {"code": 0.5, "docs": 0.3, "tables": 0.2}

Make = Callable[[], Regulator]
Check = Callable[[Make], None]
Signals = dict[str, float]


def yield_checks(make: Make) -> Iterator[Check]:
    """All checks that apply to what ``make`` makes; call each with ``make``."""
    yield check_starts_from_the_users_own
    yield check_is_deterministic
    yield check_keeps_its_cadence
    yield check_keeps_its_bounds_whatever_is_measured
    yield check_nonfinite_is_as_if_it_were_missing
    yield check_nothing_measured_changes_nothing
    yield check_state_survives_json_at_every_point
    yield check_state_stays_as_it_was_taken
    yield check_memory_is_bounded
    if make().sets_shares:
        yield check_a_source_that_is_missing_keeps_others_going
        yield check_sources_may_come_and_go


def losses(ticks: int, seed: int) -> list[Signals]:
    """Losses that fall, of three sources at different heights, with noise; one is not always measured."""
    random = Random(seed)
    told = []
    for tick in range(ticks):
        level = 1.0 + 3.0 * (tick + 5.0) ** -0.5
        signals = {"loss": level + random.gauss(0.0, 0.1)}
        for height, name in enumerate(SOURCES, start=1):
            if name != "tables" or random.random() < 0.3:
                signals[f"loss/source={name}"] = level * height / 2 + random.gauss(0.0, 0.1)
        told.append(signals)
    return told


def wild(ticks: int, seed: int) -> list[Signals]:
    """Whatever a float can be, and gaps."""
    random = Random(seed)
    values = (nan, inf, -inf, 1e308, -1e308, 1e299, -1e299, 0.0, -1.0, 1e-300, 5.0, 2.0, 0.001)
    names = ("loss", *(f"loss/source={name}" for name in SOURCES))
    return [{name: random.choice(values) for name in names if random.random() < 0.7} for _ in range(ticks)]


def started(make: Make, own: Numbers = OWN) -> Regulator:
    """A new one, at work on a mixture of these shares."""
    regulator = make()
    regulator.start(own)
    return regulator


def drive(regulator: Regulator, stream: Sequence[Signals]) -> list[dict[str, float]]:
    """Give it one tick after another; returns what it gave after each."""
    course = []
    for signals in stream:
        regulator.take(signals)
        course.append(dict(regulator.values))
    return course


def check_starts_from_the_users_own(make: Make) -> None:
    """Before its first update it wants what the user's own values are, as far as its bounds allow."""
    regulator = started(make)
    spec = regulator.spec
    own: Numbers = OWN if regulator.sets_shares else {"": 1.0}
    if all(spec.floor <= value <= spec.ceiling for value in own.values()):
        apart = max(abs(value - own[name]) for name, value in regulator.values.items())
        assert apart <= 1e-12, f"it begins with {regulator.values}, not {own}"
    assert not regulator.ordered(), "it orders something before anything was measured"


def check_is_deterministic(make: Make) -> None:
    """The same signals give the same course."""
    first, second = (drive(started(make), losses(400, seed=1)) for _ in range(2))
    assert first == second, "two regulators took the same signals differently"


def check_keeps_its_cadence(make: Make) -> None:
    """Nothing changes but at every so many ticks."""
    regulator = started(make)
    course = [dict(regulator.values), *drive(regulator, losses(400, seed=2))]
    every = regulator.spec.every
    changed = [tick for tick in range(1, 401) if course[tick] != course[tick - 1]]
    assert changed, "it never changes anything"
    assert all(tick % every == 0 for tick in changed), f"it changed at {changed}, not every {every} ticks"


def check_keeps_its_bounds_whatever_is_measured(make: Make) -> None:
    """Floor, ceiling and the rate of what is put in force hold always, and shares sum to 1."""
    regulator = started(make)
    spec, held = regulator.spec, dict(regulator.values)
    for signals in (*losses(300, seed=3), *wild(600, seed=4), *losses(300, seed=5)):
        news, values = regulator.take(signals), dict(regulator.values)
        for name, value in values.items():
            assert spec.floor - 1e-9 <= value <= spec.ceiling + 1e-9, f"{name} is {value}"
            moved = abs(value - held[name])
            assert moved <= spec.rate + 1e-9, f"{name} moved by {moved} in one update"
        if regulator.sets_shares:
            assert abs(sum(values.values()) - 1.0) <= 1e-9, f"the shares sum to {sum(values.values())}"
        held = values if news else held


def check_nonfinite_is_as_if_it_were_missing(make: Make) -> None:
    """NaN, infinities and what would overflow never reach the state."""
    dirty, clean = started(make), started(make)
    stream = losses(300, seed=6)
    bad = (nan, inf, -inf, 1e308)
    for tick, signals in enumerate(stream):
        hit = dict.fromkeys(list(signals)[: tick % 4], bad[tick % 4]) if tick % 3 == 0 else {}
        dirty.take({**signals, **hit})
        clean.take({name: value for name, value in signals.items() if name not in hit})
        assert _json(dirty) == _json(clean), f"at tick {tick} it differs after {hit}"


def check_nothing_measured_changes_nothing(make: Make) -> None:
    """Without a measurement there is no update, however long; the first one that comes then is taken."""
    regulator = started(make)
    every = regulator.spec.every
    drive(regulator, losses(5 * every, seed=7))
    before, law = dict(regulator.values), regulator.state_dict()["law"]
    drive(regulator, [{"other": 1.0}] * 3 * every)
    assert regulator.values == before, "it moved though nothing was measured"
    assert regulator.state_dict()["law"] == law, "it learnt from nothing"
    regulator.take(losses(1, seed=7)[0])
    assert regulator.state_dict()["ticks"] == 0, "it does not take the measurement for which it was waiting"


def check_state_survives_json_at_every_point(make: Make) -> None:
    """One made anew from the JSON of its state before every tick goes the same way as one left alone."""
    alone, carried = started(make), started(make)
    for tick, signals in enumerate([*losses(200, seed=8), *wild(100, seed=9), *losses(100, seed=10)]):
        state = _json(carried)
        carried = started(make)
        carried.load_state_dict(json.loads(state))
        assert _json(carried) == state, f"its state changed by being loaded, at tick {tick}"
        assert alone.take(signals) == carried.take(signals), f"they differ at tick {tick}"
        assert alone.values == carried.values, f"{alone.values} and {carried.values} at tick {tick}"


def check_state_stays_as_it_was_taken(make: Make) -> None:
    """A state is a snapshot: neither its regulator nor one that loads it changes it by going on."""
    regulator, other = started(make), started(make)
    drive(regulator, losses(110, seed=11))
    state = regulator.state_dict()
    taken = json.dumps(state)
    other.load_state_dict(state)
    for each in (regulator, other):
        drive(each, losses(110, seed=12))
        assert json.dumps(state) == taken, "its state changed after it was taken"


def check_memory_is_bounded(make: Make) -> None:
    """Its state does not grow with the length of the run."""
    regulator = started(make)
    drive(regulator, losses(1000, seed=13))
    before = len(_json(regulator))
    drive(regulator, losses(4000, seed=14))
    after = len(_json(regulator))
    assert after <= 1.1 * before + 200, f"its state grew from {before} to {after} bytes in 4000 ticks"


def check_a_source_that_is_missing_keeps_others_going(make: Make) -> None:
    """A source of which nothing is measured, for a while or for good, is no reason to fail or to rest."""
    regulator = started(make)
    stream = losses(300, seed=15)
    without = [
        {name: value for name, value in signals.items() if not name.endswith("code")} for signals in stream
    ]
    for part in (without, stream, without):
        before = dict(regulator.values)
        drive(regulator, part)
        assert regulator.values.keys() == OWN.keys(), f"its sources are {regulator.values}"
        assert regulator.values != before, "it rests, though two sources are measured"


def check_sources_may_come_and_go(make: Make) -> None:
    """With another mixture it goes on: who is known keeps about its share, and bounds hold at once."""
    regulator = started(make)
    drive(regulator, losses(200, seed=16))
    spec = regulator.spec
    for own in ({"code": 0.5, "docs": 0.5}, OWN):
        regulator.start(own)
        drive(regulator, losses(200, seed=17))
        assert regulator.values.keys() == own.keys(), f"its sources are {regulator.values}"
        assert abs(sum(regulator.values.values()) - 1.0) <= 1e-9, f"{regulator.values} do not sum to 1"
        kept = all(spec.floor - 1e-9 <= share <= spec.ceiling + 1e-9 for share in regulator.values.values())
        assert kept, f"{regulator.values} are out of bounds"


def _json(regulator: Regulator) -> str:
    return json.dumps(regulator.state_dict(), allow_nan=False)
