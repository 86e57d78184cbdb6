"""The bank: all readings of a sample, instances of a star, monitors that fail, and state that travels."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import inf, isfinite, nan
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from midcourse.monitors.bank import MAX_INSTANCES, MonitorBank
from midcourse.monitors.registry import MONITORS
from midcourse.monitors.types import Health, MonitorSpec, ParameterError, Reading, Sample

GUARD = MonitorSpec("guard", "guard")
RISE = MonitorSpec("rise", "sustained_rise", {"signal": "loss", "warm_up": 8, "window": 16})
SOURCE = MonitorSpec("source", "sustained_rise", {"signal": "loss/source=*", "warm_up": 8, "window": 16})


class Panic(BaseException):
    """As pyo3 raises it: not an Exception."""


class Brittle:
    """Breaks at tick 3."""

    signals = ("loss",)
    before_step = False
    lateness = 0
    error: BaseException = Panic("index out of bounds")

    def update(self, sample: Sample) -> Reading:
        if sample.tick == 3:
            raise self.error
        return Reading(Health.OK, sample.tick)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        pass


@pytest.fixture
def brittle(monkeypatch: pytest.MonkeyPatch) -> MonitorSpec:
    monkeypatch.setitem(MONITORS, "brittle", Brittle)
    return MonitorSpec("brittle", "brittle")


def sample(tick: int, **signals: float) -> Sample:
    return Sample(tick, tick, 0, signals)


def plain(bank: MonitorBank) -> dict[str, dict[str, Any]]:
    return {
        name: {instance: reading.to_json() for instance, reading in instances.items()}
        for name, instances in bank.readings.items()
    }


def carried(bank: MonitorBank, specs: list[MonitorSpec], baselines: list[str]) -> MonitorBank:
    """A bank made anew from the JSON of another's state."""
    other = MonitorBank(specs, baselines)
    other.load_state_dict(json.loads(json.dumps(bank.state_dict(), allow_nan=False)))
    return other


def test_monitors_that_judge_before_the_step_are_updated_there_and_only_once() -> None:
    bank = MonitorBank([GUARD, RISE])
    early = bank.judge_step(sample(0, grad_norm=0.0))
    assert set(early) == {"guard"}
    assert bank.readings["rise"][""].tick == -1
    bank.update(sample(0, grad_norm=0.0, loss=nan))
    assert bank.readings["guard"][""].health is Health.OK  # what came after the step is not its business
    assert bank.readings["rise"][""].health is Health.NONFINITE
    bank.update(sample(1, loss=nan))  # as in a replay, which may not tell the two apart
    assert bank.readings["guard"][""].health is Health.NONFINITE


def test_a_baseline_reads_under_the_name_of_its_signal_and_its_facts_are_finite() -> None:
    bank = MonitorBank([GUARD, SOURCE], baselines=["eval/loss"])
    assert bank.facts() == {}
    for tick in range(40):
        bank.update(sample(tick, **{"eval/loss": 2.0 + tick % 3, "loss/source=code": 1.0, "loss": 1.0}))
    facts = bank.facts()
    assert facts["eval/loss"]["level"] == 3.0
    assert "level" in facts["source[code]"]
    assert all(isfinite(number) for numbers in facts.values() for number in numbers.values())


def test_a_star_makes_one_instance_for_each_name_in_the_order_of_their_coming() -> None:
    bank = MonitorBank([SOURCE])
    assert bank.readings == {"source": {}}
    bank.update(sample(0, **{"loss/source=b": 1.0, "loss/source=": 1.0, "loss": 1.0}))
    bank.update(sample(1, **{"loss/source=c": nan, "loss/source=a": 2.0}))
    assert list(bank.readings["source"]) == ["b", "c", "a"]
    assert [reading.health for reading in bank.readings["source"].values()] == [
        Health.WARMUP,
        Health.NONFINITE,
        Health.WARMUP,
    ]


def test_a_star_makes_no_more_than_so_many_instances_and_says_so_once() -> None:
    bank = MonitorBank([SOURCE])
    for tick in range(MAX_INSTANCES + 50):
        bank.update(sample(tick, **{f"loss/source={tick}": 1.0}))
    assert len(bank.readings["source"]) == MAX_INSTANCES
    assert len(bank.take_errors()) == 1
    assert bank.take_errors() == []


def test_names_without_end_do_not_fill_the_memory() -> None:
    bank = MonitorBank([SOURCE])
    for tick in range(100):
        bank.update(Sample(tick, tick, 0, {f"aux/{tick}/{index}": 1.0 for index in range(100)}))
    assert len(bank._seen) < 5000


def test_a_monitor_that_raises_is_out_of_service_and_the_others_go_on(brittle: MonitorSpec) -> None:
    bank = MonitorBank([brittle, RISE])
    for tick in range(10):
        bank.update(sample(tick, loss=1.0))
    broken = bank.readings["brittle"][""]
    assert broken.health is Health.ERROR
    assert broken.reason == "Panic: index out of bounds"
    assert bank.readings["rise"][""].tick == 9
    assert len(bank.take_errors()) == 1
    again = carried(bank, [brittle, RISE], [])
    assert again.readings["brittle"][""].to_json() == broken.to_json()
    assert again.take_errors() == []


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1)])
def test_the_user_can_still_interrupt(brittle: MonitorSpec, error: BaseException, monkeypatch: Any) -> None:
    monkeypatch.setattr(Brittle, "error", error)
    with pytest.raises(type(error)):
        MonitorBank([brittle]).update(sample(3, loss=1.0))


def test_loading_drops_instances_that_the_state_lacks_and_makes_those_that_it_has() -> None:
    bank = MonitorBank([SOURCE])
    bank.update(sample(0, **{"loss/source=a": 1.0}))
    early = bank.state_dict()
    bank.update(sample(1, **{"loss/source=b": 1.0}))
    late = bank.state_dict()
    bank.load_state_dict(early)
    assert list(bank.readings["source"]) == ["a"]
    bank.update(sample(2, **{"loss/source=b": 1.0}))  # seen before, but on a branch that was left
    assert list(bank.readings["source"]) == ["a", "b"]
    bank.load_state_dict(late)
    assert bank.readings["source"]["b"].tick == 1


def test_a_state_of_another_version_starts_anew_instead_of_failing() -> None:
    bank = MonitorBank([RISE])
    for tick in range(100):
        bank.update(Sample(tick, tick, 0, {"loss": 2.0 + 0.01 * (tick % 7)}))
    state = json.loads(json.dumps(bank.state_dict()))
    name = RISE.name
    del state["monitors"][name][""]["state"]["gap"]
    state["written"][name] = f"{RISE.type} {sorted(RISE.params.items())}"  # as it was told before
    bank.load_state_dict(state)
    assert bank.readings[name][""].health is Health.WARMUP
    assert not bank.take_errors()


def test_a_monitor_new_in_the_policy_starts_anew_and_one_gone_is_forgotten() -> None:
    state = MonitorBank([GUARD, SOURCE]).state_dict()
    bank = MonitorBank([GUARD, RISE])
    bank.load_state_dict(state)
    assert bank.readings["rise"][""].health is Health.WARMUP
    assert "source" not in bank.readings


def test_a_state_that_does_not_fit_costs_one_monitor_only() -> None:
    bank = MonitorBank([GUARD, RISE])
    state = bank.state_dict()
    state["monitors"]["rise"][""]["state"] = {"reading": None}
    bank.load_state_dict(state)
    assert bank.readings["rise"][""].health is Health.ERROR
    assert bank.update(sample(0, loss=1.0))["guard"][""].health is Health.OK


def test_lateness_is_known_before_any_instance_is() -> None:
    bank = MonitorBank([SOURCE], baselines=["loss"])
    assert bank.lateness("source") == MONITORS["sustained_rise"](signal="loss").lateness > 0  # type: ignore[call-arg]
    assert bank.lateness("loss") == 0


@pytest.mark.parametrize(
    "spec",
    [
        MonitorSpec("a", "sustained_rice", {"signal": "loss"}),
        MonitorSpec("a", "sustained_rise", {"signal": "loss/source=*", "window": 4}),
        MonitorSpec("a", "guard", {"signals": ("loss/source=*",)}),
    ],
)
def test_what_cannot_be_made_is_refused_before_the_run(spec: MonitorSpec) -> None:
    with pytest.raises(ParameterError):
        MonitorBank([spec])


VALUES = st.sampled_from([1.0, 1.1, 0.9, 2.0, 50.0, 0.0, -1.0, nan, inf, -inf, 1e308, 9e99, -9e99, 5e-324])
SIGNALS = st.dictionaries(
    st.sampled_from(["loss", "grad_norm", "loss/source=a", "loss/source=b", "aux"]), VALUES, max_size=5
)
SPECS = [
    GUARD,
    RISE,
    SOURCE,
    MonitorSpec("blowup", "divergence", {"signal": "loss", "warm_up": 8, "window": 8}),
    MonitorSpec("spike", "spike", {"signal": "grad_norm", "warm_up": 8, "window": 16}),
    MonitorSpec("stalled", "stalled", {"signal": "loss", "block": 10}),
    MonitorSpec("good", "too_good", {"signal": "loss", "warm_up": 8, "window": 16}),
    MonitorSpec("shift", "shift", {"signal": "grad_norm", "warm_up": 8, "window": 16}),
    MonitorSpec("jump", "jump", {"signal": "aux", "warm_up": 8, "window": 16}),
    MonitorSpec("frozen", "frozen", {"signal": "grad_norm"}),
    MonitorSpec("adwin", "adwin", {"signal": "loss", "warm_up": 8, "window": 16}),
    MonitorSpec("page", "page_hinkley", {"signal": "loss", "warm_up": 8, "window": 16}),
]


@given(
    st.lists(st.tuples(SIGNALS, st.integers(1, 600), st.booleans()), max_size=60),
    st.sets(st.integers(0, 60), max_size=4),
)
def test_a_bank_carried_through_json_reads_as_one_left_alone(
    stream: list[tuple[dict[str, float], int, bool]], carried_at: set[int]
) -> None:
    baselines = ["aux", "update_ratio"]
    alone, traveller = MonitorBank(SPECS, baselines), MonitorBank(SPECS, baselines)
    tick = 0
    for index, (signals, later, judged_first) in enumerate(stream):
        tick += later
        if index in carried_at:
            traveller = carried(traveller, SPECS, baselines)
        for bank in (alone, traveller):
            if judged_first:
                bank.judge_step(Sample(tick, tick, 0, signals))
            bank.update(Sample(tick, tick, 0, signals))
        assert plain(alone) == plain(traveller)
        assert alone.facts() == traveller.facts()
    assert alone.take_errors() == traveller.take_errors() == []


def scales(bank: MonitorBank) -> set[int]:
    return {id(watch.monitor._scale) for watch in bank._after_step}  # type: ignore[attr-defined]


def test_monitors_that_learn_the_same_of_a_signal_learn_it_once_and_read_as_if_alone() -> None:
    gross = MonitorSpec("gross", "sustained_rise", {**SOURCE.params, "slack": 4.0, "clip": 10.0})
    other = MonitorSpec("other", "sustained_rise", {**SOURCE.params, "window": 32})
    together, alone = MonitorBank([SOURCE, gross, other]), [MonitorBank([spec]) for spec in (SOURCE, gross)]
    for tick in range(100):
        value = nan if tick % 17 == 5 else tick % 7 + 50.0 * (tick > 80)
        signals = {} if tick % 13 == 7 else {"loss/source=a": value, "loss/source=b": -value}
        if tick == 50:
            together = carried(together, [SOURCE, gross, other], [])
        for bank in (together, *alone):
            bank.update(Sample(tick, tick, 0, signals))
        expected = {**plain(alone[0]), **plain(alone[1])}
        assert {name: plain(together)[name] for name in expected} == expected
    assert len(together._after_step) == 6
    assert len(scales(together)) == 4
    states = together.state_dict()["monitors"]
    assert states["source"]["a"]["state"]["scale"] == states["gross"]["a"]["state"]["scale"]


def test_a_monitor_that_a_state_lacks_learns_anew_beside_one_that_it_has() -> None:
    again = MonitorSpec("again", "sustained_rise", RISE.params)
    bank = MonitorBank([RISE])
    for tick in range(20):
        bank.update(sample(tick, loss=float(tick % 3)))
    later = carried(bank, [RISE, again], [])
    assert len(scales(later)) == 2
    readings = later.update(sample(20, loss=1.0))
    assert [readings[name][""].health for name in ("rise", "again")] == [Health.OK, Health.WARMUP]


def test_news_is_a_health_that_changed_or_something_that_went_wrong(brittle: MonitorSpec) -> None:
    bank = MonitorBank([GUARD, brittle])
    told = []
    for tick, loss in enumerate([1.0, 1.0, 1.0, 1.0, nan, nan]):
        bank.news = False
        bank.update(sample(tick, loss=loss))
        told.append(bank.news)
    assert told == [True, False, False, True, True, False]
    bank.load_state_dict(bank.state_dict())
    assert bank.news
