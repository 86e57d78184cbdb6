"""``midcourse test``: the shipped tests hold, and what is told of those that do not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
from click.testing import CliRunner, Result

from midcourse.controller.cli import main
from midcourse.policies.model import Policy
from midcourse.policies.policy import load_policy
from midcourse.policies.smells import smells_of

CONFIGS = Path(__file__).parents[2] / "configs"
SHIPPED = sorted(CONFIGS.rglob("*.test.yaml"))
POLICIES = [path for path in sorted(CONFIGS.glob("*.yaml")) if "\nversion:" in path.read_text("utf-8")]

BLOW_UP = """policy: baseline
tests:
  - name: a blow-up is taken back
    series: {loss: "2x299 2.3x7 2x499", lr: "0.001x299 0.01x507"}
    noise: {loss: 0.02}
    decisions:
      - {tick: 308, rule: too-hot, rung: 0, actions: [rollback, restore_lr]}
    verdicts:
      - {rule: too-hot, result: helped}
  - name: a spike is left alone
    series: {loss: "2x299 9 2x99"}
    noise: 0.02
    decisions: []
"""


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(main, ["test", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    return result


def written(folder: Path, text: str, name: str = "a.test.yaml") -> Path:
    path = folder / name
    path.write_text(text, "utf-8")
    return path


@pytest.mark.parametrize("policy", POLICIES, ids=lambda path: path.stem)
def test_every_shipped_policy_has_tests_that_pass_and_reach_every_rung(policy: Path) -> None:
    assert policy.with_suffix(".test.yaml") in SHIPPED
    result = run(policy.stem, "--json")
    assert result.exit_code == 0, run(policy.stem).output
    pairs = [pair for test in json.loads(result.output)["tests"] for pair in test.get("decisions", ())]
    reached = {(pair["got"]["rule"], pair["got"]["rung"]) for pair in pairs}
    loaded = load_policy(policy.stem)
    base = load_policy(Path(loaded.extends[0]).stem) if loaded.extends else Policy(version=1)
    own = [rule for rule in loaded.rules if rule not in base.rules]  # the others are tested with the base
    assert {(rule.name, rung) for rule in own for rung in range(len(rule.ladder))} <= reached
    assert loaded.limits in (None, base.limits) or ("limits", 0) in reached
    assert any(not test["decisions"] for test in json.loads(result.output)["tests"] if "decisions" in test)


@pytest.mark.parametrize("policy", POLICIES, ids=lambda path: path.stem)
def test_every_shipped_policy_has_no_smell_and_a_page_that_names_each_of_its_rules(policy: Path) -> None:
    loaded = load_policy(policy.stem)
    assert smells_of(loaded) == ()
    if not loaded.extends:  # the README is the page of the baseline
        return
    page = policy.with_suffix(".md").read_text("utf-8")
    base = {rule.name: rule for rule in load_policy(Path(loaded.extends[0]).stem).rules}
    own = [rule.name for rule in loaded.rules if rule != base.get(rule.name)]
    assert [name for name in own if f"`{name}`" not in page] == []
    assert len(page.splitlines()) <= 60


def test_a_file_whose_tests_pass(tmp_path: Path) -> None:
    result = run(written(tmp_path, BLOW_UP))
    assert result.exit_code == 0
    assert result.output.splitlines() == [
        "ok      a blow-up is taken back",
        "ok      a spike is left alone",
        "2 tests passed",
    ]


def test_what_differs_is_told_with_its_line_and_its_evidence(tmp_path: Path) -> None:
    changed = (
        BLOW_UP.replace("tick: 308", "tick: 305")
        .replace("result: helped", "result: helped}\n      - {tick: 700, rule: bad-step, result: helped")
        .replace("decisions: []", "decisions: [{rule: off-course, actions: [rollback]}]")
        .replace('"2x299 9 2x99"', '"2x299 nan 2x20"')
    )
    path = written(tmp_path, changed)
    result = run(path)
    assert result.exit_code == 1
    lines = [line.partition("; blowup alarm")[0] for line in result.output.splitlines()]
    assert lines == [
        f"FAILED  a blow-up is taken back  ({path}:3)",
        "        decisions:",
        "        ! tick 308  too-hot  act  rung 0  rollback, restore_lr    (line 7 expects tick 305)",
        "            (blowup.bad or (rise.bad and vote.bad)) and lr.ratio > 1.2",
        "        verdicts:",
        "          tick 408  too-hot  helped",
        "        - tick 700  bad-step  helped    (line 10: expected, not judged)",
        "        the run ended at tick 808",
        f"FAILED  a spike is left alone  ({path}:11)",
        "        decisions:",
        "        - off-course  rollback    (line 14: expected, not decided)",
        "        + tick 301  bad-step  act  rung 0  skip_step    (not expected)",
        "            guard.bad; guard nonfinite (loss is nan)",
        "        the run ended at tick 322",
        "2 of 2 tests failed",
    ]


def test_an_outcome_or_a_command_that_came_to_nothing_fails(tmp_path: Path) -> None:
    idle = BLOW_UP.replace(
        "    decisions: []",
        "    outcomes: [{rule: bad-step, status: refused}]\n    commands: [{tick: 900, command: act}]\n"
        "    decisions: []",
    )
    result = run(written(tmp_path, idle))
    assert result.exit_code == 1
    assert "line 13: there was no such act whose outcome this could be" in result.output
    assert "the command of tick 900 was never given: the run ended at tick 401" in result.output


def test_what_was_expected_and_suppressed_says_why(tmp_path: Path) -> None:
    policy = """version: 1
monitors: {guard: {type: guard}}
rules:
  - {name: once, when: guard.bad, budget: {acts: 1, per: 2000, max: 3}, ladder: [[skip_step: {}]]}
"""
    written(tmp_path, policy, "once.yaml")
    source = """policy: once.yaml
tests:
  - name: a second time
    series:
      loss: "2x99 nan 2x99 nan 2x99"
    decisions: [{rung: 0}, {rule: once, disposition: act}]
"""
    result = run(written(tmp_path, source))
    assert result.exit_code == 1
    assert "        - once  act    (line 6: expected, not decided)\n" in result.output
    assert "was suppressed: the budget is spent: 1 act in 2000 ticks, 3 in all\n" in result.output


def test_an_outcome_of_an_instance_is_only_its_own(tmp_path: Path) -> None:
    text = """policy: baseline
tests:
  - name: two sources
    series:
      loss: "2x999"
      loss/source=code: "2x299 6x7 2x599"
      loss/source=docs: "2x499 6x7 2x499"
      loss/source=web: "2x999"
    noise: {"loss*": 0.02}
    outcomes:
      - {rule: bad-source, instance: code, rung: 0, status: failed, reason: no mixture}
    decisions:
      - {instance: code, rung: 0}
      - {instance: code, rung: 1}
      - {instance: docs, rung: 0}
"""
    assert run(written(tmp_path, text)).exit_code == 0


def test_tests_are_chosen_by_name_and_files_by_folder(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / ".hidden").mkdir()
    written(tmp_path, BLOW_UP)
    written(tmp_path / "below", BLOW_UP.replace("spike", "peak"))
    written(tmp_path / ".hidden", "no")
    written(tmp_path, "no", "other.yaml")
    assert run(tmp_path).output.endswith("4 tests passed\n")
    assert run(tmp_path, "-k", "SPIKE").output == "ok      a spike is left alone\n1 test passed\n"
    nothing = run(tmp_path, "-k", "nothing of the kind")
    assert (nothing.exit_code, nothing.output) == (2, "no test was run\n")


def test_without_arguments_it_is_the_present_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run().exit_code == 2
    written(tmp_path, BLOW_UP)
    assert run().exit_code == 0


def test_a_broken_file_is_told_and_the_others_are_run(tmp_path: Path) -> None:
    bad = written(tmp_path, BLOW_UP.replace("2.3x7", "2.3y7"), "b.test.yaml")
    result = run(written(tmp_path, BLOW_UP), bad, tmp_path / "none.yaml")
    assert result.exit_code == 2
    assert "ok      a blow-up is taken back\n" in result.output
    assert f"{bad}:4:27: test 'a blow-up is taken back': loss: '2.3y7' is no part of a" in result.output
    assert "none.yaml:1:1: cannot be read: no such file or directory" in result.output
    assert result.output.endswith("2 tests passed; 2 files cannot be read\n")


def test_json_has_both_sides_of_everything(tmp_path: Path) -> None:
    path = written(tmp_path, BLOW_UP.replace("tick: 308", "tick: {from: 1, to: 9}"))
    bad = written(tmp_path, "policy: baseline\n", "b.test.yaml")
    result = run(path, bad, "--json")
    assert result.exit_code == 2
    said = json.loads(result.output)
    assert said["ok"] is False
    assert [problem["file"] for problem in said["problems"]] == [str(bad)]
    failed, passed = said["tests"]
    assert (failed["ok"], failed["line"], passed["ok"]) == (False, 3, True)
    [pair] = failed["decisions"]
    assert pair["wrong"] == ["tick"]
    assert pair["expected"] == {
        "line": 7,
        "tick": {"from": 1, "to": 9},
        "rule": "too-hot",
        "rung": 0,
        "actions": ["rollback", "restore_lr"],
    }
    assert pair["got"]["actions"] == [
        {"rollback": {"to": "before_onset", "data": "replay"}},
        {"restore_lr": {"hold": None, "ramp": 0}},
    ]


def test_a_policy_beside_the_file_is_tested(tmp_path: Path) -> None:
    text = (CONFIGS / "baseline.yaml").read_text("utf-8")
    written(tmp_path, text.replace("for: 4\n    cooldown: 50", "for: 2\n    cooldown: 50"), "mine.yaml")
    sooner = BLOW_UP.replace("policy: baseline", "policy: mine.yaml").replace("tick: 308", "tick: 306")
    assert run(written(tmp_path, sooner)).exit_code == 0


RECORDED = """policy: baseline
tests:
  - name: a recorded run
    run: runs/log.csv
    columns: {loss: objective}
    step: at
    decisions: %s
"""


def log(folder: Path, last: float) -> None:
    noise = Random(0)
    (folder / "runs").mkdir()
    rows = [f"{at},{(2 if at < 300 else last) * (1 + noise.gauss(0, 0.02))}" for at in range(400)]
    (folder / "runs" / "log.csv").write_text("\n".join(["at,objective", *rows]), "utf-8")


def test_a_recorded_run_is_tested_as_backtest_reads_it(tmp_path: Path) -> None:
    log(tmp_path, 2)
    assert run(written(tmp_path, RECORDED % "[]")).exit_code == 0


def test_a_recorded_run_that_goes_wrong(tmp_path: Path) -> None:
    log(tmp_path, 9)
    acted = RECORDED % "[{rule: bad-data, tick: {from: 300, to: 310}, disposition: act}]"
    result = run(written(tmp_path, acted), "--json")
    first, *later = json.loads(result.output)["tests"][0]["decisions"]
    assert first["ok"]
    assert {each["got"]["disposition"] for each in later} <= {"observe"}  # it has parted from the run
    result = run(written(tmp_path, RECORDED % "[]"))
    assert result.exit_code == 1
    assert "grad_norm was never measured" in result.output


def test_a_recorded_run_that_cannot_be_read_is_a_broken_test(tmp_path: Path) -> None:
    result = run(written(tmp_path, RECORDED % "[]"))
    assert result.exit_code == 2
    assert "log.csv: cannot be read: no such file or directory" in result.output


def test_testing_loads_neither_torch_nor_anything_else_that_is_slow(tmp_path: Path) -> None:
    path = written(tmp_path, BLOW_UP)
    code = (
        "import sys; from midcourse.controller.cli import main\n"
        f"try: main(['test', {str(path)!r}])\n"
        "except SystemExit as end: assert not end.code\n"
        "heavy = {'torch', 'accelerate', 'pandas', 'scipy', 'prometheus_client'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_a_decision_that_waits_is_answered_in_a_test(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(
        "extends: baseline\nrules: [{name: too-hot, approve: {within: 100}}]\n", "utf-8"
    )
    asked = """policy: own.yaml
tests:
  - name: it is asked about, and taken
    series: {loss: "2x299 2.3x21", lr: "0.001x299 0.01x21"}
    noise: {loss: 0.02}
    commands: [{tick: 320, command: approve, decision: too-hot@308}]
    decisions:
      - {tick: 308, rule: too-hot, disposition: awaiting_approval}
      - {tick: 308, rule: too-hot, disposition: act, rung: 0}
  - name: nobody can answer what does not wait
    series: {loss: "2x299"}
    noise: 0.02
    commands: [{tick: 200, command: reject, decision: too-hot@308}]
    decisions: []
  - name: an answer names a decision
    series: {loss: "2x299"}
    commands: [{tick: 200, command: reject}]
    decisions: []
"""
    result = run(written(tmp_path, asked))
    assert result.exit_code == 2
    assert "a command needs the 'decision' that it answers" in result.output
    result = run(written(tmp_path, asked[: asked.index("  - name: an answer")]))
    assert result.exit_code == 1
    assert "1 of 2 tests failed" in result.output
    assert "reject at tick 200: no decision 'too-hot@308' waits for approval" in result.output
