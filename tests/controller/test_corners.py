"""Corners: where passes end, where acts fail half-way, and loops written unlike the examples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_loop import Trace, train

from midcourse.controller.actuators.act import ACTUATORS
from midcourse.controller.journal.reader import JournalReader
from midcourse.policies.types import Outcome, Status

torch.set_num_threads(1)

TRIGGERED = """
version: 1
signals: [trigger]
snapshots: {{keep: 6, reach: 160, every: 5}}
rules:
  - name: pull
    when: trigger.value > 0.5
    budget: {{acts: 5, per: 1000}}
    ladder:
      - [{actions}]
"""

BACK = "rollback: {to: {steps: 12}, data: replay}"
QUARANTINE = "reweight: {source: b, to: 0, hold: 200}"
LAST_OF_A_PASS, MIDDLE = 20, 28


def pull(actions: str) -> str:
    return TRIGGERED.format(actions=actions)


def outcomes(trace: Trace) -> list[Outcome]:
    assert trace.controller is not None
    with JournalReader(trace.controller.run_dir) as reader:
        return list(reader.outcomes())


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> Any:
        raise OSError("disk full")

    monkeypatch.setitem(ACTUATORS, "checkpoint", fails)


# -- where a pass ends -------------------------------------------------------------------------------------


@pytest.mark.parametrize("tick", [LAST_OF_A_PASS, 2 * LAST_OF_A_PASS, 60])
def test_a_source_quarantined_at_its_end_makes_a_pass_no_longer(tmp_path: Path, tick: int) -> None:
    trace = train(tmp_path, pull(QUARANTINE), triggers={tick: 1.0}, mixture=True)
    assert len(trace.ids) == 60
    assert not any(100 <= i < 200 for batch in trace.ids[tick:] for i in batch)


@pytest.mark.parametrize("tick", [12, LAST_OF_A_PASS, 21, MIDDLE])
def test_a_rollback_that_also_reweights_restores_the_random_state(tmp_path: Path, tick: int) -> None:
    neutral = "reweight: {source: b, scale: 1.0}"
    trace = train(tmp_path, pull(f"{BACK}, {neutral}"), triggers={tick: 1.0}, mixture=True)
    assert [o.status for o in outcomes(trace)] == [Status.APPLIED]
    assert trace.matches(train(mixture=True))


# -- all of an act or none of it ---------------------------------------------------------------------------


@pytest.mark.parametrize("tick", [17, LAST_OF_A_PASS])
@pytest.mark.parametrize(
    ("first", "mixture"),
    [
        (BACK, False),
        (BACK.replace("replay", "skip"), True),
        (BACK.replace("replay", "forward"), True),
        (QUARANTINE, True),
        (f"{BACK}, {QUARANTINE}", True),
        ("scale_lr: {factor: 0.1}", False),
        ("reset_moments: {}", False),
    ],
)
def test_an_act_whose_second_half_fails_leaves_no_trace(
    tmp_path: Path, full_disk: None, first: str, tick: int, mixture: bool
) -> None:
    plain = train(mixture=mixture)
    trace = train(tmp_path, pull(f"{first}, checkpoint: {{}}"), triggers={tick: 1.0}, mixture=mixture)
    assert [o.status for o in outcomes(trace)] == [Status.FAILED]
    assert trace.ids == plain.ids
    assert trace.matches(plain)
