"""What a trial is refused for, how it ends before its time, and that it leaves nothing behind then."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from small_loop import StatefulStream, Stream, Trace, train
from test_trial import ARMS, STEPS, TRIGGER, outcomes, scores, trial_policy

from midcourse.controller import assembly
from midcourse.controller.cycle import Cycle
from midcourse.controller.journal.place import JournalError
from midcourse.controller.journal.reader import JournalReader
from midcourse.controller.journal.store import Journal
from midcourse.controller.pilot import Pilot
from midcourse.controller.recorded.backtest import backtest
from midcourse.controller.recorded.journal_runs import read_journal
from midcourse.controller.ring import Ring
from midcourse.controller.trial import Trial
from midcourse.monitors.types import Sample
from midcourse.policies.policy import parse_policy
from midcourse.policies.types import Disposition, Result, Status

torch.set_num_threads(1)

LOOP: dict[str, Any] = {"epochs": 4, "mixture": True}
RESUMABLE = trial_policy(list(ARMS)).replace("rules:", "checkpoints: {every: 5, keep: 100}\nrules:")


def tried(folder: Path, arms: list[str], *, policy: str | None = None, **kwargs: Any) -> Trace:
    return train(folder, policy or trial_policy(arms), **{**LOOP, "triggers": {TRIGGER: 1.0}, **kwargs})


def assert_replayed(folder: Path, policy: str) -> None:
    """The journal, replayed by the run's own policy, gives its own decisions and verdicts."""
    for course in backtest(parse_policy(policy), read_journal(folder, "run")).courses:
        assert course.comparison is not None
        assert course.comparison.identical, course.comparison


@pytest.mark.parametrize(
    ("kwargs", "why"),
    [
        ({"owned": False}, "the data cannot be rewound: the loop's counter is its own"),
        (
            {"stream": Stream, "mixture": False},
            "the data cannot be rewound: the training data set is iterable",
        ),
        (
            {"epochs": 2, "triggers": {14: 1.0}},
            "the run ends at step 40, before the 32 steps from 10 are done",
        ),
        ({"triggers": {1: 1.0}}, None),
    ],
)
def test_where_it_cannot_be_done_it_is_refused_and_leaves_no_trace(
    tmp_path: Path, kwargs: dict[str, Any], why: str | None
) -> None:
    trace = tried(tmp_path, ["cooler"], **kwargs)
    plain = train(
        **{**LOOP, **{name: value for name, value in kwargs.items() if name not in ("triggers", "owned")}}
    )
    [outcome, *_] = outcomes(tmp_path)
    if why is not None:
        assert outcome.status is Status.REFUSED
        assert why in outcome.reason
        assert trace.losses == plain.losses
    assert trace.matches(plain)


def test_without_a_snapshot_that_fits_it_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ring, "take", lambda *_: None)
    trace = tried(tmp_path, ["cooler"])
    [outcome, *_] = outcomes(tmp_path)
    assert outcome.status is Status.REFUSED
    assert "no snapshot before the onset" in outcome.reason
    assert trace.matches(train(**LOOP))


def test_an_arm_that_cannot_be_taken_is_out_and_the_others_are_tried(tmp_path: Path) -> None:
    arms = ["without-b", "cooler"]
    trace = tried(tmp_path, arms, mixture=False, also={"score": scores(["cooler"], "cooler", TRIGGER)})
    [outcome] = outcomes(tmp_path)
    told = outcome.details["trial"]
    assert (outcome.status, told["kept"]) == (Status.APPLIED, "cooler")
    assert "not a Mixture" in told["arms"]["without-b"]["failed"]
    assert told["ticks"] == 2 * STEPS
    alone = tried(
        tmp_path / "alone", ["cooler"], mixture=False, also={"score": scores(["cooler"], "cooler", TRIGGER)}
    )
    assert trace.matches(alone)


def test_a_trial_whose_arm_cannot_begin_ends_with_the_state_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    goes_back, calls = Trial._go_back, []

    def fails_at_the_second(self: Trial) -> None:
        calls.append(1)
        goes_back(self)
        if len(calls) == 2:
            raise RuntimeError("made to fail")

    monkeypatch.setattr(Trial, "_go_back", fails_at_the_second)
    trace = tried(tmp_path, list(ARMS))
    [outcome, *_] = outcomes(tmp_path)
    assert outcome.status is Status.FAILED
    assert "made to fail" in outcome.reason
    assert outcome.details["trial"]["ticks"] == STEPS
    assert trace.matches(train(**LOOP))
    assert_clean(trace)
    assert_replayed(tmp_path, trial_policy(list(ARMS)))


def test_a_fault_of_our_own_within_a_trial_leaves_the_run_as_it_was_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = Pilot.judge

    def fails(self: Pilot, sample: Sample) -> Any:
        if sample.tick == TRIGGER + 40:
            raise RuntimeError("made to fail")
        return judge(self, sample)

    monkeypatch.setattr(Pilot, "judge", fails)
    trace = tried(tmp_path, list(ARMS))
    assert trace.matches(train(**LOOP))
    [outcome, *_] = outcomes(tmp_path)
    assert (outcome.status, outcome.reason) == (Status.FAILED, "the run ended first")


def test_without_a_journal_that_can_be_written_no_arm_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    event, told = Journal.event, []

    def fails(self: Journal, kind: str, *args: Any) -> None:
        told.append(kind)
        if told.count("trial") > 2:
            raise JournalError("the disk is full")
        event(self, kind, *args)

    monkeypatch.setattr(Journal, "event", fails)
    trace = tried(tmp_path, list(ARMS), also={"score": scores(list(ARMS), "cooler", TRIGGER)})
    assert told.count("trial") == 5
    assert trace.matches(train(**LOOP))


def test_a_loop_that_cannot_be_rewound_says_at_its_start_that_trials_are_refused(tmp_path: Path) -> None:
    said: list[str] = []
    tried(tmp_path, ["cooler"], owned=False, epochs=1, say=said.append)
    assert [line for line in said if line.startswith("trials will be refused: the loop's counter")]


def assert_clean(trace: Trace) -> None:
    assert trace.controller is not None
    cycle = trace.controller._wiring.cycle
    assert cycle is not None
    assert not cycle.run.layers
    assert not cycle._orders.trying
    assert len(cycle.run.ring._buffers.spare) <= cycle.run.ring.keep + cycle.run.ring.spares


@pytest.mark.parametrize(
    "winner", ["anew", *(pytest.param(arm, marks=pytest.mark.slow) for arm in ("nothing", "without-b"))]
)
def test_the_journal_replays_to_its_own_decisions(tmp_path: Path, winner: str) -> None:
    also = {"score": scores(list(ARMS), winner, TRIGGER)}
    policy = trial_policy(list(ARMS)).replace(
        "  - name: which",
        "  - {name: low, when: 'rise.score > 0.1', mode: observe, ladder: [[notify: {message: low}]]}\n"
        "  - name: which\n    verify: {within: 9, expect: loss.level < 2 * target.loss.level}",
    )
    triggers = {TRIGGER: 1.0, TRIGGER + 4 * STEPS + 20: 1.0}
    trace = tried(tmp_path, list(ARMS), policy=policy, also=also, epochs=5, triggers=triggers)
    assert_clean(trace)
    with JournalReader(tmp_path) as journal:
        branches = {sample.branch for sample in journal.samples()}
        kept = [o.details["trial"]["kept"] for o in journal.outcomes() if "trial" in o.details]
        assert journal.verdicts()
    assert kept[0] == winner
    assert branches >= {0, 1, 2, 3, 4, 5}
    assert_replayed(tmp_path, policy)


def test_an_arm_that_was_kept_is_verified_and_withdrawn_as_any_act(tmp_path: Path) -> None:
    policy = trial_policy(["cooler"]).replace(
        "  - name: which", "  - name: which\n    verify: {within: 5, expect: target.loss.value < -1}"
    )
    tried(tmp_path, [], policy=policy, also={"score": scores(["cooler"], "cooler", TRIGGER)})
    over = TRIGGER + 2 * STEPS
    with JournalReader(tmp_path) as journal:
        rates = {sample.tick: sample.signals["lr"] for sample in journal.samples()}
        [verdict] = journal.verdicts()
        assert [d.rung for d in journal.decisions()] == [0]
    assert (verdict.result, verdict.tick) == (Result.DID_NOT_HELP, over + 5)
    assert rates[over + 5] < 1e-2  # the cut is as old as its arm: it ramps back
    assert rates[over + 6] == 1e-2


def test_another_policy_is_tried_on_a_run_with_a_trial_as_far_as_it_is_evidence(tmp_path: Path) -> None:
    tried(tmp_path, list(ARMS), also={"score": scores(list(ARMS), "anew", TRIGGER)})
    other = (
        trial_policy(["cooler"]).replace("which", "other").replace("trigger.value > 0.5", "loss.value < 0.3")
    )
    [course] = backtest(parse_policy(other), read_journal(tmp_path, "run")).courses
    assert course.difference is not None
    assert (course.difference.by_policy, course.difference.tick) == (False, TRIGGER)


def test_late_signals_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assembly, "delays", lambda policy, device: True)
    policy = trial_policy(list(ARMS), "here")
    also = {"score": scores(list(ARMS), "cooler", TRIGGER + 1)}
    trace = tried(tmp_path, list(ARMS), policy=policy, also=also)
    [outcome] = outcomes(tmp_path)
    told = outcome.details["trial"]
    assert (told["kept"], told["from_tick"], told["ticks"]) == ("cooler", TRIGGER + 1, 4 * STEPS)
    assert all(arm["pairs"] == STEPS // 2 for arm in told["arms"].values())
    assert len(trace.losses) == 80 + 3 * STEPS
    assert_replayed(tmp_path, policy)


def test_a_loop_that_loads_a_state_of_its_own_ends_the_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    after_step = Cycle.after_step

    def then_loads(self: Cycle) -> None:
        after_step(self)
        if self.run.clock.tick == TRIGGER + 40:
            self.loaded()

    monkeypatch.setattr(Cycle, "after_step", then_loads)
    trace = tried(tmp_path, list(ARMS))
    [outcome, *_] = outcomes(tmp_path)
    assert (outcome.status, outcome.tick) == (Status.FAILED, TRIGGER + 40)
    assert "loaded a state" in outcome.reason
    assert_clean(trace)
    assert_replayed(tmp_path, trial_policy(list(ARMS)))


def test_a_loop_that_ends_within_a_trial_ends_with_the_state_before_it(tmp_path: Path) -> None:
    # How long a stream will be nobody knows, so the trial is not refused.
    loop = {"mixture": False, "stream": StatefulStream, "triggers": {20: 1.0}, "epochs": 2}
    trace = tried(tmp_path, ["cooler"], policy=trial_policy(["cooler"], "here"), **loop)
    [outcome, *_] = outcomes(tmp_path)
    assert (outcome.status, outcome.reason) == (Status.FAILED, "the run ended first")
    assert trace.matches(train(stream=StatefulStream, epochs=1))


def test_sigterm_puts_a_trial_off_and_the_resumed_run_ends_as_if_it_had_not_come(tmp_path: Path) -> None:
    steps: list[int] = []

    def after_step() -> None:
        steps.append(1)
        if len(steps) == TRIGGER + 40:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit):
        tried(tmp_path, list(ARMS), policy=RESUMABLE, after_step=after_step, resume="auto")
    # It is asked at its 41st tick of the trial, and resumed there: each arm is made anew.
    began = TRIGGER + 41
    again = tried(
        tmp_path,
        list(ARMS),
        policy=RESUMABLE,
        resume="auto",
        also={"score": scores(list(ARMS), "anew", began)},
        triggers={},
    )
    whole = tried(tmp_path / "whole", list(ARMS), also={"score": scores(list(ARMS), "anew", TRIGGER)})
    with JournalReader(tmp_path) as journal:
        last = journal.outcomes(2)[-1]
        acts = [d.id for d in journal.decisions() if d.disposition is Disposition.ACT and d.rung == 0]
    assert (last.status, last.decision_id) == (Status.APPLIED, f"which@{TRIGGER}")
    assert last.details["trial"]["kept"] == "anew"
    assert acts == [f"which@{TRIGGER}"]
    assert again.matches(whole)
    assert_replayed(tmp_path, RESUMABLE)


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_trial_ends import RESUMABLE, TRIGGER, tried

steps = []

def after_step():
    steps.append(1)
    if len(steps) == TRIGGER + 40:
        os.kill(os.getpid(), signal.SIGKILL)

tried(Path(sys.argv[1]), [], policy=RESUMABLE, resume="auto", after_step=after_step)
"""


@pytest.mark.slow
def test_a_run_that_was_killed_in_a_trial_decides_again_with_the_same_id(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(KILLED)
    command = [sys.executable, str(script), str(tmp_path / "run"), str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == -signal.SIGKILL, done.stderr
    also = {"score": scores(list(ARMS), "cooler", TRIGGER)}
    again = tried(tmp_path / "run", [], policy=RESUMABLE, resume="auto", also=also)
    whole = tried(tmp_path / "whole", list(ARMS), also=also)
    with JournalReader(tmp_path / "run") as journal:
        acts = [d.id for d in journal.decisions() if d.disposition is Disposition.ACT and d.rung == 0]
        assert not journal.outcomes(1)
        assert [o.details["trial"]["kept"] for o in journal.outcomes(2)] == ["cooler"]
    assert acts == [f"which@{TRIGGER}"] * 2
    assert again.matches(whole)
    assert_replayed(tmp_path / "run", RESUMABLE)
