"""A bank, which shares work among its monitors, reads as each of them does alone."""

from __future__ import annotations

import json
from abc import abstractmethod
from copy import deepcopy
from math import inf, nan
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from midcourse.monitors.bank import MonitorBank
from midcourse.monitors.base import ScaledMonitor, SignalMonitor
from midcourse.monitors.changes import ChangeWatch
from midcourse.monitors.registry import MONITORS, make_monitor
from midcourse.monitors.scale import RobustScale
from midcourse.monitors.types import Health, Monitor, MonitorSpec, Reading, Sample

SHORT = {"warm_up": 8, "window": 16}
SPECS = [
    MonitorSpec("guard", "guard"),
    MonitorSpec("rise", "sustained_rise", {"signal": "loss", **SHORT}),
    MonitorSpec("gross", "sustained_rise", {"signal": "loss", **SHORT, "slack": 3.0, "clip": 10.0}),
    MonitorSpec("vote", "e_detector", {"signal": "loss", **SHORT, "average_run_length": 200.0}),
    MonitorSpec("blowup", "divergence", {"signal": "loss", **SHORT}),
    MonitorSpec("spike", "spike", {"signal": "loss", **SHORT}),
    MonitorSpec("good", "too_good", {"signal": "loss", **SHORT}),
    MonitorSpec("stalled", "stalled", {"signal": "loss", "block": 10}),
    MonitorSpec("gradient", "shift", {"signal": "grad_norm", **SHORT}),
    MonitorSpec("lost", "jump", {"signal": "update_ratio", **SHORT}),
    MonitorSpec("frozen", "frozen", {"signal": "update_ratio"}),
    MonitorSpec("loss", "baseline", {"signal": "loss", **SHORT}),
]


class Alone:
    """The same monitors without a bank, each given every sample that measures something of it."""

    def __init__(self) -> None:
        self.monitors: dict[str, Monitor] = {spec.name: make_monitor(spec) for spec in SPECS}
        self._changes = ChangeWatch()

    def update(self, sample: Sample) -> dict[str, Reading]:
        change = self._changes.take(sample)
        readings = {}
        for name, monitor in self.monitors.items():
            if change is not None and not monitor.before_step:
                monitor.expect(change)
            if not sample.signals.keys().isdisjoint(monitor.signals):
                readings[name] = monitor.update(sample)
        return readings

    def state_dict(self) -> dict[str, Any]:
        own = {name: monitor.state_dict() for name, monitor in self.monitors.items()}
        return {"monitors": own, "changes": self._changes.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._changes.load_state_dict(state["changes"])
        for name, own in state["monitors"].items():
            self.monitors[name].load_state_dict(own)


def through_json(state: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(state, allow_nan=False))  # type: ignore[no-any-return]


USUAL = st.floats(0.9, 1.1)
ODD = st.sampled_from([nan, inf, -inf, 0.0, -0.0, -1.0, 5e-324, 1e308, 9e99])
VALUES = st.one_of(USUAL, USUAL, USUAL, USUAL, st.floats(1.5, 60.0), ODD)
SIGNALS = st.fixed_dictionaries(
    {"loss": VALUES},
    optional={
        "grad_norm": VALUES,
        "update_ratio": VALUES,
        "lr": st.sampled_from([1e-3, 1e-3, 1e-3, 1e-4]),
    },
)
ANNOUNCED = st.sampled_from([{}] * 12 + [{"expected_change": 1.0}, {"expected_change/loss": 1.0}])
STREAM = st.lists(st.tuples(SIGNALS, ANNOUNCED, st.booleans(), st.integers(0, 19)), min_size=20, max_size=120)


@settings(max_examples=40)
@given(STREAM)
def test_a_bank_reads_as_its_monitors_do_alone(
    stream: list[tuple[dict[str, float], dict[str, float], bool, int]],
) -> None:
    """Over gaps, spikes, what is not finite, changes that were meant, rewinds and edits of the policy."""
    bank, alone = MonitorBank(SPECS), Alone()
    saved = [(through_json(bank.state_dict()), through_json(alone.state_dict()))]
    for tick, (signals, announced, judged_first, event) in enumerate(stream):
        sample = Sample(tick, tick, 0, {**signals, **announced})
        if judged_first:
            bank.judge_step(sample)
        readings = bank.update(sample)
        for name, reading in alone.update(sample).items():
            assert readings[name][""].to_json() == reading.to_json()
        if event == 0:
            saved.append((through_json(bank.state_dict()), through_json(alone.state_dict())))
        elif event == 1:
            bank.load_state_dict(saved[-1][0])
            alone.load_state_dict(saved[-1][1])
        elif event == 2:
            bank.take_specs(SPECS, ["grad_norm"])
    states = bank.state_dict()["monitors"]
    assert {spec.name: states[spec.name][""]["state"] for spec in SPECS} == alone.state_dict()["monitors"]
    assert bank.take_errors() == []


@pytest.mark.parametrize("at", [7, 8, 9])
def test_a_change_that_is_announced_just_when_judging_begins_takes_no_monitor_out_of_service(at: int) -> None:
    bank = MonitorBank(SPECS)
    for tick in range(40):
        announced = {"expected_change": 1.0} if tick == at else {}
        signals = dict.fromkeys(("loss", "grad_norm", "update_ratio"), 1.0 + 0.01 * (tick % 5))
        bank.update(Sample(tick, tick, 0, {**signals, **announced}))
    assert bank.take_errors() == []
    assert bank.readings["good"][""].health is bank.readings["lost"][""].health is Health.OK


def test_a_copy_of_a_bank_goes_its_own_way() -> None:
    bank = MonitorBank(SPECS)
    other = deepcopy(bank)
    other.update(Sample(0, 0, 0, {"loss": nan}))
    assert other.readings["rise"][""].health is Health.NONFINITE
    assert bank.update(Sample(0, 0, 0, {"loss": 1.0}))["rise"][""].health is Health.WARMUP


@pytest.mark.parametrize("name", ["update", "_take"])
def test_no_two_types_of_monitor_share_the_code_of_a_tick(name: str) -> None:
    """Where the interpreter learns which class it meets it must always meet the same one."""
    classes = [cls for cls in MONITORS.values() if issubclass(cls, SignalMonitor)]
    codes = [id(getattr(cls, name).__code__) for cls in (SignalMonitor, ScaledMonitor, *classes)]
    assert len(set(codes)) == len(codes) > 2


def test_a_class_with_code_of_its_own_is_as_any_other() -> None:
    class Twice(ScaledMonitor):
        def _take(self, tick: int, value: float) -> Reading:
            return super()._take(tick, 2 * value)

        def _judge(self, tick: int, z: float) -> tuple[float, int | None]:
            return z, None

        def _forget(self) -> None:
            pass

    class Unfinished(SignalMonitor):
        @abstractmethod
        def more(self) -> None: ...

    class Again(Twice):
        pass

    for cls in (Twice, Again):
        reading = cls("loss", RobustScale(8, 8, False), 1.0, 10).update(Sample(0, 0, 0, {"loss": 3.0}))
        assert (reading.health, reading.value) == (Health.WARMUP, 6.0)
        assert cls.update.__doc__ == SignalMonitor.update.__doc__
    with pytest.raises(TypeError, match=r"_forget.*_take"):
        Unfinished("loss", 10)  # type: ignore[abstract]
