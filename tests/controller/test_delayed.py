"""Signals that are read a tick late, as on a GPU: complete, in order, and none is lost."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from small_loop import Trace, rollback_policy, train

from midcourse.controller import assembly
from midcourse.controller.exchange import Exchange
from midcourse.controller.journal.reader import JournalReader
from midcourse.controller.orders import Orders
from midcourse.controller.pilot import Pilot
from midcourse.controller.run import Run
from midcourse.controller.snapshots import Snapshots
from midcourse.policies.types import Status

torch.set_num_threads(1)

QUIET = """
version: 1
signals: [trigger]
snapshots: {keep: 6, reach: 160, every: 5}
rules:
  - name: pull
    when: trigger.value > 0.5
    ladder:
      - [scale_lr: {factor: 0.5}]
"""


@pytest.fixture(autouse=True)
def late(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU nothing is late by itself."""
    monkeypatch.setattr(assembly, "delays", lambda policy, device: True)


def read(trace: Trace) -> tuple[list[Any], list[Any], list[Any]]:
    assert trace.controller is not None
    with JournalReader(trace.controller.run_dir) as reader:
        return list(reader.samples()), list(reader.decisions()), list(reader.outcomes())


def watched(monkeypatch: pytest.MonkeyPatch, name: str, seen: list[tuple[int, Any]]) -> None:
    """Note at which tick a method of the pilot is called, and for which."""
    original = getattr(Pilot, name)
    runs: list[Run] = []
    measure = Exchange.measure

    def measured(self: Exchange, sample: Any) -> None:
        runs[:] = [self._run]
        measure(self, sample)

    def noted(self: Pilot, sample: Any) -> Any:
        seen.append((runs[0].clock.tick, sample.tick))
        return original(self, sample)

    monkeypatch.setattr(Exchange, "measure", measured)
    monkeypatch.setattr(Pilot, name, noted)


def test_samples_are_complete_in_order_one_tick_late_and_the_last_is_judged_at_close(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, Any]] = []
    watched(monkeypatch, "judge", seen)
    trace = train(tmp_path, QUIET, epochs=2, norms_every=7)
    assert seen == [*((tick + 1, tick) for tick in range(1, 40)), (40, 40)]
    samples, *_ = read(trace)
    assert [sample.tick for sample in samples] == list(range(1, 41))
    for sample, loss in zip(samples, trace.losses, strict=True):
        assert sample.signals["loss"] == pytest.approx(loss)
        assert {"grad_norm", "lr", "trigger"} <= sample.signals.keys()
        assert ("update_ratio" in sample.signals) == (sample.tick % 7 == 1)
        assert "control" not in sample.signals


@pytest.mark.parametrize("trigger", [17, 28, 58])
@pytest.mark.parametrize("loop", [{}, {"mixture": True}, {"accumulation": 3}])
def test_replay_ends_bit_for_bit_where_an_undisturbed_run_ends(
    tmp_path: Path, trigger: int, loop: dict[str, Any]
) -> None:
    if loop.get("accumulation") and trigger > 20:
        trigger = 16
    plain = train(**loop)
    replayed = train(tmp_path, rollback_policy("replay"), triggers={trigger: 1.0}, **loop)
    assert [o.status for o in read(replayed)[2]] == [Status.APPLIED]
    assert replayed.matches(plain)
    assert replayed.losses[-5:] == plain.losses[-5:]


def test_samples_of_an_abandoned_branch_are_dropped(tmp_path: Path) -> None:
    trace = train(tmp_path, rollback_policy("replay"), triggers={17: 1.0, 18: 1.0})
    samples, decisions, outcomes = read(trace)
    # 17 is judged after 18 was made; 18, on its way then, lies on the branch that was left.
    assert [s.tick for s in samples] == [*range(1, 18), *range(19, samples[-1].tick + 1)]
    assert [s.branch for s in samples] == [0] * 17 + [1] * (len(samples) - 17)
    assert len(decisions) == len(outcomes) == 1
    assert outcomes[0].details["rollback"]["from_step"] == 18


def test_what_is_decided_at_the_last_sample_is_settled(tmp_path: Path) -> None:
    trace = train(tmp_path, QUIET, triggers={60: 1.0})
    samples, decisions, outcomes = read(trace)
    assert samples[-1].tick == 60
    assert [d.tick for d in decisions] == [60]
    assert (outcomes[0].status, outcomes[0].reason) == (Status.FAILED, "the run ended first")


def test_a_snapshot_is_good_only_when_its_own_sample_was_judged_and_is_taken_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[tuple[int, bool]] = []
    good: list[tuple[int, list[int]]] = []
    take, judge = Snapshots.take_if_due, Orders.judge

    def take_if_due(self: Snapshots, *args: Any, **kwargs: Any) -> bool:
        before = [id(s) for s in self._run.ring.snapshots]
        was_due = take(self, *args, **kwargs)
        taken.extend((s.tick, s.good) for s in self._run.ring.snapshots if id(s) not in before)
        return was_due

    def judged(self: Orders, sample: Any) -> None:
        judge(self, sample)
        good.append((sample.tick, [s.tick for s in self._run.ring.snapshots if s.good]))

    monkeypatch.setattr(Snapshots, "take_if_due", take_if_due)
    monkeypatch.setattr(Orders, "judge", judged)
    train(tmp_path, QUIET, epochs=2, triggers=dict.fromkeys(range(20, 24), 1.0))
    ticks = [tick for tick, _ in taken]
    assert ticks == sorted(set(ticks))
    assert all(b - a >= 5 for a, b in pairwise(ticks))
    assert taken[0] == (0, True)
    assert not any(fine for _, fine in taken[1:])
    for tick, ready in good:
        assert all(snapshot <= tick for snapshot in ready)
    suspicious = {tick for tick in ticks if 20 <= tick < 24}
    assert not suspicious & set(good[-1][1])
    assert len(good[-1][1]) > 2


def test_observe_is_bitwise_the_same(tmp_path: Path) -> None:
    plain = train(epochs=2, triggers={20: 1.0})
    assert train(tmp_path, QUIET.replace("version: 1", "version: 1\nmode: observe"), epochs=2).matches(plain)


def test_a_failure_while_the_last_samples_are_judged_harms_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(self: Pilot, sample: Any) -> Any:
        raise RuntimeError("a bug of ours")

    monkeypatch.setattr(Pilot, "judge", fails)
    assert train(tmp_path, QUIET, epochs=1).matches(train(epochs=1))
