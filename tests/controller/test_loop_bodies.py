"""Every kind of loop body works unchanged: the same bit for bit while nothing fires, alive when it does."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from loop_bench import Bench, error, training_loader
from loop_bodies import BODIES, Body, ahead_of_backward, divided_by_hand, folds, one_ahead

from midcourse import TrainingStopped
from midcourse.controller.journal.reader import JournalReader
from midcourse.policies.types import Status

torch.set_num_threads(1)

WATCH = """
version: 1
mode: act
snapshots: {keep: 4, reach: 40, every: 4}
monitors:
  guard: {type: guard}
  blowup: {type: divergence, signal: loss}
  lag: {type: sustained_rise, signal: moment_lag}
rules:
  - name: bad-step
    when: guard.bad
    budget: {acts: 3, per: 1000}
    ladder:
      - [skip_step: {}]
  - name: off-course
    when: blowup.bad
    budget: {acts: 3, per: 1000}
    ladder:
      - [rollback: {to: before_onset, data: skip}]
"""

FIRE = """
version: 1
signals: [trigger]
snapshots: {{keep: 6, reach: 60, every: 2}}
rules:
  - name: pull
    when: trigger.value > 0.5
    budget: {{acts: 5, per: 1000}}
    ladder:
      - [{act}]
"""

bodies = pytest.mark.parametrize("body", BODIES, ids=lambda body: body.__name__)


def run(body: Body, *args: Any, **kwargs: Any) -> Bench:
    bench = Bench(*args, **kwargs)
    body(bench)
    return bench


def same(one: Bench, other: Bench) -> bool:
    return one.losses == other.losses and all(
        torch.equal(a, b) for a, b in zip(one.parameters, other.parameters, strict=True)
    )


@bodies
def test_watched_is_bitwise_plain_and_the_journal_has_what_the_loop_means(tmp_path: Path, body: Body) -> None:
    plain = run(body, tmp_path)
    watched = run(body, tmp_path, WATCH, owned=True)
    assert watched.controller is not None
    assert same(plain, watched)
    with JournalReader(watched.controller.run_dir) as reader:
        samples = list(reader.samples())
        assert not list(reader.decisions())
    assert [s.tick for s in samples] == list(range(1, watched.steps + 1))
    if body is divided_by_hand:
        # The first window is short: whether the loop divides by its micro-batches is not known yet.
        assert "loss" not in samples[0].signals
        del watched.meant[0]["loss"]
    for sample, meant in zip(samples, watched.meant, strict=True):
        assert {name: sample.signals[name] for name in meant} == pytest.approx(meant, rel=1e-4)


@pytest.mark.parametrize(
    "act",
    [
        "rollback: {to: {steps: 4}, data: forward}",
        "rollback: {to: {steps: 4}, data: replay}",
        "rollback: {to: before_onset, data: skip}",
        "scale_lr: {factor: 0.5, hold: 4}",
    ],
)
@bodies
def test_a_body_survives_an_act(tmp_path: Path, body: Body, act: str) -> None:
    steered = run(body, tmp_path, FIRE.format(act=act), fire_at=11, owned="forward" not in act)
    assert steered.controller is not None
    with JournalReader(steered.controller.run_dir) as reader:
        outcomes = list(reader.outcomes())
    assert [o.status for o in outcomes] == [Status.APPLIED], outcomes
    assert all(bool(torch.isfinite(p).all()) for p in steered.parameters)


@bodies
def test_a_body_stops(tmp_path: Path, body: Body) -> None:
    bench = Bench(tmp_path, FIRE.format(act="stop: {}"), fire_at=11, owned=True)
    # A loop of steps or of calls to next has no end of its own that a loader could bring about.
    with suppress(TrainingStopped, StopIteration):
        body(bench)
    assert bench.controller is not None
    assert "checkpoints" in str(bench.controller.stopped)
    assert bench.steps in (11, 12)


def test_a_state_that_the_loop_loads_begins_a_new_course(tmp_path: Path) -> None:
    def body(bench: Bench) -> None:
        accelerator = bench.accelerator()
        model = bench.model()
        optimizer = bench.sgd(model)
        model, optimizer, loader = accelerator.prepare(model, optimizer, training_loader())
        for _ in bench.epochs(2):
            for batch in loader:
                loss = error(model, batch)
                bench.note(loss)
                accelerator.backward(loss)
                optimizer.step()
                optimizer.zero_grad()
                if bench.steps == 4:
                    accelerator.save_state(str(bench.folder / "state"))
                if bench.steps == 9:
                    accelerator.load_state(str(bench.folder / "state"))
        accelerator.end_training()

    plain = run(body, tmp_path)
    watched = run(body, tmp_path, WATCH)
    assert same(plain, watched)
    # At step 11 the newest state to return to is that of the load, not one of the course before it.
    steered = run(body, tmp_path / "steered", FIRE.format(act="rollback: {to: {steps: 5}}"), fire_at=11)
    last = run(body, tmp_path / "last", FIRE.format(act="rollback: {to: last_good}"), fire_at=11)
    for bench, status in ((steered, Status.REFUSED), (last, Status.APPLIED)):
        assert bench.controller is not None
        with JournalReader(bench.controller.run_dir) as reader:
            assert [o.status for o in reader.outcomes()] == [status]
            assert [(e.tick, e.kind) for e in reader.events() if e.kind == "load_state"] == [
                (9, "load_state")
            ]
            assert {s.branch for s in reader.samples() if s.tick in (10, 11)} == {1}


def test_each_training_of_a_process_is_watched_from_its_first_step(tmp_path: Path) -> None:
    trained = run(folds, tmp_path, WATCH)
    assert trained.controller is not None
    with JournalReader(trained.controller.run_dir) as reader:
        steps = [(s.step, s.branch) for s in reader.samples()]
    assert steps == [(step, fold) for fold in (0, 1) for step in range(1, 31)]
    assert sum("rollback goes on by" in line for line in trained.said) == 2


@pytest.mark.parametrize("body", [one_ahead, ahead_of_backward], ids=lambda body: body.__name__)
def test_a_loop_that_reads_ahead_goes_forward_and_is_told_why(tmp_path: Path, body: Body) -> None:
    act = "rollback: {to: last_good, data: replay}"
    ahead = run(body, tmp_path, FIRE.format(act=act), fire_at=11, owned=True)
    assert ahead.controller is not None
    with JournalReader(ahead.controller.run_dir) as reader:
        details = next(iter(reader.outcomes())).details["rollback"]
    assert details["data"] == "forward"
    assert "asks for its next batch before" in details["because"]
