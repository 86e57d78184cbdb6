"""Simulated runs: a made-up run is what a real one would be, so that its journal replays the same."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from midcourse.monitors.types import Sample
from midcourse.policies.engine import Engine
from midcourse.policies.policy import Policy, load_policy, parse_policy
from midcourse.policies.replay import Commanded, Event, PolicyEdited, Replay, replay
from midcourse.policies.series import Series, noisy
from midcourse.policies.simulated import SimulatedRun, simulate
from midcourse.policies.types import Decision, Outcome, Status, Turn

BASELINE = load_policy("baseline")


def journalled(
    policy: Policy,
    series: Mapping[str, Series],
    told: Callable[[SimulatedRun, int], Iterable[Commanded | PolicyEdited]],
) -> tuple[Turn, list[Event]]:
    """What was said, and the events in the order in which a journal has them: a skip before its sample."""
    events: list[Event] = []
    take, record = Replay.take, Engine.record

    def taken(self: Replay, event: Event) -> Turn:
        if not isinstance(event, Outcome):
            events.append(event)
        return take(self, event)

    def recorded(self: Engine, outcome: Outcome) -> Turn:
        skips = "skip_step" in str(self.in_flight)
        events.insert(len(events) - skips, outcome)
        return record(self, outcome)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Replay, "take", taken)
        patch.setattr(Engine, "record", recorded)
        run, said = SimulatedRun(policy), Turn()
        for tick, row in enumerate(zip(*series.values(), strict=True), start=1):
            measured = {name: value for name, value in zip(series, row, strict=True) if value is not None}
            said.extend(run.take(measured, told(run, tick)))
            if run.stopped is not None:
                break
    return said, events


FAULTS = st.lists(
    st.tuples(st.integers(100, 500), st.integers(1, 40), st.sampled_from([6.0, 2.3, float("nan")])),
    max_size=3,
)


@settings(max_examples=8, deadline=None)
@given(
    FAULTS,
    FAULTS,
    st.dictionaries(st.integers(1, 600), st.sampled_from(["observe", "act", "off"]), max_size=2),
)
def test_the_journal_of_a_simulated_run_replays_the_same(
    loss: list[tuple[int, int, float]],
    code: list[tuple[int, int, float]],
    commands: dict[int, str],
) -> None:
    series: dict[str, Series] = {
        name: [2.0] * 600 for name in ("loss", "loss/source=code", "loss/source=docs")
    }
    for name, faults in (("loss", loss), ("loss/source=code", code)):
        for begin, length, value in faults:
            series[name][begin : begin + length] = [value] * length
    series = noisy(series, dict.fromkeys(series, 0.02), seed=1)

    def told(run: SimulatedRun, tick: int) -> list[Commanded | PolicyEdited]:
        return [Commanded(commands[tick], tick)] if tick in commands else []

    said, events = journalled(BASELINE, series, told)
    assert replay(BASELINE, events) == said


ASKS = parse_policy(
    """
extends: baseline
quiet: {start: 60}
rules:
  - {name: off-course, approve: {within: 30, otherwise: yes}, exclusive: recovery}
  - {name: bad-source, approve: {within: 200}, exclusive: recovery}
"""
)
EDITED = parse_policy(
    """
extends: baseline
monitors: {rise: {slack: 1.5}, frozen: null}
rules:
  - {name: bad-source, remove: true}
  - {name: off-course, cooldown: 20, budget: {acts: 2, per: 500}}
  - {name: new, when: loss.z > 8, for: 3, ladder: [[scale_lr: {factor: 0.5, hold: 50}]]}
"""
)
WORDS = st.sampled_from(["approve", "reject", "approve", "off", "on", "on", "edit", "edit back"])


@settings(max_examples=12, deadline=None)
@given(FAULTS, FAULTS, st.dictionaries(st.integers(100, 400), WORDS, max_size=8))
def test_commands_answers_and_edits_replay_the_same(
    loss: list[tuple[int, int, float]], code: list[tuple[int, int, float]], told: dict[int, str]
) -> None:
    """Whatever is told to a run, and when: its events give its decisions, verdicts, answers and phases."""
    series: dict[str, Series] = {
        name: [2.0] * 400 for name in ("loss", "loss/source=code", "loss/source=docs")
    }
    for name, faults in (("loss", loss), ("loss/source=code", code)):
        for begin, length, value in faults:
            series[name][begin : begin + length] = [value] * len(series[name][begin : begin + length])
    series = noisy(series, dict.fromkeys(series, 0.02), seed=1)

    def events_of(run: SimulatedRun, tick: int) -> Iterator[Commanded | PolicyEdited]:
        """Asked for once the sample was judged: only then is it known what waits."""
        word = told.get(tick, "")
        if word.startswith("edit"):
            yield PolicyEdited(EDITED if word == "edit" else ASKS, tick)
        elif word in ("approve", "reject"):
            yield from [Commanded(word, tick, each.id, "the test") for each in run.waiting]
        elif word:
            yield Commanded(word, tick)

    said, events = journalled(ASKS, series, events_of)
    assert replay(ASKS, events) == said


LADDER = """
version: 1
snapshots: {{keep: 3, reach: 100, every: {every}}}
signals: [alarm]
monitors: {{high: {{type: divergence, signal: loss}}}}
rules:
  - name: back
    when: {when}
    ladder: [{rung}]
"""


def policy(rung: str, when: str = "alarm.value > 0", every: int = 10) -> Policy:
    return parse_policy(LADDER.format(rung=rung, when=when, every=every))


def driven(run: SimulatedRun, ticks: int, alarm: float = 0.0) -> Turn:
    said = Turn()
    for _ in range(ticks):
        said.extend(run.take({"loss": 2.0, "alarm": alarm}))
    return said


def samples_of(rung: str, ticks: int = 20) -> tuple[list[Sample], list[Outcome]]:
    """The samples after an alarm at tick 36 that is answered by this rung, and the outcomes."""
    outcomes: list[Outcome] = []
    seen: list[Sample] = []
    take = Replay.take

    def taken(self: Replay, event: Event) -> Turn:
        (outcomes if isinstance(event, Outcome) else seen).append(event)  # type: ignore[arg-type]
        return take(self, event)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Replay, "take", taken)
        run = SimulatedRun(policy(rung))
        driven(run, 35)
        driven(run, 1, alarm=1.0)
        driven(run, ticks)
    return seen[36:], outcomes


@pytest.mark.parametrize(
    ("rung", "target", "next_step"),
    [
        ("[rollback: {to: last_good, data: forward}]", 30, 37),
        ("[rollback: {to: last_good, data: skip}]", 30, 31),
        ("[rollback: {to: before_onset, data: replay}]", 30, 31),
        ("[rollback: {to: {steps: 9}, data: skip}]", 20, 21),
        ("[rollback: {to: {steps: 36}, data: replay}]", 0, 1),
    ],
)
def test_a_rollback_goes_to_the_newest_snapshot_that_fits(rung: str, target: int, next_step: int) -> None:
    after, [outcome] = samples_of(rung)
    assert outcome.status is Status.APPLIED
    assert outcome.details["rollback"]["target_tick"] == target
    assert (after[0].tick, after[0].step, after[0].branch) == (37, next_step, 1)


@pytest.mark.parametrize(
    ("rung", "reason"),
    [
        ("[rollback: {to: {steps: 99}}]", "no snapshot for {'steps': 99}"),
        ("[rollback: {to: {checkpoint: mine}}]", "no snapshot for {'checkpoint': 'mine'}"),
    ],
)
def test_without_a_state_to_return_to_a_rollback_is_refused(rung: str, reason: str) -> None:
    after, [outcome] = samples_of(rung)
    assert (outcome.status, outcome.reason) == (Status.REFUSED, reason)
    assert (after[0].step, after[0].branch) == (37, 0)


def test_a_checkpoint_can_be_returned_to_by_its_name() -> None:
    plan = parse_policy(
        """
version: 1
signals: [save, back]
rules:
  - {name: save, when: save.value > 0, ladder: [[checkpoint: {name: mine}]]}
  - {name: back, when: back.value > 0, ladder: [[rollback: {to: {checkpoint: mine}, data: skip}]]}
"""
    )
    run = SimulatedRun(plan)
    said = Turn()
    for tick in range(1, 40):
        said.extend(run.take({"loss": 2.0, "save": float(tick == 13), "back": float(tick == 30)}))
    assert [(each.rule, each.tick) for each in said.decisions] == [("save", 13), ("back", 30)]
    assert run.take({"back": 1.0}).decisions[0].step == 13 + 39 - 30 + 1


def test_a_state_under_suspicion_is_none_to_return_to() -> None:
    run = SimulatedRun(policy("[rollback: {to: last_good, data: skip}]", "alarm.value > 0"))
    driven(run, 39)
    driven(run, 1, alarm=1.0)  # tick 40: the alarm goes back to 30, and no snapshot is taken of 40
    driven(run, 5)
    [decision] = driven(run, 1, alarm=1.0).decisions
    assert decision.tick == 46
    assert driven(run, 1, alarm=0.0).decisions == []
    assert run.take({"alarm": 1.0}).decisions[0].step == 32  # 30, and two ticks since


def test_a_long_run_keeps_no_more_than_reaches_back() -> None:
    run = SimulatedRun(policy("[rollback: {to: last_good}]"))
    driven(run, 2000)
    assert len(run._replay._states) <= 100 / 10 + 2


def test_fate_decides_what_becomes_of_an_act() -> None:
    asked: list[Decision] = []

    def fate(decision: Decision) -> tuple[Status, str]:
        asked.append(decision)
        return Status.FAILED, "the disk is full"

    run = SimulatedRun(policy("[stop: {}]"), fate)
    driven(run, 5)
    driven(run, 1, alarm=1.0)
    assert len(asked) == 1
    assert run.stopped is None


def test_stop_ends_the_run() -> None:
    run = SimulatedRun(policy("[stop: {}]"))
    said = simulate(run, {"alarm": [0.0, 0.0, 1.0, 0.0, 0.0]}, {})
    assert run.tick == 3
    assert run.stopped == said.decisions[0]


def test_a_signal_whose_series_has_ended_is_not_measured() -> None:
    run = SimulatedRun(policy("[stop: {}]"))
    simulate(run, {"loss": [2.0] * 5, "alarm": [0.0, None, 1.0]}, {2: [Commanded("observe", 2)]})
    assert run.tick == 5
    assert run.stopped is None
