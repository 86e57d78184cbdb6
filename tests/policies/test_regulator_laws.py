"""Laws and what holds them: trajectories by hand, shares within bounds, and the conformance suite."""

from __future__ import annotations

from collections.abc import Callable
from math import exp, log, nan, sqrt
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from midcourse.policies.regulators import conformance
from midcourse.policies.regulators.bank import Regulators
from midcourse.policies.regulators.conformance import yield_checks
from midcourse.policies.regulators.law import MIX, Law, Numbers, RegulatorSpec
from midcourse.policies.regulators.registry import LAWS
from midcourse.policies.regulators.regulator import Regulator
from midcourse.policies.regulators.shares import fill

NEEDED: dict[str, dict[str, Any]] = {
    "excess_loss": {"reference": {"code": 0.5, "docs": 0.5, "tables": 2.0}},
    "proportional": {"target": 1.1},
}
"""Keys without which a law is not made."""


def spec(law: str, **changed: Any) -> RegulatorSpec:
    bounds = {"every": 4, "floor": 0.05, "ceiling": 0.7, "rate": 0.1}
    if not LAWS[law].sets_shares:
        bounds |= {"floor": 0.2, "ceiling": 1.5}
    own = {key: value for key, value in changed.items() if key not in bounds}
    bounds |= {key: value for key, value in changed.items() if key in bounds}
    signal, actuator = ("loss/source=*", MIX) if LAWS[law].sets_shares else ("loss", "lr")
    return RegulatorSpec(law, law, signal, actuator, params={**NEEDED.get(law, {}), **own}, **bounds)


def maker(law: str, **changed: Any) -> Callable[[], Regulator]:
    return lambda: Regulator(spec(law, **changed))


MAKERS: dict[str, Callable[[], Regulator]] = {
    **{law: maker(law) for law in LAWS},
    "group_dro, fast": maker("group_dro", step=50.0, smoothing=1.0, rate=1.0, every=1),
    "group_dro, tight": maker("group_dro", floor=0.2, ceiling=0.5, rate=0.01),
    "online_mixing, fast": maker("online_mixing", scale=0.1, rate=1.0),
    "excess_loss, free": maker("excess_loss", floor=0.0, ceiling=1.0, rate=1.0, smoothing=0.0),
    "proportional, fast": maker("proportional", gain=1.9, dead_band=0.0, rate=5.0, ceiling=10.0),
}
CASES = [(name, check) for name, make in MAKERS.items() for check in yield_checks(make)]


@pytest.mark.parametrize(("name", "check"), CASES, ids=[f"{name}-{check.__name__}" for name, check in CASES])
def test_every_law_conforms(name: str, check: conformance.Check) -> None:
    check(MAKERS[name])


class Forgetful(Law):
    """Its state is not in its state."""

    def __init__(self) -> None:
        self._count = 0

    def update(self, measured: Numbers, now: Numbers) -> Numbers:
        self._count += 1
        return {
            name: share * (1 + self._count % 3) ** place for place, (name, share) in enumerate(now.items())
        }


class Blinded(Law):
    """Gives up what was not measured."""

    def update(self, measured: Numbers, now: Numbers) -> Numbers:
        return dict(measured)


@pytest.mark.parametrize(
    ("law", "failing"),
    [
        (Forgetful, conformance.check_state_survives_json_at_every_point),
        (Blinded, conformance.check_a_source_that_is_missing_keeps_others_going),
    ],
)
def test_the_suite_finds_what_is_wrong(law: type[Law], failing: conformance.Check) -> None:
    with pytest.raises((AssertionError, ValueError)):
        failing(lambda: Regulator(spec("group_dro"), law()))


def course(law: Law, now: Numbers, rounds: list[Numbers]) -> list[list[float]]:
    """What a law wants, update by update, where all of it comes true."""
    told = []
    for measured in rounds:
        now = law.update(measured, now)
        told.append([round(value, 6) for value in now.values()])
    return told


def test_group_dro_by_hand() -> None:
    """Step 0.5, smoothing 0.5, from halves.

    Levels 2 and 1: weights e^1 to e^0.5, so 1/(1+e^-0.5). Then 1 and 1 make levels 1.5 and 1: the ratio
    grows by e^0.25, to e^0.75. The third round measures only the first: nothing to compare, nothing moves.
    """
    law = LAWS["group_dro"](step=0.5, smoothing=0.5)
    rounds: list[Numbers] = [{"a": 2.0, "b": 1.0}, {"a": 1.0, "b": 1.0}, {"a": 9.0}]
    first, second = 1 / (1 + exp(-0.5)), 1 / (1 + exp(-0.75))
    assert (round(first, 6), round(second, 6)) == (0.622459, 0.679179)
    assert course(law, {"a": 0.5, "b": 0.5}, rounds) == [
        [0.622459, 0.377541],
        [0.679179, 0.320821],
        [0.679179, 0.320821],
    ]


def test_online_mixing_by_hand() -> None:
    """Two sources, scale 10, losses 4 and 2, from halves; the exponent is the exploration before.

    t=1: R = 0.4/0.5 = 0.8 and 0.4; eps = min(1/2, sqrt(ln 2 / 2) = 0.588705) = 1/2: all is exploring.
    t=2: R = 1.6 and 0.8; eps = sqrt(ln 2 / 4) = 0.416277; softmax with exponent 1/2 * 0.8 = 0.4 is 0.598688;
    (1 - 0.832555) * 0.598688 + 0.416277 = 0.516524.
    t=3: R = 1.6 + 0.4/0.516524 = 2.374408 and 0.8 + 0.2/0.483476 = 1.213672; eps = sqrt(ln 2 / 6) = 0.339889;
    exponent 0.416277 * 1.160736 = 0.483187; softmax 0.618501; 0.320222 * 0.618501 + 0.339889 = 0.537947.
    """
    law = LAWS["online_mixing"]()
    law.start({"a": 0.5, "b": 0.5})
    assert sqrt(log(2) / 6) == pytest.approx(0.339889, abs=1e-6)
    rounds: list[Numbers] = [{"a": 4.0, "b": 2.0}] * 3
    told = course(law, {"a": 0.5, "b": 0.5}, rounds)
    assert [shares[0] for shares in told] == pytest.approx([0.5, 0.516524, 0.537947], abs=2e-6)


def test_excess_loss_by_hand() -> None:
    """Eta 1, smoothing 0.1, from halves. Excess 0.5 and 0, for a loss below its reference counts as none.

    e^0.5 / (1 + e^0.5) = 0.622459, smoothed 0.9 * 0.622459 + 0.05 = 0.610213. Then excess 0 and 1:
    0.610213 / (0.610213 + 0.389787 e) = 0.365449, smoothed 0.378904.
    """
    law = LAWS["excess_loss"](reference={"a": 1.5, "b": 1.0}, step=1.0, smoothing=0.1)
    rounds: list[Numbers] = [{"a": 2.0, "b": 0.2}, {"a": 1.0, "b": 2.0}]
    second = 0.9 * 0.610213 / (0.610213 + 0.389787 * exp(1)) + 0.05
    told = course(law, {"a": 0.5, "b": 0.5}, rounds)
    assert [shares[0] for shares in told] == pytest.approx([0.610213, second], abs=2e-6)
    assert second == pytest.approx(0.378904, abs=1e-6)


def test_proportional_by_hand() -> None:
    """Target 2, gain 0.5: four times too large halves the factor, within a tenth it rests, 0 is no size."""
    law = LAWS["proportional"](target=2.0, gain=0.5, dead_band=0.1)
    rounds: list[Numbers] = [{"": 8.0}, {"": 2.15}, {"": 0.5}, {"": 0.0}, {"": -3.0}]
    assert course(law, {"": 1.0}, rounds) == [[0.5], [0.5], [1.0], [1.0], [1.0]]
    against = LAWS["proportional"](target=2.0, gain=-0.5)
    assert course(against, {"": 1.0}, rounds[:1]) == [[2.0]]


def test_proportional_leaves_its_bound_at_once() -> None:
    regulator = Regulator(spec("proportional", target=1.0, every=1, rate=0.5))
    regulator.start(None)
    for _ in range(50):
        regulator.take({"loss": 100.0})
    assert regulator.values == {"": 0.2}
    regulator.take({"loss": 0.5})
    assert regulator.values[""] == pytest.approx(0.2 * sqrt(2)), "nothing has wound up behind the floor"


bounds = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=6)


@given(bounds)
def test_fill_keeps_bounds_and_sum_and_else_the_proportions(parts: list[tuple[float, float, float]]) -> None:
    names = [str(place) for place in range(len(parts))]
    wanted = {name: part[0] for name, part in zip(names, parts, strict=True)}
    low = {name: min(part[1:]) for name, part in zip(names, parts, strict=True)}
    high = {name: max(part[1:]) for name, part in zip(names, parts, strict=True)}
    if not sum(low.values()) <= 1.0 <= sum(high.values()):
        return
    shares = fill(wanted, low, high)
    assert sum(shares.values()) == pytest.approx(1.0, abs=1e-9)
    assert all(low[name] <= shares[name] <= high[name] for name in names)
    free = [name for name in names if low[name] < shares[name] < high[name] and wanted[name] > 1e-6]
    factors = [shares[name] / wanted[name] for name in free]
    assert factors == pytest.approx(factors[:1] * len(factors), rel=1e-6)


def test_measurements_between_two_updates_are_averaged_and_tiny_moves_are_no_news() -> None:
    regulator = Regulator(spec("group_dro", step=1.0, smoothing=1.0, every=2, ceiling=1.0, rate=1.0))
    regulator.start({"a": 0.5, "b": 0.5})
    assert not regulator.take({"loss/source=a": 3.0, "loss/source=b": 1.0})
    assert regulator.take({"loss/source=a": 1.0, "loss/source=b": nan})
    assert regulator.values["a"] == pytest.approx(1 / (1 + exp(-1.0))), "means are 2 and 1"
    assert regulator.ordered() == {f"weight/{name}": share for name, share in regulator.values.items()}
    held = dict(regulator.values)
    for _ in range(2):
        assert not regulator.take({"loss/source=a": 1.01, "loss/source=b": 1.0})
    assert held != regulator.values
    assert regulator.ordered()["weight/a"] == held["a"]


def test_users_own_shares_out_of_bounds_are_led_in_at_the_first_update() -> None:
    regulator = Regulator(spec("group_dro", every=1))
    regulator.start({"a": 0.98, "b": 0.01, "c": 0.01})
    assert regulator.values == pytest.approx({"a": 0.7, "b": 0.15, "c": 0.15})
    news = regulator.take({f"loss/source={name}": 1.0 for name in "abc"})
    assert news, "what holds are still the user's own"


@pytest.mark.parametrize(
    ("changed", "shares", "message"),
    [
        ({}, None, "not a Mixture"),
        ({"floor": 0.4}, {"a": 0.3, "b": 0.3, "c": 0.4}, "floor 0.4 for 3 sources is 1.2"),
        ({"ceiling": 0.3}, {"a": 0.3, "b": 0.3, "c": 0.4}, "ceiling 0.3 for 3 sources is 0.9"),
    ],
)
def test_what_cannot_be_regulated_is_refused(changed: Any, shares: Any, message: str) -> None:
    regulators = Regulators([spec("group_dro", **changed)])
    [reason] = regulators.start(shares).values()
    assert message in reason
    assert regulators.take({"loss/source=a": 1.0}) == []
    assert regulators.state_dict() == {}


def test_a_reference_must_know_every_source() -> None:
    assert Regulators([spec("excess_loss")]).start({"code": 0.5, "prose": 0.5}) == {
        "excess_loss": "the reference has no loss of prose"
    }


def test_a_law_that_fails_is_switched_off_once_and_what_it_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    regulators = Regulators([spec("group_dro", every=1, rate=1.0), spec("proportional", every=1)])
    regulators.start(conformance.OWN)
    told = [regulators.take(signals) for signals in conformance.losses(5, seed=0)]
    assert {move.regulator for moves in told for move in moves} == {"group_dro", "proportional"}

    def fails(self: Law, measured: Numbers, now: Numbers) -> Numbers:
        raise ZeroDivisionError("of its own making")

    monkeypatch.setattr(LAWS["group_dro"], "update", fails)
    regulators.load_state_dict(regulators.state_dict())
    for signals in conformance.losses(5, seed=1):
        assert "group_dro" not in {move.regulator for move in regulators.take(signals)}
    assert regulators.take_errors() == [
        "regulator group_dro is switched off: ZeroDivisionError: of its own making"
    ]
    assert regulators.take_errors() == []
    assert regulators.start(conformance.OWN) == {}, "a new loader does not bring it back"
    assert list(regulators.state_dict()) == ["proportional"]
