"""A run and the memory of its snapshots: said at start, and training goes on where there is none."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from small_loop import rollback_policy, train
from test_rollback import outcomes

from midcourse.controller.buffers import Buffers, NoMemory
from midcourse.controller.start_report import report
from midcourse.policies.policy import Mode, parse_policy
from midcourse.policies.types import Status

STATE = 3 * 4 * (8 * 16 + 16 + 16 + 1) + 4 * 4
"""Bytes of the small loop's parameters, moments and step counters."""


def lines(run_dir: Path, policy: str) -> tuple[list[str], dict[str, object]]:
    trace = train(run_dir, policy, epochs=1)
    assert trace.controller is not None
    cycle = trace.controller._wiring.cycle
    assert cycle is not None
    told = report(cycle.run, parse_policy(policy), parse_policy(policy).mode, [])
    return [line for line in told.lines if line.startswith("snapshots")], told.facts["snapshots"]


@pytest.mark.parametrize("store", ["host", "device"])
def test_the_start_report_says_what_a_full_ring_takes_and_where(tmp_path: Path, store: str) -> None:
    said, facts = lines(tmp_path, f"{{version: 1, snapshots: {{keep: 3, reach: 160, store: {store}}}}}")
    assert facts["store"] == store
    assert facts["bytes"] == 4 * STATE
    assert len(said) == 1
    assert f"in the memory of the {store}" in said[0]


def test_where_none_are_kept_the_start_report_says_so(tmp_path: Path) -> None:
    said, facts = lines(tmp_path, "{version: 1, snapshots: {keep: 0}}")
    assert said == ["snapshots: none are kept"]
    assert facts["bytes"] == 0
    assert parse_policy("{version: 1, mode: observe}").mode is Mode.OBSERVE
    said, _ = lines(tmp_path / "observe", "{version: 1, mode: observe}")
    assert said == ["snapshots: none are kept"]


def test_all_buffers_are_there_after_the_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    make = Buffers._make

    def counted(self: Buffers, tensors: list[torch.Tensor], sharers: int) -> list[torch.Tensor]:
        made.append(len(tensors))
        return make(self, tensors, sharers)

    monkeypatch.setattr(Buffers, "_make", counted)
    trace = train(tmp_path, rollback_policy("replay"), triggers={28: 1.0, 50: 1.0})
    assert [o.status for o in outcomes(trace)] == [Status.APPLIED] * 2
    assert made == [4] + [16] * 7


def test_training_goes_on_where_there_is_no_memory_for_any_snapshot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def none(*_: object) -> list[torch.Tensor]:
        raise NoMemory("none left")

    monkeypatch.setattr(Buffers, "_make", none)
    with caplog.at_level(logging.WARNING, "midcourse"):
        trace = train(tmp_path, rollback_policy("replay"), triggers={28: 1.0})
    assert trace.matches(train())
    assert [o.status for o in outcomes(trace)] == [Status.REFUSED]
    assert len([record for record in caplog.records if "none left" in record.getMessage()]) == 1
