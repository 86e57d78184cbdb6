"""What is meant to change is told with the samples, and no monitor takes it for a fault."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_loop import pull_policy, train

from midcourse.controller.expected import announced
from midcourse.controller.journal.reader import JournalReader
from midcourse.monitors.changes import MARK
from midcourse.monitors.types import Sample

torch.set_num_threads(1)


def samples(folder: Path) -> list[Sample]:
    with JournalReader(folder) as journal:
        return list(journal.samples())


def marked(folder: Path) -> dict[int, dict[str, float]]:
    """By tick, what was told of changes that are meant."""
    return {
        sample.tick: told
        for sample in samples(folder)
        if (told := {n: v for n, v in sample.signals.items() if n.startswith((MARK, "mix/"))})
    }


def test_an_act_on_the_mix_tells_the_shares_when_their_data_arrives_and_when_it_ends(tmp_path: Path) -> None:
    act = "reweight: {source: b, to: 0, hold: 10}"
    train(tmp_path, pull_policy(act), triggers={20: 1.0}, epochs=4, mixture=True)
    told = marked(tmp_path)
    (start, whole), (began, without), (ended, again) = told.items()
    assert (start, whole) == (1, again), "what holds from the start on is told once, and is no change"
    assert began == 21, "the very next batch is drawn under the new weights"
    assert without == {MARK: 1.0, "mix/a": 0.5, "mix/b": 0.0, "mix/c": 0.5}
    assert 31 <= ended <= 35, "after ten ticks, once what is prefetched has been consumed"
    assert again == {MARK: 1.0, **{f"mix/{name}": pytest.approx(1 / 3) for name in "abc"}}


def test_monitors_that_go_back_to_before_a_mix_are_told_of_it_again(tmp_path: Path) -> None:
    """The weights outlive the rollback, and the monitors of its target have never heard of them."""
    ladder = "reweight: {source: b, to: 0}]\n      - [rollback: {to: {steps: 15}, data: replay}"
    train(tmp_path, pull_policy(ladder), triggers={20: 1.0, 30: 1.0}, epochs=4, mixture=True)
    told = marked(tmp_path)
    with JournalReader(tmp_path) as journal:
        back = [outcome.details["rollback"]["target_tick"] for outcome in journal.outcomes()[1:]]
    assert back
    assert back[0] < 20
    assert list(told) == [1, 21, 31]
    assert told[31] == told[21] == {MARK: 1.0, "mix/a": 0.5, "mix/b": 0.0, "mix/c": 0.5}


def test_acts_announce_what_they_change_on_purpose(tmp_path: Path) -> None:
    acts = "scale_lr: {factor: 2, hold: 5}, reset_moments: {}"
    train(tmp_path, pull_policy(acts), triggers={20: 1.0})
    assert marked(tmp_path) == {
        21: {MARK: 1.0, f"{MARK}/lr": 1.0, f"{MARK}/moment_lag": 1.0, f"{MARK}/update_ratio": 1.0}
    }


def test_an_act_that_fails_announces_nothing(tmp_path: Path) -> None:
    acts = "scale_lr: {factor: 2}, reweight: {source: b, to: 0}"  # no mixture: refused, and all is taken back
    train(tmp_path, pull_policy(acts), triggers={20: 1.0})
    assert marked(tmp_path) == {}


def test_a_loop_announces_for_itself(tmp_path: Path) -> None:
    train(tmp_path, pull_policy("notify: {message: x}"), announce={30: ("loss", "eval/loss"), 40: ()})
    assert marked(tmp_path) == {
        30: {MARK: 1.0, f"{MARK}/eval/loss": 1.0, f"{MARK}/loss": 1.0},
        40: {MARK: 1.0},
    }


@pytest.mark.parametrize("wrong", ["", "loss/source=*", 3])
def test_only_names_of_signals_are_announced(wrong: Any) -> None:
    with pytest.raises(ValueError, match="expect_change takes names of signals"):
        announced(["loss", wrong])
