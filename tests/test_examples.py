"""The wrapped examples differ from the plain ones in three lines, and in nothing that they compute."""

from __future__ import annotations

import difflib
import functools
import runpy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import midcourse
from midcourse.controller.journal.reader import JournalReader

EXAMPLES = Path(__file__).parents[1] / "examples"
LOOPS = ("text_classification", "image_classification")

Run = tuple[list[float], dict[str, torch.Tensor]]


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loops import their ingredients from their own folder; they train tiny models."""
    monkeypatch.syspath_prepend(EXAMPLES)
    torch.set_num_threads(1)


def load(file: str) -> Callable[..., Run]:
    """Execute an example as a script that is imported, and return its ``main``."""
    return runpy.run_path(str(EXAMPLES / file))["main"]


@functools.cache
def plain(loop: str) -> Run:
    """Train the plain form once for all the runs that are compared with it."""
    return load(f"{loop}_plain.py")(epochs=2)


def changed_lines(loop: str) -> list[str]:
    """Return the lines that the wrapped form has and the plain one lacks."""
    before, after = (EXAMPLES / f"{loop}_plain.py", EXAMPLES / f"{loop}.py")
    difference = difflib.unified_diff(
        before.read_text().splitlines(), after.read_text().splitlines(), lineterm="", n=0
    )
    return [line for line in difference if line.startswith("+") and not line.startswith("+++")]


@pytest.mark.parametrize("loop", LOOPS)
def test_wrapping_a_loop_changes_at_most_three_lines(loop: str) -> None:
    assert 2 <= len(changed_lines(loop)) <= 3


@pytest.mark.parametrize("mode", ["act", "observe"])
@pytest.mark.parametrize("loop", LOOPS)
def test_while_no_rule_fires_nothing_that_is_computed_changes(
    loop: str, mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain_losses, plain_state = plain(loop)

    policy = tmp_path / "policy.yaml"
    policy.write_text(midcourse.load_policy("baseline").text.replace("mode: act", f"mode: {mode}"))
    assert midcourse.load_policy(policy).mode.value == mode
    place = {"policy": policy, "run_dir": tmp_path / "run"}
    real = midcourse.Controller
    monkeypatch.setattr(midcourse, "Controller", lambda accelerator, **_: real(accelerator, **place))
    losses, state = load(f"{loop}.py")(epochs=2)

    assert losses == plain_losses
    assert state.keys() == plain_state.keys()
    assert all(torch.equal(state[name], plain_state[name]) for name in state)
    with JournalReader(tmp_path / "run") as journal:
        assert len(list(journal.samples())) > 50
        assert list(journal.decisions()) == []
