"""Rolling back again and again costs no memory."""

from __future__ import annotations

import gc
import logging
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import torch
from small_loop import BATCH, EXAMPLES, StatefulStream, train

from midcourse.controller import feed, snapshots
from midcourse.controller.journal.reader import JournalReader
from midcourse.policies.types import Status

torch.set_num_threads(1)

POLICY = """
version: 1
signals: [trigger]
snapshots: {{keep: 4, reach: 40, every: 2}}
rules:
  - name: back
    when: trigger.value > 0.5
    budget: {{acts: 20, per: 60}}
    ladder:
      - [rollback: {{to: before_onset, data: {data}}}, scale_lr: {{factor: 0.9, hold: 2}}]
"""

WARM_UP, ROLLBACKS, EVERY_TICKS = 60, 500, 3
ALLOWED_BYTES_A_ROLLBACK = 128
"""Less than the smallest thing that a rollback could leave behind, one window of batches. Not 0: the lists
that the loop itself keeps live on in blocks that our code allocated and freed."""


def live_tensors() -> int:
    """Bytes of all tensors that are alive."""
    gc.collect()
    tensors = [obj for obj in gc.get_objects() if issubclass(type(obj), torch.Tensor)]
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def allocated() -> int:
    """Bytes that Midcourse's own code has allocated and not given back."""
    package = Path(feed.__file__).parents[1]
    rooms = ("controller", "policies", "monitors")
    ours = [tracemalloc.Filter(True, f"{package / room}/*") for room in rooms]
    return sum(trace.size for trace in tracemalloc.take_snapshot().filter_traces(ours).traces)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("data", "how", "batches_a_turn"),
    [("skip", {}, 3), ("replay", {"stream": StatefulStream}, 2), ("forward", {"mixture": True}, 3)],
)
def test_five_hundred_rollbacks_leave_nothing_behind(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    data: str,
    how: dict[str, Any],
    batches_a_turn: int,
) -> None:
    caplog.set_level(logging.ERROR, "midcourse")  # what is logged would be kept by the test itself
    for room in (feed, snapshots):
        monkeypatch.setattr(room, "PASSES", 4)  # so that as many are remembered soon
    turns = WARM_UP + ROLLBACKS
    tensors: list[int] = []
    own: list[int] = []
    told = 0

    def count(*_: int) -> None:
        nonlocal told
        told += 1
        if told == WARM_UP // 3:
            tracemalloc.start()  # not before: the imports of the first steps would take minutes
        if told in (WARM_UP, turns):
            tensors.append(live_tensors())
            own.append(allocated())

    try:
        train(
            tmp_path,
            POLICY.format(data=data),
            triggers=dict.fromkeys(range(EVERY_TICKS, EVERY_TICKS * turns + 1, EVERY_TICKS), 1.0),
            epochs=batches_a_turn * turns * BATCH // EXAMPLES + 1,
            per_epoch=True,
            schedule=lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.99),
            on_rollback=count,
            **how,
        )
    finally:
        tracemalloc.stop()
    with JournalReader(tmp_path) as reader:
        assert [outcome.status for outcome in reader.outcomes()] == [Status.APPLIED] * turns
    assert tensors[1] - tensors[0] <= ALLOWED_BYTES_A_ROLLBACK * ROLLBACKS
    assert own[1] - own[0] <= ALLOWED_BYTES_A_ROLLBACK * ROLLBACKS
