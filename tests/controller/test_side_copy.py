"""Copies beside a device's training, with a device that does the side stream's work as late as it may."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from small_loop import rollback_policy, train
from test_rollback import outcomes

from midcourse.controller import assembly, rng
from midcourse.controller.buffers import Buffers, copy_into
from midcourse.controller.ring import Moment, Ring, Snapshot
from midcourse.controller.side_copy import SideCopy
from midcourse.controller.training_state import SmallState
from midcourse.policies.model import Store
from midcourse.policies.types import Status

SMALL = SmallState([], {}, {}, [], 0)
PARAMETER, BUFFER = 0, 1


class LateDevice:
    """The current stream does its work at once, the side stream only when somebody waits for it."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.milliseconds = 0.0
        self._work: list[Callable[[], object]] = []
        self._stream = "current"

    @contextmanager
    def side(self) -> Iterator[None]:
        self._stream = "side"
        try:
            yield
        finally:
            self._stream = "current"

    def record(self) -> LateEvent:
        self.log.append(f"{self._stream}: record")
        return LateEvent(self, len(self._work) if self._stream == "side" else 0, self.milliseconds)

    def wait(self, event: LateEvent) -> None:
        self.log.append(f"{self._stream}: wait")
        if self._stream == "current":
            self.work_until(event.number)

    def copy(self, to: list[torch.Tensor], live: list[torch.Tensor]) -> None:
        self.log.append(f"{self._stream}: copy {len(live)}")
        if self._stream == "side":
            self._work.append(lambda: copy_into(to, live))
        else:
            copy_into(to, live)

    def work_until(self, number: int) -> None:
        for i in range(number):
            self._work[i]()
            self._work[i] = lambda: None


class LateEvent:
    """A place in the work of a stream of the late device."""

    def __init__(self, device: LateDevice, number: int, at: float) -> None:
        self.at = at
        self._device = device
        self.number = number

    def query(self) -> bool:
        return self._device.milliseconds >= self.at

    def synchronize(self) -> None:
        self._device.log.append("host: wait")
        self._device.work_until(self.number)

    def elapsed_time(self, end_event: Any) -> float:
        return float(end_event.at - self.at)


@pytest.fixture
def device() -> LateDevice:
    return LateDevice()


def buffers(device: LateDevice) -> Buffers:
    return Buffers(torch.device("cpu"), Store.HOST, lambda: 1 << 40, SideCopy(device, device.copy))


def take(ring: Ring, live: list[torch.Tensor], tick: int = 0) -> Snapshot:
    taken = ring.take(live, SMALL, Moment(tick, tick, 0, None, rng.capture()), lambda: {BUFFER})
    assert taken is not None
    return taken


def test_what_a_forward_pass_may_change_goes_first_and_the_next_step_waits_for_the_rest(
    device: LateDevice,
) -> None:
    ring = Ring(2, 10, buffers=buffers(device))
    take(ring, [torch.zeros(3), torch.zeros(3), torch.zeros(3)])
    copied = ["current: copy 1", "current: record", "side: wait", "side: copy 2", "side: record"]
    assert device.log == copied
    ring.settle()
    assert device.log[len(copied) :] == ["current: record", "current: wait"]
    ring.settle()
    assert len(device.log) == len(copied) + 2, "there is nothing more to wait for"


@pytest.mark.parametrize("settled", [True, False])
def test_training_disturbs_no_copy_as_long_as_steps_wait_for_it(device: LateDevice, settled: bool) -> None:
    ring, live = Ring(2, 10, buffers=buffers(device)), [torch.zeros(3), torch.zeros(3)]
    taken = take(ring, live)
    live[BUFFER] += 1
    if settled:
        ring.settle()
    live[PARAMETER] += 1
    taken.wait()
    assert taken.tensors[BUFFER].tolist() == [0.0] * 3
    assert taken.tensors[PARAMETER].tolist() == [0.0 if settled else 1.0] * 3


def test_all_is_copied_before_a_forward_pass_where_nobody_says_what_it_changes(device: LateDevice) -> None:
    ring = Ring(2, 10, buffers=buffers(device))
    ring.take([torch.zeros(3), torch.zeros(3)], SMALL, Moment(0, 0, 0, None, rng.capture()))
    assert "current: copy 2" in device.log
    assert "side: copy 0" in device.log


def test_the_host_reads_a_snapshot_after_waiting_for_it(device: LateDevice) -> None:
    taken = take(Ring(2, 10, buffers=buffers(device)), [torch.ones(3), torch.ones(3)])
    assert taken.tensors[PARAMETER].tolist() == [0.0] * 3
    taken.wait()
    assert taken.tensors[PARAMETER].tolist() == [1.0] * 3


def test_a_snapshot_for_the_disk_is_complete_when_its_writer_has_waited(device: LateDevice) -> None:
    ring, live = Ring(2, 10, buffers=buffers(device)), [torch.ones(3), torch.ones(3)]
    moment = Moment(0, 0, 0, None, rng.capture())
    for_disk = ring.snapshot(live, SMALL, moment, lambda: {BUFFER})
    assert for_disk.tensors[PARAMETER].tolist() == [0.0] * 3
    for_disk.wait()
    assert for_disk.tensors[PARAMETER].tolist() == [1.0] * 3
    assert len(ring) == 0
    ring.release(for_disk.tensors)
    assert ring.copy(live) is for_disk.tensors, "its buffer serves again"


def test_the_state_before_an_act_is_kept_after_the_copy_that_is_under_way(device: LateDevice) -> None:
    ring, live = Ring(2, 10, buffers=buffers(device)), [torch.ones(3), torch.ones(3)]
    taken = take(ring, live)
    before = ring.copy(live)
    live[PARAMETER].zero_()  # as a restore does next
    assert taken.tensors[PARAMETER].tolist() == before[PARAMETER].tolist() == [1.0] * 3


def test_the_second_of_two_copies_comes_after_the_first(device: LateDevice) -> None:
    ring, live = Ring(2, 10, buffers=buffers(device)), [torch.zeros(3), torch.zeros(3)]
    first = take(ring, live, tick=0)
    second = take(ring, live, tick=1)
    live[PARAMETER] += 1
    assert first.tensors[PARAMETER].tolist() == [0.0] * 3
    second.wait()
    assert second.tensors[PARAMETER].tolist() == [1.0] * 3, "it is this one that the next step waits for"


@pytest.mark.parametrize(("arrives", "stalled"), [(130.0, 0.03), (90.0, 0.0)])
def test_the_cadence_follows_what_the_device_waited(
    device: LateDevice, arrives: float, stalled: float
) -> None:
    ring = Ring(6, 1000, clock=lambda: 0.0, buffers=buffers(device))
    device.milliseconds = arrives
    take(ring, [torch.zeros(3), torch.zeros(3)])
    device.milliseconds = 100.0
    ring.settle()
    ring.adapt(step_seconds=0.05)
    assert ring.cadence == 31
    device.milliseconds = 200.0
    for _ in range(2):
        ring.adapt(step_seconds=0.05)
        assert ring.stall == pytest.approx(stalled), "told once"
    assert ring.cadence == max(31, round(stalled / (0.01 * 0.05)))


@pytest.mark.parametrize("data", ["replay", "skip", "forward"])
def test_a_whole_run_does_as_it_does_without_a_side_stream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: LateDevice, data: str
) -> None:
    triggers = {17: 1.0, 45: 1.0}
    usual = train(tmp_path / "usual", rollback_policy(data), triggers=triggers)
    monkeypatch.setattr(assembly, "buffers_for", lambda *_: buffers(device))
    beside = train(tmp_path / "beside", rollback_policy(data), triggers=triggers)
    assert [o.status for o in outcomes(beside)] == [Status.APPLIED] * 2
    assert beside.losses == usual.losses
    assert beside.matches(usual)
    assert "side: copy 0" not in device.log
    assert device.log.count("current: wait") > 2
    assert device.log.count("host: wait") == 2, "once for each rollback, which reads the copy back"


def test_the_host_of_a_run_that_is_let_be_waits_for_no_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: LateDevice
) -> None:
    monkeypatch.setattr(assembly, "buffers_for", lambda *_: buffers(device))
    assert train(tmp_path, rollback_policy("replay")).matches(train())
    assert device.log.count("side: copy 16") > 5
    assert "host: wait" not in device.log
