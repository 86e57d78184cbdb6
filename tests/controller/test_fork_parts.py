"""The parts of a fork: how a process was started, a journal's beginning, and the numbers of the report."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from journal_words import decision, sample, started

from midcourse.controller.forks.command import Command, _why_not
from midcourse.controller.forks.comparison import _level, _standard_error, compare
from midcourse.controller.forks.course import Course, Ending, read_course, spans_of
from midcourse.controller.forks.order import ForkError
from midcourse.controller.journal.copy import copy_until
from midcourse.controller.journal.reader import JournalReader
from midcourse.monitors.types import Sample

TORCHRUN = {"TORCHELASTIC_RUN_ID": "none", "LOCAL_WORLD_SIZE": "2"}


@pytest.mark.parametrize(
    ("arguments", "processes", "environment", "why_not"),
    [
        (["train.py", "--lr", "1"], 1, {}, ""),
        (["-X", "dev", "-m", "train"], 1, {}, ""),
        (["-c", "train()"], 1, {}, ""),
        (["-u", "train.py"], 2, TORCHRUN, ""),
        (["-u", "train.py"], 4, TORCHRUN, "its 4 processes ran on several machines"),
        (["train.py"], 2, {}, "its 2 processes were started neither by torchrun nor by accelerate launch"),
        ([], 1, {}, "it was started from an interactive session, which cannot be started again"),
        (["-"], 1, {}, "it was started from an interactive session, which cannot be started again"),
        (["-m", "ipykernel_launcher"], 1, {}, "it was started from an interactive session, which cannot be"),
        (["-c", "spawn()", "--multiprocessing-fork"], 1, {}, "it was started by another Python process"),
    ],
)
def test_which_commands_can_be_started_again(
    arguments: list[str], processes: int, environment: dict[str, str], why_not: str
) -> None:
    assert _why_not(arguments, processes, environment).startswith(why_not)
    assert bool(_why_not(arguments, processes, environment)) is bool(why_not)


def test_a_command_keeps_named_variables_only() -> None:
    environment = {"SECRET_TOKEN": "x", "OMP_NUM_THREADS": "1", "ACCELERATE_MIXED_PRECISION": "bf16"}
    command = Command.of_this_process(1, environment)
    assert command.environment == {"ACCELERATE_MIXED_PRECISION": "bf16", "OMP_NUM_THREADS": "1"}
    assert Command(**{**command.to_json(), "argv": command.argv}) == command
    several = Command(("python", "-u", "train.py"), ".", processes=2).line()
    assert several[:4] == ["python", "-m", "torch.distributed.run", "--standalone"]
    assert several[-4:] == ["--no-python", "python", "-u", "train.py"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (None, "does not say how the run was started"),
        (
            {"why_not": "it ran on several machines"},
            "cannot be started again: it ran on several machines; give",
        ),
        ({"folder": "/nowhere/at/all"}, "working directory /nowhere/at/all is gone"),
        ({"argv": ["/nowhere/python"]}, "interpreter /nowhere/python is gone"),
    ],
)
def test_a_command_that_is_gone_says_what_helps(change: dict[str, Any] | None, said: str) -> None:
    facts = (
        {}
        if change is None
        else {"command": {**Command.of_this_process(1).to_json(), "why_not": "", **change}}
    )
    with pytest.raises(ForkError, match="give the command, midcourse fork") as caught:
        Command.from_facts(facts)
    assert said in str(caught.value)


# -- a journal's beginning ------------------------------------------------------------------------


def three_lives(folder: Path) -> None:
    """Two that go on from one another, after one that was begun before in the same folder."""
    for resumed, ticks in ((None, range(1, 4)), (None, range(1, 9)), (5, range(6, 12))):
        journal = started(folder)
        if resumed is not None:
            journal.event("resumed", resumed, {"checkpoint": "x", "step": resumed, "branch": 0})
        for tick in ticks:
            journal.sample(sample(tick))
            if tick in (3, 7):
                journal.decision(decision(tick))
        journal.close()


@pytest.mark.parametrize("tick", [1, 3, 5, 6, 7, 11])
def test_a_copy_ends_with_a_tick_and_the_rest_is_as_it_was(tmp_path: Path, tick: int) -> None:
    three_lives(tmp_path)
    with JournalReader(tmp_path) as reader:
        span = next(each for each in spans_of(reader) if each.holds(tick))
        number = span.life.number
        copy_until(reader, tmp_path / "copy.sqlite", number, tick)
        later = next(
            (e.seq for e in reader.entries(number) if e.item.tick > tick),  # type: ignore[union-attr]
            float("inf"),
        )
        whole = [e for e in reader.entries() if e.seq < later and e.attempt <= number]
        with JournalReader(tmp_path / "copy.sqlite") as copy:
            assert [repr(e) for e in copy.entries()] == [repr(e) for e in whole]
            assert [life.number for life in copy.attempts()] == list(range(1, number + 1))
            assert copy.signals() == reader.signals()
    check = sqlite3.connect(tmp_path / "copy.sqlite")
    assert check.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    check.close()


def test_a_course_is_that_of_the_lives_that_led_to_where_the_run_is(tmp_path: Path) -> None:
    three_lives(tmp_path)
    with JournalReader(tmp_path) as reader:
        assert [(span.life.number, span.after, span.until) for span in spans_of(reader)] == [
            (2, 0, 5),
            (3, 5, float("inf")),
        ]
        course = read_course(reader, "7", after=2)
    assert [each.tick for each in course.samples] == list(range(3, 12))
    assert [each.id for each in course.decisions] == ["off-course@3", "off-course@7"]
    assert course.ending is Ending.ENDED


# -- the numbers ----------------------------------------------------------------------------------


def course(values: dict[str, list[float]], first: int = 1, steps: list[int] | None = None) -> Course:
    length = max(map(len, values.values()))
    samples = [
        Sample(
            step=first + i if steps is None else steps[i],
            tick=first + i,
            branch=0,
            signals={name: row[i] for name, row in values.items() if row[i] is not None},
        )
        for i in range(length)
    ]
    decisions = [decision(100)] if first <= 100 < first + length else []
    return Course("7", Ending.ENDED, samples, decisions, {}, {}, "", 0.0, None, None)


def test_a_known_effect_is_found_beneath_noise_that_both_share() -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, 400)
    own = np.random.default_rng(1).normal(0, 0.001, 400)
    base = 2.0 + noise
    other = base + np.where(np.arange(1, 401) > 150, 0.5, 0.0) + np.where(np.arange(1, 401) > 100, own, 0.0)
    said = compare(course({"loss": list(base)}), course({"loss": list(other)}), 100, 0)
    assert said.prefix.differs_at is None
    [effect] = said.effects
    assert effect.difference == pytest.approx(-0.5, abs=3 * effect.standard_error)
    assert effect.standard_error < 0.001
    assert effect.run.standard_error > 0.01, "unpaired it would drown"
    assert effect.parted == 151
    assert effect.steps == (371, 400)


def test_rare_signals_are_compared_by_their_last_values() -> None:
    rows: dict[str, list[Any]] = {"loss": [1.0] * 300, "eval/loss": [None] * 300, "step_time": [0.1] * 300}
    other = {name: list(row) for name, row in rows.items()}
    for tick in range(50, 300, 50):
        rows["eval/loss"][tick - 1], other["eval/loss"][tick - 1] = 2.0, 2.0 + (tick > 100)
    said = compare(course(rows), course(other), 100, 0)
    assert [each.signal for each in said.effects] == ["loss", "eval/loss"]
    effect = said.effects[1]
    assert (effect.run.value, effect.fork.value, effect.difference, effect.paired) == (2.0, 3.0, -1.0, 1)
    assert effect.parted is None, "its noise is not known from two values"


def test_a_run_that_is_not_finite_has_no_level_and_has_parted() -> None:
    base = list(np.random.default_rng(0).normal(2, 0.1, 200))
    spoiled = [float("nan") if tick > 120 else value for tick, value in enumerate(base, 1)]
    [effect] = compare(course({"loss": spoiled}), course({"loss": base}), 100, 0).effects
    assert np.isnan(effect.run.value)
    assert np.isfinite(effect.fork.value)
    assert effect.parted == 121


def test_steps_that_were_taken_back_count_as_they_were_made_at_last() -> None:
    steps = [*range(1, 151), *range(121, 201)]
    values = [1.0] * 150 + [2.0] * 80
    [effect] = compare(course({"loss": values}, steps=steps), course({"loss": [1.0] * 200}), 100, 0).effects
    assert (effect.steps, effect.difference) == ((181, 200), 1.0)


def test_nothing_is_compared_where_the_fork_made_no_step() -> None:
    said = compare(course({"loss": [1.0] * 150}), course({"loss": []}), 100, 0)
    assert said.effects == ()
    assert (said.prefix.differs_at, said.prefix.how) == (1, "the fork has no such tick")


def test_a_decision_before_that_only_one_took_is_a_difference() -> None:
    ours, theirs = course({"loss": [1.0] * 150}), course({"loss": [1.0] * 150})
    theirs.decisions[:] = [decision(60), *theirs.decisions]  # type: ignore[index]
    said = compare(ours, theirs, 100, 0)
    assert (said.prefix.differs_at, said.prefix.how) == (60, "off-course@60 was decided in the fork only")


@given(st.floats(0.0, 0.8), st.integers(0, 50))
def test_the_standard_error_allows_for_neighbours_that_are_alike(r: float, seed: int) -> None:
    draw = np.random.default_rng(seed).normal(0, 1, 2000)
    values = np.empty(2000)
    values[0] = draw[0]
    for i in range(1, 2000):
        values[i] = r * values[i - 1] + draw[i]
    true = 1 / (1 - r) / np.sqrt(2000)
    assert _standard_error(values) == pytest.approx(true, rel=0.25)


def test_levels_of_few_values() -> None:
    assert _level(np.array([3.0])).value == 3.0
    assert np.isnan(_level(np.array([3.0])).standard_error)
    assert np.isnan(_level(np.array([])).value)
    assert _level(np.array([1.0, 1.0, 1.0])).standard_error == 0.0
