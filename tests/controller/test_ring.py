"""The ring: geometric ages, targets never after the onset, memory that is said and bounded."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from midcourse.controller import rng
from midcourse.controller.buffers import Buffers, buffers_for
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
