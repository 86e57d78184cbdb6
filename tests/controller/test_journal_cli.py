"""``midcourse journal``: for people, in sentences, as CSV and as JSON."""

from __future__ import annotations

import csv
import io
import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from journal_words import decision, sample, started

from midcourse.controller.cli import main
from midcourse.monitors.types import Health, Reading
from midcourse.policies import types as words


@pytest.fixture
def run(tmp_path: Path) -> Path:
    journal = started(tmp_path, clock=lambda: 1_700_000_000.0)
    for tick in range(412):
        journal.sample(sample(tick, loss=5.0, **({"eval/loss": math.nan} if tick == 3 else {})))
    journal.transition(411, 411, 0, "blowup", "", Health.OK, Reading(Health.ALARM, 411, 5.31))
    acted = decision(412)
    journal.decision(acted)
    details = {
        "target_step": 400,
        "target_tick": 400,
        "steps_undone": 13,
        "data": "skip",
        "never_trained": [[[3, 18], [4, 2]]],
        "trained_twice": [[[3, 9], [3, 10]], [[3, 12], [3, 18]]],
        "undone": [],
    }
    outcome = words.Outcome(acted.id, words.Status.APPLIED, 413, details={"rollback": details})
    journal.outcome(outcome, acted)
    why = "loss.level <= 2.45 holds"
    numbers = {"loss.level": 2.38}
    journal.verdict(words.Verdict(acted.id, words.Result.HELPED, 713, why, numbers))
    held = replace(
        decision(500, "bad-source", "[red]"),
        disposition=words.Disposition.SUPPRESSED,
        reason="its budget is spent",
        facts={"x": {"level": math.nan}},
    )
    journal.decision(held)
    journal.close()
    return tmp_path


def ask(*args: object) -> Result:
    return CliRunner().invoke(main, ["journal", *map(str, args)])


def test_the_overview_shows_attempts_signals_and_decisions(run: Path) -> None:
    result = ask(run)
    assert result.exit_code == 0
    shown = ["0–411 (412 kept)", "loss, eval/loss", "policy.yaml", "2023-11-14"]
    shown += ["off-course@412", "rollback(to=before_onset", "applied", "helped"]
    shown += ["bad-source[[red]]@500", "suppressed"]
    for text in shown:
        assert text in result.output
    assert ask(run / "journal.sqlite").output == result.output


def test_a_decision_is_told_in_sentences(run: Path) -> None:
    assert ask(run, "--decision", "off-course@412").output == (
        "At step 412 rule off-course fired because blowup alarmed: loss 5.31 against level 2.4 ± 0.05, "
        "score 58 > 10; the change began at step 405. "
        "It rolled back to step 400, undoing 13 steps (data: skip; left out: pass 3 from batch 18 to pass 4 "
        "before batch 2; taken again: pass 3 batch 9 and pass 3 batches 12 to 17). "
        "The verdict came 300 ticks later: it helped, loss.level <= 2.45 holds (loss.level = 2.38).\n"
    )
    assert "was held back: its budget is spent." in ask(run, "--decision", "bad-source[[red]]@500").output


@pytest.mark.parametrize(
    ("disposition", "outcome", "sentence"),
    [
        (words.Disposition.OBSERVE, None, "only observed and changed nothing"),
        (words.Disposition.AWAITING_APPROVAL, None, "asked for approval"),
        (words.Disposition.ACT, None, "does not say that it was done"),
        (words.Disposition.ACT, words.Status.REFUSED, "refused: no snapshot."),
    ],
)
def test_what_was_not_done_is_told_too(
    tmp_path: Path, disposition: words.Disposition, outcome: words.Status | None, sentence: str
) -> None:
    journal = started(tmp_path)
    one = replace(decision(3), disposition=disposition, reason="guard.bad; guard nonfinite (loss is nan)")
    journal.decision(one)
    if outcome is not None:
        journal.outcome(words.Outcome(one.id, outcome, 4, "no snapshot"), one)
    journal.close()
    told = ask(tmp_path, "--decision", one.id).output
    assert "guard was not finite: loss is nan" in told
    assert sentence in told


def test_an_unknown_decision_names_the_nearest(run: Path) -> None:
    result = ask(run, "--decision", "offcourse@41")
    assert result.exit_code == 1
    assert "did you mean 'off-course@412'?" in result.output


def test_a_missing_run_or_attempt_is_an_error(run: Path, tmp_path: Path) -> None:
    missing = ask(tmp_path / "none")
    assert (missing.exit_code, "there is no journal" in missing.output) == (1, True)
    assert ask(run, "--attempt", 9).exit_code == 1


def refuse(token: str) -> Any:
    raise AssertionError(f"{token} is not JSON")


def test_json_is_strict_and_complete(run: Path) -> None:
    document = json.loads(ask(run, "--json").output, parse_constant=refuse)
    acted, held = document["decisions"]
    assert acted["outcomes"][0]["status"] == "applied"
    assert acted["verdicts"][0]["result"] == "helped"
    assert held["facts"] == {"x": {"level": None}}
    assert document["attempts"][0]["ticks"] == {"first": 0, "last": 411, "kept": 412}
    assert document["transitions"][0]["reading"]["health"] == "alarm"
    one = json.loads(ask(run, "--json", "--decision", acted["id"]).output, parse_constant=refuse)
    assert one["text"].startswith("At step 412")


def test_signals_come_as_csv_and_as_json_lines(run: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(ask(run, "--signals").output)))
    assert len(rows) == 412
    assert rows[3] == {
        "attempt": "1",
        "tick": "3",
        "step": "3",
        "branch": "0",
        "loss": "5.0",
        "eval/loss": "nan",
    }
    assert rows[4]["eval/loss"] == ""
    lines = [
        json.loads(line, parse_constant=refuse)
        for line in ask(run, "--signals", "--json").output.splitlines()
    ]
    assert lines[3]["signals"] == {"loss": 5.0, "eval/loss": None}
    assert lines[4]["signals"] == {"loss": 5.0}


def test_it_never_loads_torch(run: Path) -> None:
    code = (
        "import sys; from midcourse.controller.cli import main\n"
        "main(['journal', sys.argv[1]], standalone_mode=False)\n"
        "assert not {'torch', 'accelerate', 'river'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(run)], check=True, capture_output=True)


def test_what_became_of_the_process_is_told(tmp_path: Path) -> None:
    journal = started(tmp_path)
    journal.event("resumed", 20, {"checkpoint": "tick-00000020", "step": 18, "branch": 1})
    journal.event("checkpoint", 25, {"name": "tick-00000025", "bytes": 1, "good": True})
    journal.event("checkpoint_failed", 30, {"name": "tick-00000030", "reason": "the disk is full"})
    journal.event("terminated", 33, {"signal": "SIGTERM"})
    journal.close()
    told = CliRunner().invoke(main, ["journal", str(tmp_path)]).output
    assert "went on from checkpoint tick-00000020, after step 18" in told
    assert "checkpoint tick-00000030 failed: the disk is full" in told
    assert "was asked to end by SIGTERM, and left" in told
    assert "tick-00000025" not in told


def test_what_lies_ahead_and_what_a_forecast_told_are_shown(tmp_path: Path) -> None:
    journal = started(tmp_path)
    journal.event("plan", 0, {"horizon": 900, "schedule": [[0.1, 1.0], [1.0, 0.05]], "finished": []})
    journal.event("plan", 1, {"horizon": None, "schedule": None, "finished": []})
    told = {"final": 2.1, "low": 1.9, "high": 2.4}
    journal.transition(90, 90, 0, "blowup", "", None, Reading(Health.OK, 90, extra=told))
    numbers = {"value": 3.0, "level": 2.5, "noise": 0.1, **told}
    journal.decision(replace(decision(95), facts={"blowup": numbers}))
    journal.close()
    overview = ask(tmp_path).output
    assert "900 steps in all, the learning rate ending at 0.05 of its peak" in overview
    assert "unknown steps in all, the learning rate not known" in overview
    assert json.loads(ask(tmp_path, "--json").output)["transitions"][0]["reading"]["extra"] == told
    text = ask(tmp_path, "--decision", "off-course@95").output
    assert "3 against level 2.5 ± 0.1, final 2.1, low 1.9, high 2.4;" in text
