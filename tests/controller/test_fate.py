"""What becomes of each batch at a rollback: as the outcome says, and as the ids show that the loop saw."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from small_loop import Trace, rollback_policy, train

from midcourse.controller.actuators.fate import ranges
from midcourse.controller.journal.reader import JournalReader
from midcourse.policies.types import Outcome, Status

torch.set_num_threads(1)

PASSES = 3
POLICY = """
version: 1
signals: [trigger]
snapshots: {{keep: 8, reach: 160, every: {every}}}
rules:
  - name: back
    when: trigger.value > 0.5
    budget: {{acts: 5, per: 1000}}
    ladder:
      - [rollback: {{to: before_onset, data: {first}}}]
      - [rollback: {{to: before_onset, data: {second}}}]
"""


@cache
def undisturbed(batches: int) -> list[tuple[int, ...]]:
    return [tuple(ids) for ids in train(mixture=True, batches=batches, epochs=PASSES).ids]


def disturbed(batches: int, policy: str, onsets: Mapping[int, int]) -> tuple[list[int], list[Outcome]]:
    """The numbers of the batches that a loop saw, in order, and what became of the acts.

    ``onsets`` maps the ticks at which a change is noticed to those at which it began.
    """

    def onset_of(_: Any, readings: Any, *__: Any) -> int | None:
        (reading,) = readings["trigger"].values()
        return onsets[reading.tick]

    triggers = dict.fromkeys(onsets, 1.0)
    with TemporaryDirectory() as folder, mock.patch("midcourse.policies.evidence.onset_of", onset_of):
        how: Any = {"mixture": True, "batches": batches, "epochs": PASSES}
        trace: Trace = train(Path(folder), policy, triggers=triggers, **how)
        with JournalReader(Path(folder)) as reader:
            outcomes = reader.outcomes()
    number = {ids: i for i, ids in enumerate(undisturbed(batches))}
    assert len(number) == PASSES * batches
    return [number[tuple(ids)] for ids in trace.ids], outcomes


def numbers(told: list[list[list[int]]], batches: int) -> list[int]:
    """The batches of half-open ranges of (pass, batch), counted through all passes."""
    keys = [divmod(number, batches) for number in range(PASSES * batches)]
    return [i for i, key in enumerate(keys) for start, stop in told if tuple(start) <= key < tuple(stop)]


@st.composite
def disturbances(draw: st.DrawFn) -> tuple[int, int, dict[int, int]]:
    """Batches a pass, snapshot cadence, and one or two acts: when they are due, and since when."""
    batches, every = draw(st.integers(2, 7)), draw(st.integers(1, 6))
    first = draw(st.integers(1, PASSES * batches))
    onsets = {first: draw(st.integers(1, first))}
    if draw(st.booleans()):
        second = first + draw(st.integers(1, 6))
        onsets[second] = draw(st.integers(1, second))
    return batches, every, onsets


@settings(max_examples=25, deadline=None)
@given(disturbances())
@example((5, 2, {5: 5}))  # the last batch of a pass, done before the next begins
@example((5, 4, {6: 5}))  # guilty across a pass's end
@example((5, 3, {15: 14}))  # the last of the run
@example((4, 1, {6: 3, 7: 7}))  # a second window beside the first
@example((4, 6, {9: 9, 12: 2}))  # a second one around the first
def test_skip_leaves_out_the_guilty_batches_and_no_other_and_gives_none_twice(
    case: tuple[int, int, dict[int, int]],
) -> None:
    batches, every, onsets = case
    policy = POLICY.format(every=every, first="skip", second="skip")
    seen, outcomes = disturbed(batches, policy, onsets)
    tick_of_course = list(range(1, len(seen) + 1))
    guilty: set[int] = set()
    for outcome, (tick, onset) in zip(outcomes, onsets.items(), strict=False):
        assert outcome.status is Status.APPLIED
        target = outcome.details["rollback"]["target_tick"]
        assert target < onset
        guilty |= {seen[t - 1] for t in tick_of_course if max(onset, target + 1) <= t <= tick}
        tick_of_course = [t for t in tick_of_course if t <= target or t > tick]
    assert len(outcomes) == sum(tick <= len(seen) for tick in onsets)
    course = [seen[t - 1] for t in tick_of_course]
    assert course == [i for i in range(PASSES * batches) if i not in guilty]


@settings(max_examples=25, deadline=None)
@given(disturbances(), *[st.sampled_from(["forward", "skip", "replay"])] * 2)
@example((4, 1, {6: 5, 8: 4}), "skip", "replay")
@example((4, 2, {7: 7, 9: 3}), "replay", "forward")
@example((4, 2, {7: 5, 10: 10}), "forward", "skip")
def test_the_outcome_tells_what_becomes_of_every_batch(
    case: tuple[int, int, dict[int, int]], first: str, second: str
) -> None:
    batches, every, onsets = case
    policy = POLICY.format(every=every, first=first, second=second)
    seen, outcomes = disturbed(batches, policy, onsets)
    never: set[int] = set()
    lost: set[int] = set()
    course = dict(enumerate(seen, 1))
    for outcome, tick in zip(outcomes, onsets, strict=False):
        details = outcome.details["rollback"]
        target = details["target_tick"]
        assert details["undone_ticks"] == [target + 1, tick]
        abandoned = {course.pop(t) for t in range(target + 1, tick + 1) if t in course}
        told = {k: numbers(details[k], batches) for k in ("never_trained", "trained_twice", "undone")}
        together = [number for told_of in told.values() for number in told_of]
        assert len(set(together)) == len(together)
        # What was left out before, or undone by an act that went forward, was not trained on just now.
        assert abandoned <= set(together) <= abandoned | never | lost
        assert bool(told["undone"]) <= (details["data"] == "forward")
        assert bool(told["never_trained"]) <= (details["data"] == "skip")
        never |= set(told["never_trained"])
        lost = (lost | set(told["undone"])) - set(told["trained_twice"])
    assert len(outcomes) == sum(tick <= len(seen) for tick in onsets)
    assert sorted(course.values()) == [i for i in range(PASSES * batches) if i not in never | lost]


def test_a_left_out_batch_is_not_said_to_be_trained_twice() -> None:
    # Back from tick 6 to 4, without batches 4 and 5; then from tick 8, which saw 6 and 7, all over again.
    policy = POLICY.format(every=1, first="skip", second="replay")
    seen, outcomes = disturbed(10, policy, {6: 5, 8: 2})
    assert seen[:14] == [0, 1, 2, 3, 4, 5, 6, 7, 1, 2, 3, 6, 7, 8]
    assert outcomes[0].details["rollback"]["never_trained"] == [[[0, 4], [0, 6]]]
    assert outcomes[1].details["rollback"]["trained_twice"] == [[[0, 1], [0, 4]], [[0, 6], [0, 8]]]


def test_nothing_is_said_of_batches_where_the_place_in_the_data_is_not_known(tmp_path: Path) -> None:
    policy = rollback_policy("skip")
    trace = train(tmp_path, policy, triggers={17: 1.0}, unprepared=True)
    assert len(trace.ids) == 60
    with JournalReader(tmp_path) as reader:
        details = reader.outcomes()[0].details["rollback"]
    assert (details["never_trained"], details["trained_twice"], details["undone"]) == ([], [], None)


def test_ranges_are_cut_where_batches_are_missing() -> None:
    assert ranges((0, 2), (0, 2)) == []
    assert ranges((0, 2), (1, 1), [(0, 2), (0, 5), (1, 0), (1, 1)]) == [
        [[0, 3], [0, 5]],
        [[0, 6], [1, 0]],
    ]
