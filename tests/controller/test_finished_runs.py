"""Finished runs as references: read from their journals, told by name where they cannot be used."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from journal_words import started
from small_loop import train
from torch.optim import lr_scheduler

from midcourse.controller.finished_runs import FEWEST, finished_runs
from midcourse.controller.journal.reader import JournalReader
from midcourse.monitors.bank import MonitorBank
from midcourse.monitors.forecasting.forecast import Forecast, forecast
from midcourse.monitors.plan import Plan
from midcourse.monitors.types import MonitorSpec, Sample

torch.set_num_threads(1)

STEPS = 400


def write(
    folder: Path, level: float = 2.0, steps: int = STEPS, horizon: int | None = STEPS, **more: Any
) -> Path:
    """A journal of a run on a linear decay; ``more`` may leave out its rate, or have it made twice."""
    noise = np.random.default_rng(round(100 * level)).normal(0, 0.005, steps)
    journal = started(folder)
    if horizon is not None:
        journal.event("plan", 0, Plan(horizon).to_json())
    for number, step in enumerate(more.get("order", range(1, steps + 1))):
        share = step / STEPS
        signals = {"loss": level + 5 * (step + 20) ** -0.5 + 0.3 * (1 - share) + noise[step - 1]}
        signals["loss"] += 9.0 * (number in more.get("left", ()))
        if more.get("rates", True):
            signals["lr"] = 3e-4 * (1 - share)
        if step == 7:
            signals["loss"] = float("nan")
        journal.sample(Sample(step, number + 1, 0, {**signals, "grad_norm": 1.0}))
    journal.close()
    return folder


def specs(*runs: Path, signal: str = "loss") -> list[MonitorSpec]:
    return [MonitorSpec("outcome", "forecast", {"signal": signal, "references": tuple(map(str, runs))})]


def test_the_curve_of_a_finished_run_is_thinned_and_true(tmp_path: Path) -> None:
    [run], faults = finished_runs(specs(write(tmp_path)))
    assert faults == []
    assert (run.run, run.signal, run.lr, run.length) == (str(tmp_path), "loss", "lr", STEPS)
    assert run.rates is not None
    assert len(run.steps) == len(run.values) == len(run.rates) == 128
    steps = np.array(run.steps)
    np.testing.assert_allclose(
        run.values, 2 + 5 * (steps + 20) ** -0.5 + 0.3 * (1 - steps / STEPS), atol=0.02
    )
    np.testing.assert_allclose(run.rates, 3e-4 * (1 - steps / STEPS), atol=1e-9)


def test_what_was_made_again_counts_as_it_was_made_last(tmp_path: Path) -> None:
    order = [*range(1, 301), *range(251, STEPS + 1)]  # went back from 300 to 250
    again = write(tmp_path / "again", order=order, left=range(250, 300))
    [run], _ = finished_runs(specs(again))
    [plain], _ = finished_runs(specs(write(tmp_path / "plain")))
    assert (run.steps, run.values) == (plain.steps, plain.values)


def test_what_cannot_be_used_is_told_by_name_and_left_out(tmp_path: Path) -> None:
    good = write(tmp_path / "good")
    broken = {
        "there is no journal": tmp_path / "missing",
        "ended after 300 of 400 steps": write(tmp_path / "short", steps=300),
        "has no signal lr": write(tmp_path / "rateless", rates=False),
        "measured 4 times only": write(tmp_path / "few", steps=4, horizon=None),
    }
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "journal.sqlite").write_text("no database " * 500)
    broken["not a database"] = tmp_path / "text"
    found, faults = finished_runs(specs(good, *broken.values()))
    assert [run.run for run in found] == [str(good)]
    assert len(faults) == len(broken)
    for (why, folder), fault in zip(broken.items(), faults, strict=True):
        assert fault.startswith(f"reference {folder} is left out: ")
        assert why in fault
    _, [fault] = finished_runs(specs(good, signal="eval/loss"))
    assert "has no signal eval/loss" in fault
    assert FEWEST > 4


def test_a_run_that_goes_on_is_no_reference_yet(tmp_path: Path) -> None:
    journal = started(tmp_path)
    journal.sample(Sample(1, 1, 0, {"loss": 1.0, "lr": 1.0}))
    journal.flush()
    assert "still going on" in finished_runs(specs(tmp_path))[1][0]
    journal.close()


def test_two_finished_runs_of_the_same_schedule_are_what_a_forecast_rests_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Forecast] = []
    monkeypatch.setattr(
        "midcourse.monitors.forecast.forecast", lambda *a, **k: told.append(forecast(*a, **k)) or told[-1]
    )
    runs = [write(tmp_path / str(level), level) for level in (2.0, 2.2)]
    finished, _ = finished_runs(specs(*runs))
    for finals, schedule in (("references", ((0.0, 1.0), (1.0, 0.0))), ("power law", None)):
        bank = MonitorBank(specs(*runs))
        bank.plan(Plan(STEPS, schedule, finished))
        for step in range(1, 120):
            loss = 2.1 + 5 * (step + 20) ** -0.5 + 0.3 * (1 - step / STEPS)
            bank.update(Sample(step, step, 0, {"loss": loss, "lr": 3e-4 * (1 - step / STEPS)}))
        assert told[-1].method.value == finals
        if schedule is not None:
            assert told[-1].final == pytest.approx(2.1 + 5 * (STEPS + 20) ** -0.5, rel=0.01)


def test_a_star_compares_each_name_with_its_own(tmp_path: Path) -> None:
    journal = started(tmp_path)
    for step in range(1, 40):
        journal.sample(Sample(step, step, 0, {"loss/source=a": 1.0, "loss/source=b": 2.0, "lr": 1.0}))
    journal.close()
    found, _ = finished_runs(specs(tmp_path, signal="loss/source=*"))
    assert [(run.signal, set(run.values)) for run in found] == [
        ("loss/source=a", {1.0}),
        ("loss/source=b", {2.0}),
    ]


def test_a_run_takes_its_references_along_in_its_journal_and_tells_those_it_left_out(tmp_path: Path) -> None:
    how: dict[str, Any] = {"schedule": lambda o: lr_scheduler.LinearLR(o, 1.0, 0.1, 160), "epochs": 8}
    plain = "version: 1\nmonitors:\n  outcome: {type: forecast, signal: loss}\n"
    for name in ("a", "b"):
        train(tmp_path / name, plain, **how)
    (tmp_path / "c").mkdir()
    said: list[str] = []
    runs = [str(tmp_path / name) for name in "abc"]
    train(tmp_path / "d", plain.replace("loss}", f"loss, references: {runs}}}"), say=said.append, **how)
    assert any(f"reference {tmp_path / 'c'} is left out: {tmp_path / 'c'}" in line for line in said)
    with JournalReader(tmp_path / "d") as journal:
        [plan] = [event.detail for event in journal.events() if event.kind == "plan"]
    assert [run.run for run in Plan.from_json(plan).finished] == runs[:2]


def test_a_long_run_is_read_in_a_moment(tmp_path: Path) -> None:
    journal = started(tmp_path)
    for tick in range(1, 20_001):
        signals = {f"other {number}": float(tick) for number in range(6)}
        journal.sample(Sample(tick, tick, 0, {**signals, "loss": 1.0, "lr": 1.0}))
    journal.close()
    began = time.process_time()
    finished_runs(specs(tmp_path))
    assert time.process_time() - began < 1.0  # 0.1 s where it was written
