"""Rollback end to end: what is restored, which way the run goes on, and that the loop notices nothing."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from small_loop import Trace, rollback_policy, train

from midcourse.controller.journal.reader import JournalReader
from midcourse.policies.types import Status

torch.set_num_threads(1)

SCHEDULES: dict[str, Any] = {
    "none": None,
    "lambda": lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda s: 0.97**s),
    "one cycle": lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 1e-2, total_steps=60),
    "warm restarts": lambda o: torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(o, 17),
}
OPTIMIZERS: dict[str, Any] = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2),
    "sgd": lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9),
    "fused": lambda p: torch.optim.AdamW(p, lr=1e-2, fused=True),
}


def outcomes(trace: Trace) -> list[Any]:
    assert trace.controller is not None
    with JournalReader(trace.controller.run_dir) as reader:
        return list(reader.outcomes())


REPLAYS = [
    pytest.param({"triggers": {17: 1.0}}, {}, id="mid-epoch"),
    pytest.param({"triggers": {28: 1.0}}, {}, id="across-an-epoch"),
    pytest.param({"triggers": {20: 1.0}}, {}, id="last-step-of-an-epoch"),
    pytest.param({"triggers": {60: 1.0}}, {}, id="last-step-of-the-run"),
    pytest.param({"triggers": {12: 1.0}}, {}, id="to-the-first-step"),
    pytest.param({"triggers": {17: 1.0, 50: 1.0}}, {}, id="twice"),
    pytest.param({"triggers": {28: 1.0}}, {"workers": 2}, id="workers", marks=pytest.mark.slow),
    pytest.param({"triggers": {15: 1.0}}, {"accumulation": 3}, id="accumulation"),
    pytest.param({"triggers": {28: 1.0}}, {"seedable": True}, id="seedable-sampler"),
    pytest.param({"triggers": {28: 1.0}}, {"mixture": True}, id="mixture"),
    pytest.param(
        {"triggers": {28: 1.0}}, {"mixture": True, "workers": 2}, id="mixture-workers", marks=pytest.mark.slow
    ),
    pytest.param({"triggers": {28: 1.0}}, {"schedule": SCHEDULES["lambda"]}, id="lambda"),
    pytest.param({"triggers": {28: 1.0}}, {"schedule": SCHEDULES["one cycle"]}, id="one-cycle"),
    pytest.param({"triggers": {28: 1.0}}, {"schedule": SCHEDULES["warm restarts"]}, id="warm-restarts"),
    pytest.param(
        {"triggers": {28: 1.0}}, {"schedule": SCHEDULES["lambda"], "per_epoch": True}, id="schedule-by-epoch"
    ),
    pytest.param({"triggers": {28: 1.0}}, {"optimizer": OPTIMIZERS["sgd"]}, id="sgd"),
    pytest.param({"triggers": {28: 1.0}}, {"optimizer": OPTIMIZERS["fused"]}, id="fused"),
    pytest.param({"triggers": {28: 1.0}}, {"evaluate": lambda: torch.rand(3)}, id="evaluation-draws"),
    pytest.param({"triggers": {17: 1.0}, "on_rollback": lambda *_: torch.rand(3)}, {}, id="logger-draws"),
]


@pytest.mark.parametrize(("steered", "loop"), REPLAYS)
def test_replay_ends_bit_for_bit_where_an_undisturbed_run_ends(
    tmp_path: Path, steered: dict[str, Any], loop: dict[str, Any]
) -> None:
    plain = train(**loop)
    replayed = train(tmp_path, rollback_policy("replay"), **steered, **loop)
    assert [o.status for o in outcomes(replayed)] == [Status.APPLIED] * len(steered["triggers"])
    assert len(replayed.losses) > len(plain.losses)
    assert replayed.matches(plain)
    assert replayed.losses[-5:] == plain.losses[-5:]


def test_nothing_is_trained_on_from_an_abandoned_branch_in_the_end(tmp_path: Path) -> None:
    plain = train()
    replayed = train(tmp_path, rollback_policy("replay"), triggers={17: 1.0})
    # 17 ticks were made; 12 back is tick 5: the stream goes on from batch 5 as if nothing had been.
    assert replayed.ids[:17] + replayed.ids[17:] == plain.ids[:17] + plain.ids[5:]


@pytest.mark.parametrize("mixture", [False, True])
def test_skip_leaves_out_exactly_the_guilty_batches(tmp_path: Path, mixture: bool) -> None:
    plain = train(mixture=mixture)
    policy = rollback_policy("skip", to="before_onset")
    skipped = train(tmp_path, policy, triggers={17: 1.0}, mixture=mixture)
    # The change began at tick 17, so batch number 16 is guilty; snapshot 15 is the newest before it.
    assert skipped.ids[:21] == [*plain.ids[:17], plain.ids[15], *plain.ids[17:20]]
    later = skipped.ids[21:]
    if mixture:
        assert later == plain.ids[20:]
    else:
        # A later pass is shuffled from torch's global generator, of which the missing step drew nothing.
        assert [sorted(chain(*later[i : i + 20])) for i in (0, 20)] == [list(range(160))] * 2
    assert len(later) == 40
    assert outcomes(skipped)[0].details["rollback"]["never_trained"] == [[[0, 16], [0, 17]]]


def test_forward_leaves_iterator_and_schedule_alone_and_restores_the_weights(tmp_path: Path) -> None:
    schedule = SCHEDULES["lambda"]
    plain = train(schedule=schedule)
    forward = train(tmp_path, rollback_policy("forward"), triggers={17: 1.0}, schedule=schedule)
    assert forward.ids == plain.ids
    assert forward.rates == plain.rates
    assert not forward.matches(plain)
    assert outcomes(forward)[0].details["rollback"]["steps_undone"] == 12


def test_a_counter_of_the_loops_own_falls_back_to_forward_and_says_so(tmp_path: Path) -> None:
    plain = train()
    kept = train(tmp_path, rollback_policy("skip"), triggers={17: 1.0}, owned=False)
    assert kept.ids == plain.ids
    details = outcomes(kept)[0].details["rollback"]
    assert (details["data"], details["asked"]) == ("forward", "skip")
    assert "controller.epochs" in details["because"]


def test_a_target_that_does_not_exist_is_refused_with_the_reason(tmp_path: Path) -> None:
    refused = train(tmp_path, rollback_policy("replay"), triggers={7: 1.0})
    first = outcomes(refused)[0]
    assert first.status is Status.REFUSED
    assert "no snapshot" in first.reason
    assert refused.matches(train())


def test_registered_objects_come_back_and_loggers_are_told(tmp_path: Path) -> None:
    class Average:
        def __init__(self) -> None:
            self.value = torch.zeros(1)

        def state_dict(self) -> dict[str, Any]:
            return {"value": self.value}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            self.value = state["value"]

    told: list[tuple[int, int]] = []
    average = Average()

    def spoil(tick: int, loss: torch.Tensor) -> torch.Tensor:
        average.value = average.value + 1
        return loss

    trace = train(
        tmp_path,
        rollback_policy("replay"),
        triggers={17: 1.0},
        spoil=spoil,
        registered={"average": average},
        on_rollback=lambda old, new: told.append((old, new)),
    )
    assert told == [(17, 5)]
    assert average.value.item() == 60
    assert trace.matches(train())


RETURNING = """
version: 1
signals: [trigger]
snapshots: {keep: 6, reach: 160, every: 5}
rules:
  - name: back
    when: trigger.value > 0.5
    budget: {acts: 5, per: 1000}
    ladder:
      - [rollback: {to: before_onset, data: skip}]
      - [rollback: {to: before_onset, data: replay}]
    verify: {within: 20, expect: trigger.value < 0.5}
"""


def test_what_was_left_out_in_vain_is_taken_again(tmp_path: Path) -> None:
    plain = train(schedule=SCHEDULES["lambda"])
    # Tick 17 is left out; the fault is back at tick 22, so it was not that batch's.
    trace = train(tmp_path, RETURNING, triggers={17: 1.0, 22: 1.0}, schedule=SCHEDULES["lambda"])
    assert [o.details["rollback"]["never_trained"] for o in outcomes(trace)] == [[[[0, 16], [0, 17]]], []]
    assert trace.ids[-len(plain.ids) + 15 :] == plain.ids[15:]
    assert trace.matches(plain)
