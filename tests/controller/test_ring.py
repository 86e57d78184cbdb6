"""The ring: geometric ages, targets never after the onset, memory that is said and bounded."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from midcourse.controller import rng
from midcourse.controller.ring import Moment, Ring
from midcourse.controller.training_state import SmallState

PLENTY = 1 << 40
SMALL = SmallState([], {}, {}, [], 0)
RANDOM = rng.capture()


def filled(ring: Ring, ticks: int, *, good: bool = True) -> Ring:
    for tick in range(ticks + 1):
        if ring.due(tick):
            moment = Moment(tick, tick, 0, None, RANDOM)
            ring.take([torch.full((3,), float(tick))], SMALL, moment).good = good
    return ring


@settings(deadline=None, max_examples=30)
@given(st.integers(1000, 4000), st.integers(4, 8))
def test_few_slots_reach_far_and_stay_dense_near_now(ticks: int, keep: int) -> None:
    ring = filled(Ring(keep, 1000, available=lambda: PLENTY), ticks)
    ages = [ticks - snapshot.tick for snapshot in ring.snapshots]
    assert len(ages) <= keep
    assert ages == sorted(ages, reverse=True)
    assert max(ages) >= 300
    assert min(ages) <= ring.cadence


def test_every_snapshot_holds_what_it_was_given_although_buffers_are_reused() -> None:
    ring = filled(Ring(6, 200, available=lambda: PLENTY), 5000)
    for snapshot in ring.snapshots:
        assert snapshot.tensors[0].tolist() == [float(snapshot.tick)] * 3


def test_a_target_is_good_and_never_later_than_asked() -> None:
    ring = filled(Ring(4, 40, every=10, available=lambda: PLENTY), 30)
    assert [s.tick for s in ring.snapshots] == [0, 10, 20, 30]
    ring.snapshots[2].good = False
    found = ring.at_or_before(29)
    assert found is not None
    assert found.tick == 10
    assert ring.at_or_before(-1) is None


def test_what_was_judged_bad_is_never_good() -> None:
    ring = filled(Ring(4, 40, every=10, available=lambda: PLENTY), 30, good=False)
    ring.judged(20, healthy=True)
    ring.judged(30, healthy=False)
    assert [s.tick for s in ring.snapshots if s.good] == [20]


def test_a_rollback_forgets_the_abandoned_branch() -> None:
    ring = filled(Ring(6, 60, every=10, available=lambda: PLENTY), 50)
    ring.drop_after(ring.snapshots[2], tick=55)
    assert [s.tick for s in ring.snapshots] == [0, 10, 20]
    assert not ring.due(60)
    assert ring.due(65)


def test_a_pinned_snapshot_outlives_the_thinning() -> None:
    ring = filled(Ring(3, 30, every=10, available=lambda: PLENTY), 20)
    ring.pin(10, "rule@25")
    for tick in range(30, 100, 10):
        ring.take([torch.zeros(3)], SMALL, Moment(tick, tick, 0, None, RANDOM))
    assert 10 in [s.tick for s in ring.snapshots]
    ring.unpin("rule@25")
    for tick in range(100, 200, 10):
        ring.take([torch.zeros(3)], SMALL, Moment(tick, tick, 0, None, RANDOM))
    assert 10 not in [s.tick for s in ring.snapshots]


def test_short_memory_lowers_the_number_of_snapshots_and_says_so() -> None:
    ring = Ring(6, 1000, available=lambda: 5 * 3 * 4000)
    said = ring.fit([torch.zeros(1000)])
    assert said is not None
    assert ring.keep == 3
    none = Ring(6, 1000, available=lambda: 1000)
    assert "no rollback" in (none.fit([torch.zeros(1000)]) or "")
    assert not none.due(0)


def test_the_cadence_follows_the_measured_stall() -> None:
    time = iter([0.0, 0.5] * 10)
    ring = Ring(6, 1000, available=lambda: PLENTY, clock=lambda: next(time))
    ring.take([torch.zeros(3)], SMALL, Moment(0, 0, 0, None, RANDOM))
    ring.adapt(step_seconds=0.1)
    assert ring.cadence == 500
    ring.adapt(step_seconds=10.0)
    assert ring.cadence == 31
