"""On recorded runs: quiet where they were healthy, prompt where they diverged or a fault was injected."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from midcourse.monitors.registry import MONITORS
from midcourse.monitors.types import Reading, Sample

TRACES = Path(__file__).parents[3] / "shared" / "traces"
FAST_STACK = ("sustained_rise", "divergence")

pytestmark = pytest.mark.skipif(not TRACES.is_dir(), reason=f"no recorded runs in {TRACES}")


def runs(name: str) -> list[tuple[dict[str, Any], np.ndarray[Any, Any]]]:
    facts = json.loads((TRACES / f"{name}.json").read_text())
    with np.load(TRACES / f"{name}.npz") as arrays:
        return [(fact, np.atleast_2d(arrays[fact["id"]])[0]) for fact in facts]


def alarms(kind: str, values: np.ndarray[Any, Any], signal: str = "loss") -> list[Reading]:
    """The first reading of each episode of alarm; NaN stands for not measured."""
    monitor: Any = MONITORS[kind](signal=signal)  # type: ignore[call-arg]
    first, bad = [], False
    for tick, value in enumerate(values.tolist()):
        reading = monitor.update(Sample(tick, tick, 0, {} if value != value else {signal: value}))
        if reading.bad and not bad:
            first.append(reading)
        bad = reading.bad
    return first


def tiny(name: str) -> tuple[dict[str, Any], int]:
    with np.load(TRACES / "tiny" / f"{name}.npz") as arrays:
        fault = json.loads(str(arrays["meta"]))["fault"]
        return {key: arrays[key] for key in arrays.files if key != "meta"}, fault["at"] if fault else 0


@pytest.mark.parametrize("kind", [*FAST_STACK, "e_detector", "stalled", "adwin", "too_good"])
def test_no_false_alarm_on_healthy_gpts(kind: str) -> None:
    assert [fact["id"] for fact, loss in runs("healthy_nanogpt") if alarms(kind, loss)] == []


def test_page_hinkley_has_one_false_alarm_on_healthy_gpts_at_most() -> None:
    assert sum(len(alarms("page_hinkley", loss)) for _, loss in runs("healthy_nanogpt")) <= 1


@pytest.mark.parametrize("kind", [*FAST_STACK, "e_detector", "stalled", "adwin", "page_hinkley", "too_good"])
def test_few_false_alarms_on_healthy_runs_of_all_kinds(kind: str) -> None:
    assert sum(len(alarms(kind, loss)) for _, loss in runs("healthy_algoperf")) <= 2


def test_no_divergence_is_missed_and_most_are_found_at_once() -> None:
    diverged = runs("divergences_algoperf")
    delays = []
    for fact, loss in diverged:
        near = loss[: fact["onset"] + 50]
        found = [alarm.tick - fact["onset"] for kind in FAST_STACK for alarm in alarms(kind, near)]
        delays += sorted(delay for delay in found if delay >= -20)[:1]  # its onset is that of a median of 20
    assert len(delays) == len(diverged)
    assert np.median(delays) <= 1
    assert np.quantile(delays, 0.9) <= 4


@pytest.mark.parametrize(
    ("fault", "signal", "delay"),
    [
        ("lr_x30", "loss", 6),
        ("lr_x8", "loss", 11),
        ("randbatch25pct", "loss", 6),
        ("randbatch8pct", "loss", 22),
        ("labelnoise_burst", "loss", 5),
        ("grp2_corrupt", "loss", 9),
        ("grp2_corrupt", "loss_g2", 5),
        ("randbatch25pct", "grad_norm", 4),
        ("randbatch8pct", "grad_norm", 5),
        ("lr_x30", "grad_norm", 4),
    ],
)
def test_a_fault_in_a_small_transformer_is_found_at_once(fault: str, signal: str, delay: int) -> None:
    signals, at = tiny(f"fault_{fault}_s0")
    found = alarms("sustained_rise", signals[signal], "loss/source=2" if signal == "loss_g2" else signal)
    assert at <= found[0].tick <= at + delay
    assert found[0].onset is not None
    assert at - 15 <= found[0].onset <= at + 2


@pytest.mark.parametrize(
    ("fault", "kind", "key", "delay"),
    [
        ("stuck_loader", "too_good", "loss", 14),
        ("stuck_loader", "shift", "grad_norm", 10),
        ("lr_x8", "shift", "grad_norm", 5),
        ("bitflip", "jump", "pnorm", 0),
        ("optreset", "jump", "upd_ratio", 0),
        ("frozen_lr0", "frozen", "upd_ratio", 10),
    ],
)
def test_what_the_loss_hardly_shows_is_found_where_it_does(
    fault: str, kind: str, key: str, delay: int
) -> None:
    signals, at = tiny(f"fault_{fault}_s0")
    name = {"pnorm": "param_norm", "upd_ratio": "update_ratio"}.get(key, key)
    every = 1 if name == key else 10  # how often it was measured; in between its last value is repeated
    found = alarms(kind, signals[key][::every], name)
    assert at <= found[0].tick * every <= at + delay


@pytest.mark.parametrize("name", ["healthy_cos_s0", "healthy_const_s2"])
def test_nothing_jumps_or_freezes_in_a_healthy_small_transformer(name: str) -> None:
    signals, _ = tiny(name)
    assert alarms("shift", signals["grad_norm"], "grad_norm") == []
    assert alarms("jump", signals["pnorm"][::10], "param_norm") == []
    assert alarms("jump", signals["upd_ratio"][::10], "update_ratio") == []
    assert alarms("frozen", signals["upd_ratio"][::10], "update_ratio") == []


@pytest.mark.parametrize("name", ["healthy_cos_s0", "healthy_const_s2"])
@pytest.mark.parametrize("kind", [*FAST_STACK, "e_detector", "stalled", "adwin", "page_hinkley", "too_good"])
def test_a_healthy_small_transformer_is_left_alone_from_its_first_step(name: str, kind: str) -> None:
    signals, _ = tiny(name)
    for key in ("loss", "loss_g0", "loss_g1", "loss_g2"):
        assert alarms(kind, signals[key]) == [], key


@pytest.mark.parametrize("name", ["healthy_cos_s0", "healthy_const_s2"])
@pytest.mark.parametrize("at", [150, 300, 500, 800])
def test_a_step_in_a_young_run_is_found(name: str, at: int) -> None:
    loss = tiny(name)[0]["loss"].astype(float)
    noise = np.median(np.abs(np.diff(loss[at - 60 : at]))) / 0.954
    loss[at:] += 8 * noise
    found = alarms("sustained_rise", loss[: at + 30])
    assert at <= found[0].tick <= at + 10
