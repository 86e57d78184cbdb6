"""``midcourse check``: exit codes, what is printed, and how little is loaded for it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from midcourse.controller.cli import main
from midcourse.policies.policy import load_policy

POLICIES = Path(__file__).parent.parent / "policies"
BAD = sorted((POLICIES / "bad").glob("*.yaml"))


def check(*arguments: object) -> Result:
    result = CliRunner().invoke(main, ["check", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


def test_a_good_policy_is_summed_up() -> None:
    path = POLICIES / "design.yaml"
    result = check(path)
    assert result.exit_code == 0
    assert result.output.splitlines() == [
        f"{path}: ok, mode act",
        "  monitors: guard, blowup, rise, source",
        "  rules: bad-step, bad-source, off-course",
        "  actions: reweight, rollback, scale_lr, skip_step, stop",
    ]


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.stem)
def test_each_bad_policy_gets_exactly_these_words(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    result = check(path.name)
    assert result.exit_code == 1
    assert result.output == path.with_suffix(".txt").read_text("utf-8")


def test_what_a_policy_extends_is_told_and_what_it_is_then(tmp_path: Path) -> None:
    (tmp_path / "near.yaml").write_text("extends: baseline\nmonitors: {frozen: null}\n")
    path = tmp_path / "mine.yaml"
    path.write_text("extends: near.yaml\nmode: observe\n")
    assert check(path).output.splitlines()[1] == (
        f"  extends: {tmp_path / 'near.yaml'}, midcourse/configs/baseline.yaml"
    )
    assert json.loads(check("--json", path).output)["extends"][1] == "midcourse/configs/baseline.yaml"
    merged = check("--merged", path)
    assert "mode: observe\n" in merged.output
    assert "frozen" not in merged.output
    (tmp_path / "merged.yaml").write_text(merged.output)
    assert check(tmp_path / "merged.yaml").exit_code == 0
    assert check("--merged", "--json", path).exit_code == check("--merged", path, path).exit_code == 2


def test_ten_mistakes_are_all_told_with_their_places() -> None:
    path = POLICIES / "bad" / "ten_mistakes.yaml"
    result = check(path)
    assert result.exit_code == 1
    expected = path.with_suffix(".txt").read_text("utf-8")
    assert result.output == expected.replace(path.name, str(path))
    assert len(result.output.splitlines()) == 10


def test_one_bad_policy_among_good_ones_fails_the_check() -> None:
    result = check("baseline", POLICIES / "bad" / "empty.yaml", POLICIES / "design.yaml")
    assert result.exit_code == 1
    assert result.output.startswith("baseline.yaml: ok, mode act\n")
    assert "empty.yaml:1:1: the policy is empty\n" in result.output
    assert "design.yaml: ok" in result.output


SMELLY = """version: 1
rules:
  - {name: r, when: loss.z > 6 and loss.z < 3, budget: {acts: 1, per: 9}, ladder: [[stop: {}]]}
"""


def test_smells_are_told_and_fail_only_the_strict(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(SMELLY, encoding="utf-8")
    result = check(path)
    assert result.exit_code == 0
    assert result.output.splitlines()[-1] == (
        f"{path}:3:21: smell: rule 'r': 'when' can never hold, loss.z would have to be above 6 and below 3: "
        "the rule never fires; mend or remove it"
    )
    assert check(path, "--strict").exit_code == 1
    assert check("baseline", "--strict").exit_code == 0
    [smell] = json.loads(check(path, "--json").output)["smells"]
    assert (smell["smell"], smell["rule"], smell["line"], smell["column"]) == ("never-holds", "r", 3, 21)
    assert smell["instead"] == "the rule never fires; mend or remove it"


def test_json_is_one_object_a_policy() -> None:
    result = check("--json", "baseline", POLICIES / "bad" / "mode.yaml")
    good, bad = map(json.loads, result.output.splitlines())
    assert result.exit_code == 1
    assert good["ok"] is True
    assert good["rules"] == [rule.name for rule in load_policy("baseline").rules]
    assert bad["ok"] is False
    assert bad["problems"][0] == {
        "file": str(POLICIES / "bad" / "mode.yaml"),
        "line": 1,
        "column": 10,
        "message": "version must be 1, got 2",
    }


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ":1:1: the policy is empty"),
        (b"\x7fELF\x02\x01\x00", ":1:1: the character U+007F is not allowed in YAML"),
        (b"\x89PNG\r\n", ":1:1: is not UTF-8 text"),
        (b"[" * 10_000, ":1:33: the policy is nested more than 32 deep"),
        (b"just words", ":1:1: the policy must be a mapping, got 'just words'"),
    ],
)
def test_no_file_ends_in_a_traceback(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "policy.yaml"
    path.write_bytes(content)
    result = check(path)
    assert result.exit_code == 1
    assert result.output == f"{path}{words}\n"


def test_a_file_that_is_not_there_has_a_place_too(tmp_path: Path) -> None:
    result = check(tmp_path / "nothing.yaml")
    assert result.exit_code == 1
    assert "nothing.yaml:1:1: cannot be read: no such file or directory" in result.output


def test_help_lists_the_commands() -> None:
    result = CliRunner().invoke(main, ["--help"])
    assert result.exit_code == 0
    assert "check" in result.output
    assert CliRunner().invoke(main, ["chekc"]).exit_code == 2


def test_checking_loads_neither_torch_nor_anything_else_that_is_slow() -> None:
    code = (
        "import sys; from midcourse.controller.cli import main\n"
        "try: main(['check', 'baseline'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'accelerate', 'pandas', 'scipy', 'prometheus_client'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
