"""What is known ahead of a run: the schedule read ahead is what it then does, and nothing is touched."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from small_loop import Died, Trace, train
from test_schedules import SCHEDULES, Recording
from torch.optim import lr_scheduler

from midcourse.controller import rng
from midcourse.controller.foresight import SET_BY_HAND
from midcourse.controller.journal.reader import JournalReader
from midcourse.controller.journal.tables import Event
from midcourse.controller.schedule_ahead import Copies, Pace, Unforeseeable, corners, taken
from midcourse.monitors.bank import MonitorBank
from midcourse.monitors.plan import Plan
from midcourse.monitors.types import Sample
from midcourse.policies.policy import parse_policy
from midcourse.policies.replay import Event as Recorded
from midcourse.policies.replay import Foreseen, replay
from midcourse.policies.types import Outcome

torch.set_num_threads(1)

MODEL = torch.nn.Linear(2, 2)

FORECAST = """
version: 1
signals: [trigger]
snapshots: {keep: 6, reach: 160, every: 5}
monitors:
  outcome: {type: forecast, signal: loss, every: 20}
rules:
  - name: back
    when: trigger.value > 0.5
    ladder: [[rollback: {to: {steps: 12}, data: replay}, scale_lr: {factor: 0.3, hold: 8}]]
  - name: poor
    when: outcome.final > 0 and outcome.low > outcome.expected_now / 2
    mode: observe
    cooldown: 10
    ladder: [[stop: {}]]
"""

MORE: dict[str, Any] = {
    **SCHEDULES,
    "multiplicative": lambda o: lr_scheduler.MultiplicativeLR(o, lambda s: 0.99),
    "constant": lambda o: lr_scheduler.ConstantLR(o, 0.5, total_iters=9),
    "polynomial": lambda o: lr_scheduler.PolynomialLR(o, 50, 2.0),
    "milestones": lambda o: lr_scheduler.MultiStepLR(o, [5, 30]),
    "cyclic": lambda o: lr_scheduler.CyclicLR(o, 0.001, 0.01, step_size_up=7, mode="exp_range", gamma=0.99),
    "chained": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.LinearLR(o, 0.1, total_iters=18), lr_scheduler.ExponentialLR(o, 0.99)]
    ),
    "partial": lambda o: lr_scheduler.LambdaLR(o, functools.partial(_warm_up, steps=11)),
}
FORESEEABLE = [name for name in MORE if name != "plateau"]


def _warm_up(step: int, steps: int) -> float:
    return min(1.0, (step + 1) / steps)


def run(
    folder: Path, schedule: Any, policy: str = FORECAST, **how: Any
) -> tuple[Trace, list[str], list[Event], list[float]]:
    """The run, the lines of its start report on the forecast, its plans, and the first group's rates."""
    said: list[str] = []
    rates: list[list[float]] = []
    trace = train(
        folder,
        policy,
        optimizer=lambda parameters: Recording(parameters, rates),
        schedule=schedule,
        say=said.append,
        **how,
    )
    with JournalReader(folder) as journal:
        plans = [event for event in journal.events() if event.kind == "plan"]
    return trace, [line for line in said if "forecast:" in line], plans, [rate for rate, _ in rates]


def planned(trace: Trace) -> list[float]:
    """The rates of all steps, as they were read ahead."""
    assert trace.controller is not None
    foresight = trace.controller._wiring._foresight
    assert foresight is not None
    assert foresight._rates is not None
    rates: list[float] = foresight._rates.tolist()
    return rates


@pytest.mark.parametrize("name", FORESEEABLE)
def test_a_schedule_read_ahead_is_what_the_run_then_does(tmp_path: Path, name: str) -> None:
    trace, said, plans, rates = run(tmp_path, MORE[name])
    assert len(rates) == 60
    assert planned(trace) == rates
    [plan] = plans
    assert (plan.tick, plan.detail["horizon"]) == (0, 60)
    shares, heights = np.array(plan.detail["schedule"]).T
    np.testing.assert_allclose(
        np.interp(np.arange(1, 61) / 60, shares, heights), np.array(rates) / max(rates), atol=2e-3
    )
    assert len(said) == 1
    assert "60 steps; the learning rate is read ahead from" in said[0]


@pytest.mark.parametrize("name", FORESEEABLE)
def test_one_that_is_stepped_once_a_pass_is_known_from_the_second_on(tmp_path: Path, name: str) -> None:
    trace, _, plans, rates = run(tmp_path, MORE[name], per_epoch=True)
    assert planned(trace) == rates
    assert [(plan.tick, plan.detail["schedule"] is None) for plan in plans] == [
        *((0, False), (1, True), (20, False))
    ]


@pytest.mark.parametrize("accumulation", [2, 3])
def test_the_end_is_counted_in_steps_where_gradients_are_gathered(tmp_path: Path, accumulation: int) -> None:
    trace, _, [plan], rates = run(tmp_path, MORE["cosine"], accumulation=accumulation)
    assert plan.detail["horizon"] == len(rates) == 3 * -(-20 // accumulation)
    assert planned(trace) == rates


def test_a_scheduler_that_knows_its_end_tells_it_where_no_counter_does(tmp_path: Path) -> None:
    for name, horizon in (("one cycle", 70), ("cosine", None)):
        _, said, [plan], _ = run(tmp_path / name, MORE[name], owned=False)
        assert plan.detail["horizon"] == horizon
    assert "count with controller.steps(n)" in said[0]


@pytest.mark.parametrize(
    ("schedule", "why"),
    [
        (
            lambda o: lr_scheduler.ReduceLROnPlateau(o, factor=0.8, patience=3),
            "ReduceLROnPlateau goes by what is measured",
        ),
        (
            lambda o: lr_scheduler.LambdaLR(o, lambda s, model=MODEL: 1.0 + 0 * len(model.weight)),
            "a scheduler computes with an object of type Linear",
        ),
    ],
)
def test_what_cannot_be_read_ahead_is_said_and_not_planned(tmp_path: Path, schedule: Any, why: str) -> None:
    _, [said], [plan], _ = run(tmp_path, schedule)
    assert f"60 steps; the learning rate cannot be read ahead: {why}" in said
    assert (plan.detail["horizon"], plan.detail["schedule"]) == (60, None)


def test_a_schedule_that_fails_further_on_is_not_planned(tmp_path: Path) -> None:
    def brittle(step: int) -> float:
        if step > 45:
            raise RuntimeError("out of table")
        return 1.0

    with pytest.raises(RuntimeError, match="out of table"):
        run(tmp_path, lambda o: lr_scheduler.LambdaLR(o, brittle))
    with JournalReader(tmp_path) as journal:
        [plan, start] = [event for event in journal.events() if event.kind in ("plan", "start")]
    assert plan.detail["schedule"] is None
    assert any("stepped ahead: RuntimeError: out of table" in line for line in start.detail["notices"])


def test_without_a_scheduler_the_rate_stays_until_it_is_set_by_hand(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made: list[torch.optim.Optimizer] = []
    ticks: list[int] = []

    def optimizer(parameters: Any) -> torch.optim.Optimizer:
        made.append(torch.optim.SGD(parameters, lr=0.01))
        return made[-1]

    def by_hand() -> None:
        ticks.append(len(ticks))
        if len(ticks) >= 30:
            made[0].param_groups[0]["lr"] = 0.005

    train(tmp_path, FORECAST, optimizer=optimizer, after_step=by_hand)
    with JournalReader(tmp_path) as journal:
        first, second = [event for event in journal.events() if event.kind == "plan"]
    assert [rate for _, rate in first.detail["schedule"]] == [1.0, 1.0]
    assert (second.tick, second.detail["schedule"]) == (30, None)
    assert SET_BY_HAND in caplog.text


def test_a_rollback_that_rewinds_the_schedule_leaves_the_plan_as_it_is(tmp_path: Path) -> None:
    _, _, plans, rates = run(tmp_path, MORE["cosine"], triggers={28: 1.0})
    assert len(rates) > 60
    assert len(plans) == 1


class Meddling:
    """A factor that counts its calls, keeps what it was asked, and draws at random."""

    def __init__(self) -> None:
        self.calls, self.asked = 0, [0]

    def __call__(self, step: int) -> float:
        self.calls += 1
        self.asked.append(step)
        torch.rand(1)
        np.random.rand()
        return 0.99 ** len(self.asked)


COUNT = {"calls": 0}


def meddling_closure() -> Callable[[int], float]:
    calls = [0]
    options = SimpleNamespace(calls=0)

    def factor(step: int) -> float:
        calls[0] += 1
        options.calls += 1
        COUNT["calls"] += 1
        return 0.99 ** (calls[0] + options.calls + COUNT["calls"])

    factor.seen = lambda: (calls[0], options.calls, COUNT["calls"])  # type: ignore[attr-defined]
    return factor


@pytest.mark.parametrize("name", FORESEEABLE)
def test_reading_ahead_touches_nothing_of_the_loop(name: str) -> None:
    parameters = [torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(2, 2))]
    optimizer = Recording(parameters, [])
    scheduler = MORE[name](optimizer)
    before = str(scheduler.state_dict()), str(optimizer.state_dict()), str(vars(optimizer)), rng.capture()
    pace = Pace(1, taken(scheduler), 1)
    first = Copies.of(optimizer, [scheduler])
    assert (first.ahead([pace], 1, 300) == first.ahead([pace], 1, 300)).all()
    after = str(scheduler.state_dict()), str(optimizer.state_dict()), str(vars(optimizer)), rng.capture()
    assert before[:3] == after[:3]
    assert before[3].same_as(after[3])
    assert (first.ahead([pace], 1, 2) == Copies.of(optimizer, [scheduler]).ahead([pace], 1, 2)).all()


def test_lambdas_that_keep_a_state_are_called_apart_from_it() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(3))], lr=0.1)
    meddling, closure = Meddling(), meddling_closure()
    for factor, look in ((meddling, lambda: str(vars(meddling))), (closure, closure.seen)):  # type: ignore[attr-defined]
        scheduler = lr_scheduler.LambdaLR(optimizer, factor)  # type: ignore[arg-type]
        before, random = look(), rng.capture()
        rates = Copies.of(optimizer, [scheduler]).ahead([Pace(1, taken(scheduler), 1)], 1, 40)
        assert look() == before
        assert rng.capture().same_as(random)
        really = []
        for _ in range(40):
            really.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        assert rates.tolist() == really


def test_a_rate_that_is_a_tensor_is_read_ahead_too() -> None:
    rate = torch.tensor(0.1)
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.ones(3))], lr=rate)
    scheduler = lr_scheduler.StepLR(optimizer, 10, 0.5)
    rates = Copies.of(optimizer, [scheduler]).ahead([Pace(1, 0, 1)], 1, 30)
    np.testing.assert_allclose(rates, np.repeat([0.1, 0.05, 0.025], 10), rtol=1e-6)
    assert float(rate) == pytest.approx(0.1)


def test_too_long_a_way_is_refused() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(3))], lr=0.1)
    copies = Copies.of(optimizer, [lr_scheduler.StepLR(optimizer, 10)])
    with pytest.raises(Unforeseeable, match="too many steps"):
        copies.ahead([Pace(1, 0, 64)], 1, 1_000_000)


def test_corners_are_few_and_close() -> None:
    steps = np.arange(100_000.0)
    waves = 1 + np.cos(steps / 3000) + (steps > 70_000)
    found = corners(waves, 1, 100_000)
    assert found is not None
    assert len(found) <= 200
    shares, heights = np.array(found).T
    assert (np.diff(shares) > 0).all()
    np.testing.assert_allclose(np.interp((steps + 1) / 1e5, shares, heights), waves / waves.max(), atol=2e-3)
    assert corners(np.zeros(9), 1, 9) is None


def test_the_run_is_the_same_with_and_without(tmp_path: Path) -> None:
    for name in ("lambda", "one cycle", "chained"):
        with_it = run(tmp_path / name, MORE[name])[0]
        alone = train(optimizer=lambda parameters: Recording(parameters, []), schedule=MORE[name])
        assert with_it.losses == alone.losses
        assert with_it.matches(alone)


def test_a_journal_with_a_plan_replayed_gives_its_own_readings_and_decisions(tmp_path: Path) -> None:
    run(tmp_path, MORE["cosine"], epochs=8, per_epoch=True, triggers={60: 1.0})
    with JournalReader(tmp_path) as journal:
        decisions, transitions = journal.decisions(), journal.transitions()
        recorded = [entry.item for entry in journal.entries()]
    events: list[Recorded] = []
    for item in recorded:
        if isinstance(item, Sample | Outcome):
            events.append(item)
        elif isinstance(item, Event) and item.kind == "plan":
            events.append(Foreseen(Plan.from_json(item.detail), item.tick))
    assert {decision.rule for decision in decisions} == {"back", "poor"}
    assert replay(parse_policy(FORECAST), events).decisions == decisions
    blind = replay(parse_policy(FORECAST), [event for event in events if not isinstance(event, Foreseen)])
    assert {decision.rule for decision in blind.decisions} == {"back"}
    bank = MonitorBank(parse_policy(FORECAST).monitors)
    first_ok = next(each for each in transitions if each.monitor == "outcome" and each.reading.extra)
    for event in events:
        if isinstance(event, Foreseen):
            bank.plan(event.plan)
        elif isinstance(event, Sample):
            bank.update(event)
            if event.tick == first_ok.tick:
                break
    assert bank.readings["outcome"][""].to_json() == first_ok.reading.to_json()


def test_a_run_that_is_resumed_goes_by_the_plan_it_had(tmp_path: Path) -> None:
    policy = FORECAST + "checkpoints: {every: 25}\n"
    how: dict[str, Any] = {"epochs": 6, "per_epoch": True}
    run(tmp_path / "whole", MORE["cosine"], policy, **how)
    with pytest.raises(Died):
        run(tmp_path / "broken", MORE["cosine"], policy, die_at=77, **how)
    run(tmp_path / "broken", MORE["cosine"], policy, resume="auto", **how)
    readings = []
    for name in ("whole", "broken"):
        with JournalReader(tmp_path / name) as journal:
            plans = [event.detail for event in journal.events() if event.kind == "plan"]
            last = [(each.tick, each.facts["outcome"]) for each in journal.decisions() if each.tick > 80]
        readings.append((plans[-1], last))
    assert readings[0] == readings[1]
    assert readings[0][1]


def test_nothing_is_planned_where_no_monitor_asks(tmp_path: Path) -> None:
    assert run(tmp_path, MORE["cosine"], "version: 1")[1:3] == ([], [])
