"""The ring: geometric ages, targets never after the onset, memory that is said and bounded."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from midcourse.controller import rng
from midcourse.controller.buffers import Buffers, buffers_for, free_memory
from midcourse.controller.ring import Moment, Ring, Snapshot
from midcourse.controller.training_state import SmallState
from midcourse.policies.model import Store

SMALL = SmallState([], {}, {}, [], 0)
RANDOM = rng.capture()


def host(free: int) -> Buffers:
    return buffers_for(torch.device("cpu"), Store.HOST, lambda: free)


def filled(ring: Ring, ticks: int, *, good: bool = True) -> Ring:
    for tick in range(ticks + 1):
        if ring.due(tick):
            moment = Moment(tick, tick, 0, None, RANDOM)
            snapshot = ring.take([torch.full((3,), float(tick))], SMALL, moment)
            assert snapshot is not None
            snapshot.good = good
    return ring


@settings(deadline=None, max_examples=30)
@given(st.integers(1000, 4000), st.integers(4, 8))
def test_few_slots_reach_far_and_stay_dense_near_now(ticks: int, keep: int) -> None:
    ring = filled(Ring(keep, 1000), ticks)
    ages = [ticks - snapshot.tick for snapshot in ring.snapshots]
    assert len(ages) <= keep
    assert ages == sorted(ages, reverse=True)
    assert max(ages) >= 300
    assert min(ages) <= ring.cadence


def test_every_snapshot_holds_what_it_was_given_although_buffers_are_reused() -> None:
    ring = filled(Ring(6, 200), 5000)
    for snapshot in ring.snapshots:
        assert snapshot.tensors[0].tolist() == [float(snapshot.tick)] * 3


def test_a_target_is_good_and_never_later_than_asked() -> None:
    ring = filled(Ring(4, 40, every=10), 30)
    assert [s.tick for s in ring.snapshots] == [0, 10, 20, 30]
    ring.snapshots[2].good = False
    found = ring.at_or_before(29)
    assert found is not None
    assert found.tick == 10
    assert ring.at_or_before(-1) is None


def test_what_was_judged_bad_is_never_good() -> None:
    ring = filled(Ring(4, 40, every=10), 30, good=False)
    ring.judged(20, healthy=True)
    ring.judged(30, healthy=False)
    assert [s.tick for s in ring.snapshots if s.good] == [20]


def test_a_rollback_forgets_the_abandoned_branch() -> None:
    ring = filled(Ring(6, 60, every=10), 50)
    ring.drop_after(ring.snapshots[2], tick=55)
    assert [s.tick for s in ring.snapshots] == [0, 10, 20]
    assert not ring.due(60)
    assert ring.due(65)


def test_a_pinned_snapshot_outlives_the_thinning() -> None:
    ring = filled(Ring(3, 30, every=10), 20)
    ring.pin(10, "rule@25")
    for tick in range(30, 100, 10):
        ring.take([torch.zeros(3)], SMALL, Moment(tick, tick, 0, None, RANDOM))
    assert 10 in [s.tick for s in ring.snapshots]
    ring.unpin("rule@25")
    for tick in range(100, 200, 10):
        ring.take([torch.zeros(3)], SMALL, Moment(tick, tick, 0, None, RANDOM))
    assert 10 not in [s.tick for s in ring.snapshots]


def take(ring: Ring, tick: int) -> Snapshot:
    taken = ring.take([torch.full((3,), float(tick))], SMALL, Moment(tick, tick, 0, None, RANDOM))
    assert taken is not None
    return taken


def test_pins_of_decisions_never_add_up() -> None:
    ring = filled(Ring(4, 40, every=10), 30)
    ring.pin(10, "first@25")
    ring.pin(20, "second@35")
    assert [(s.tick, s.pins) for s in ring.snapshots if s.pins] == [(20, {"second@35"})]
    ring.pin(99, "third@45")
    assert not any(s.pins for s in ring.snapshots)


def test_a_snapshot_is_held_beside_the_pin_of_a_decision() -> None:
    ring = filled(Ring(4, 40, every=10), 30)
    held = ring.snapshots[1]
    ring.pin(10, "first@25")
    ring.hold(held, "disk")
    ring.pin(20, "second@35")
    assert held.pins == {"disk"}
    ring.unpin("second@35")
    assert held.pins == {"disk"}
    ring.unpin("disk")
    assert not any(s.pins for s in ring.snapshots)


@pytest.mark.parametrize("forget", [Ring.clear, lambda ring: ring.drop_after(ring.snapshots[0], 40)])
def test_a_held_snapshot_stays_whole_although_the_ring_forgets_it(forget: Callable[[Ring], None]) -> None:
    ring = filled(Ring(4, 40, every=10), 30)
    held = ring.snapshots[1]
    ring.pin(10, "first@25")
    ring.hold(held, "disk")
    forget(ring)
    assert held not in ring.snapshots
    for tick in range(50, 200, 10):
        take(ring, tick)
    assert held.tensors[0].tolist() == [10.0] * 3
    at = held.tensors[0].data_ptr()
    ring.unpin("disk")
    copies = [ring.copy([torch.zeros(3)])[0].data_ptr() for _ in range(3)]
    assert at in copies, "its buffer serves again"


def test_where_all_are_pinned_the_newest_is_kept_beside_them() -> None:
    ring = Ring(1, 40, every=10)
    ring.hold(take(ring, 0), "disk")
    take(ring, 10)
    take(ring, 20)
    assert [s.tick for s in ring.snapshots] == [0, 20]
    ring.unpin("disk")
    take(ring, 30)
    assert [s.tick for s in ring.snapshots] == [30]


def test_a_resumed_run_tells_when_the_last_one_was_taken() -> None:
    ring = Ring(4, 40, every=10)
    assert ring.due(100)
    ring.last_tick = 95
    assert not ring.due(100)
    assert ring.due(105)
    assert take(ring, 105).tick == ring.last_tick


def test_short_memory_lowers_the_number_of_snapshots_and_says_so() -> None:
    ring = Ring(6, 1000, buffers=host(free=5 * 3 * 4000))
    said = ring.fit([torch.zeros(1000)])
    assert said is not None
    assert ring.keep == 3
    none = Ring(6, 1000, buffers=host(free=1000))
    assert "no rollback" in (none.fit([torch.zeros(1000)]) or "")
    assert not none.due(0)


def test_the_cadence_follows_the_measured_stall() -> None:
    time = iter([0.0, 7.0, 7.5])
    ring = Ring(6, 1000, clock=lambda: next(time))
    ring.take([torch.zeros(3)], SMALL, Moment(0, 0, 0, None, RANDOM))
    ring.adapt(step_seconds=0.1)
    assert ring.cadence == 500
    ring.adapt(step_seconds=10.0)
    assert ring.cadence == 31


# -- memory ------------------------------------------------------------------------------------------------


def fails(*_: object, **__: object) -> torch.Tensor:
    raise RuntimeError("none left")


def test_what_is_reserved_serves_all_later_snapshots_and_an_act(monkeypatch: pytest.MonkeyPatch) -> None:
    ring = Ring(4, 40, every=10)
    ring.take([torch.zeros(1)], SMALL, Moment(0, 0, 0, None, RANDOM))  # before there are moments
    assert ring.reserve([torch.zeros(3)]) is None
    assert ring.bytes == 4 + 5 * 12
    assert ring.bytes_when_full([torch.zeros(3)]) == 5 * 12
    monkeypatch.setattr(torch, "zeros_like", fails)
    for tick in range(10, 500, 10):
        take(ring, tick)
        ring.release(ring.copy([torch.zeros(3)]))
    assert ring.bytes == 5 * 12
    ring.drop_after(ring.snapshots[1], tick=495)
    assert ring.bytes == 5 * 12, "what a rollback frees is used again"


def test_a_reserve_that_memory_does_not_hold_lowers_the_number_and_says_so() -> None:
    free = [1000 * n for n in (9, 8, 7, 5, 4, 3, 0)]
    ring = Ring(6, 1000, buffers=buffers_for(torch.device("cpu"), Store.HOST, lambda: free.pop(0)))
    said = ring.reserve([torch.zeros(800)], sharers=1)  # 3200 bytes, of which five are made
    assert said == "a snapshot takes 0 MiB and 6 do not fit in free memory: keeping 4"
    assert len(free) == 1
    assert ring.keep == 4


@pytest.mark.parametrize(
    "error",
    [MemoryError("no more"), torch.OutOfMemoryError("no more"), RuntimeError("no more\nand a trace")],
    ids=lambda error: type(error).__name__,
)
def test_a_snapshot_without_memory_is_dropped_and_said_once(
    error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_more(*_: object, **__: object) -> torch.Tensor:
        raise error

    ring = filled(Ring(6, 60, every=10), 30)
    wider = [torch.zeros(4)]
    monkeypatch.setattr(torch, "zeros_like", no_more)
    for tick in (40, 50):
        assert ring.due(tick)
        assert ring.take(wider, SMALL, Moment(tick, tick, 0, None, RANDOM)) is None
        assert not ring.due(tick + 1), "it is not tried at every step"
    assert [record.getMessage() for record in caplog.records] == [
        "no snapshot of tick 40 (no more): keeping 3 from now on"
    ]
    assert ring.at_or_before(99) is ring.snapshots[-1], "what there is can be returned to"
    monkeypatch.undo()
    for tick in range(60, 120, 10):
        assert ring.take(wider, SMALL, Moment(tick, tick, 0, None, RANDOM)) is not None
    assert len(ring) == ring.keep < 6


def test_a_device_store_keeps_tensors_where_they_are_and_asks_for_its_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cuda, asked = torch.device("cuda", 1), []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: asked.append(device) or (4321, 9999))
    assert free_memory(cuda, Store.DEVICE) == 4321
    assert asked == [cuda]
    assert free_memory(cuda, Store.HOST) > 9999
    assert free_memory(torch.device("cpu"), Store.DEVICE) > 9999
    assert len(asked) == 1
    live = [torch.zeros(3, device="meta"), torch.zeros(())]  # a step counter stays on the host
    for store, place in ((Store.DEVICE, "meta"), (Store.HOST, "cpu")):
        buffer = buffers_for(torch.device("meta"), store).lend(live)
        assert [t.device.type for t in buffer] == [place, "cpu"]


def test_pinned_memory_is_counted_as_it_is_rounded() -> None:
    pinned = Buffers(torch.device("cuda"), Store.HOST, lambda: 1 << 30, None)
    assert pinned.bytes_of([torch.zeros(3), torch.zeros(4), torch.zeros(0)]) == 16 + 16
    assert host(free=1).bytes_of([torch.zeros(3), torch.zeros(4), torch.zeros(0)]) == 12 + 16


def test_a_buffer_lies_as_its_tensor_does() -> None:
    live = torch.zeros(2, 3, 4, 4).to(memory_format=torch.channels_last)
    (kept,) = Ring(1, 10).copy([live])
    assert kept.stride() == live.stride()


def test_snapshots_that_not_all_processes_have_are_forgotten() -> None:
    ring = filled(Ring(4, 40, every=10), 30)
    ring.keep_only({0, 20, 99})
    assert [s.tick for s in ring.snapshots] == [0, 20]


# -- any course --------------------------------------------------------------------------------------------

COURSES = st.lists(
    st.one_of(
        st.tuples(st.just("take"), st.integers(1, 60)),
        st.tuples(st.sampled_from(["pin", "hold", "drop_after"]), st.integers(0, 7)),
        st.tuples(st.sampled_from(["unpin", "let go"]), st.just(0)),
    ),
    max_size=120,
)


@settings(deadline=None, max_examples=200)
@given(COURSES, st.integers(4, 7), st.integers(20, 400))
def test_whatever_happens_the_ring_keeps_its_promises(
    course: list[tuple[str, int]], keep: int, reach: int
) -> None:
    ring, now = Ring(keep, reach), 0
    first, held = take(ring, now), None
    for what, n in [*course, ("take", 1)]:
        snapshot = ring.snapshots[n % len(ring)]
        if what == "take":
            pinned = [s for s in ring.snapshots if s.pins]
            now += n
            newest = take(ring, now)
            assert ring.snapshots[-1] is newest
            assert all(s in ring.snapshots for s in pinned)
        elif what == "pin":
            ring.pin(snapshot.tick, f"rule@{now}.{n}")
            trial = f"rule@{now}.{n}"
        elif what == "unpin":
            for pin in {pin for s in ring.snapshots for pin in s.pins} - {"disk"}:
                ring.unpin(pin)
        elif what == "hold" and held is None:
            held = snapshot
            ring.hold(held, "disk")
        elif what == "let go":
            ring.unpin("disk")
            held = None
        elif what == "drop_after":
            ring.drop_after(snapshot, now)
        in_force = {pin for s in ring.snapshots for pin in s.pins} - {"disk"}
        assert len(in_force) <= 1
        assert in_force <= ({trial} if in_force else set())
        assert len(ring) <= keep
        assert [s.tick for s in ring.snapshots] == sorted({s.tick for s in ring.snapshots})
        for s in (*ring.snapshots, *([held] if held else [])):
            assert s.tensors[0].tolist() == [float(s.tick)] * 3
        if ring.snapshots[0] is not first:
            assert now - ring.snapshots[0].tick >= reach / 2
    assert ring.bytes <= 12 * (keep + 2)
