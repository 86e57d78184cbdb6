"""``midcourse fork``: the run bit for bit until the decision, then without the act, and the truth told."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import forked_loop
import numpy as np
import pytest
from click.testing import CliRunner, Result
from small_loop import RESUMABLE, train

import midcourse
from midcourse.controller.cli import main
from midcourse.controller.forks import fork as forking
from midcourse.controller.forks.command import Command
from midcourse.controller.forks.fork import compared
from midcourse.controller.forks.order import VARIABLE, ForkError, ForkOrder
from midcourse.controller.forks.preparation import new_folder
from midcourse.controller.forks.told import OUTPUT, Told
from midcourse.controller.journal import Journal
from midcourse.controller.journal.reader import JournalReader
from midcourse.controller.recorded.backtest import backtest
from midcourse.controller.recorded.journal_runs import read_journal
from midcourse.policies.amendments import Amendments
from midcourse.policies.policy import parse_policy

SCRIPT = Path(forked_loop.__file__)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with checkpoints, as its command made it; nobody changes it."""
    folder = tmp_path_factory.mktemp("runs") / "7"
    forked_loop.main([str(folder), "--checkpoints"])
    return folder


@pytest.fixture
def own(run: Path, tmp_path: Path) -> Path:
    """A copy of it, beside which forks are made."""
    return Path(shutil.copytree(run, tmp_path / "7", copy_function=shutil.copy2))


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forks run in this process, which is quicker; the command's words after the script are its arguments."""

    def carry_out(line: Sequence[str], command: Command | None, order: ForkOrder, folder: Path) -> int:
        monkeypatch.setenv(VARIABLE, json.dumps(order.to_json()))
        try:
            forked_loop.main(line[2:])
        except SystemExit as error:
            (folder / OUTPUT).write_text(str(error))
            return 1
        finally:
            monkeypatch.delenv(VARIABLE)
        return 0

    monkeypatch.setattr(forking, "_carry_out", carry_out)


def words(run: Path, *more: str) -> list[str]:
    """The command of a run."""
    return [sys.executable, str(SCRIPT), str(run), *(more or ["--checkpoints"])]


def forked(run: Path, *without: str, more: Sequence[str] = (), **options: Any) -> Told:
    return midcourse.fork(run, without, command=words(run, *more), **options)


def folded(folder: Path) -> dict[str, str]:
    """Every file of a folder with its content."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def losses(folder: Path, attempt: int | None = None) -> dict[int, float]:
    with JournalReader(folder) as reader:
        return {sample.tick: sample.signals["loss"] for sample in reader.samples(attempt)}


def acts(folder: Path) -> list[tuple[str, str, int]]:
    with JournalReader(folder) as reader:
        return [(each.id, each.disposition.value, each.rung) for each in reader.decisions()]


def ask(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["fork", *map(str, arguments)])


def test_a_process_of_its_own_goes_on_without_the_act(own: Path, tmp_path: Path) -> None:
    before = folded(own)
    told = forked(own, "back@28")
    made = tmp_path / "7-without-back@28"
    assert folded(own) == before, "the run is only read"
    # The same, bit for bit, until the act that was left out.
    assert told.order.checkpoint == "tick-00000015"
    assert (told.comparison.prefix.ticks, told.comparison.prefix.differs_at) == (13, None)
    was, became = losses(own), losses(made)
    assert [became[tick] for tick in range(1, 29)] == [was[tick] for tick in range(1, 29)]
    assert became[29] != was[29]
    assert acts(made) == [("back@28", "observe", 0), ("back@44", "act", 0)]
    with JournalReader(made) as reader:
        assert reader.decisions()[0].reason.endswith(f"; withheld in this fork of {own}")
        assert "back@28" not in {each.decision_id for each in reader.outcomes()}
        [event] = [each for each in reader.events() if each.kind == "fork"]
        *_, started = [each for each in reader.events() if each.kind == "start"]
    assert ForkOrder.from_json(event.detail) == told.order
    assert (event.detail["of"], event.detail["run_dir"]) == (str(own.resolve()), str(made.resolve()))
    assert any(VARIABLE in notice for notice in started.detail["notices"])
    # What is told are the journals' own numbers.
    [effect] = [each for each in told.comparison.effects if each.signal == "loss"]
    last = range(61, 81)
    ours, theirs = (made_at_last(folder) for folder in (own, made))
    assert effect.steps == (61, 80)
    assert effect.run.value == pytest.approx(np.mean([ours[step] for step in last]))
    assert effect.fork.value == pytest.approx(np.mean([theirs[step] for step in last]))
    assert effect.difference == pytest.approx(np.mean([ours[step] - theirs[step] for step in last]))
    assert effect.paired == 20
    assert "the fork is the run, bit for bit: 13 ticks compared" in str(told)
    assert str(compared(own, made)) == str(told)
    replays(made)


def made_at_last(folder: Path) -> dict[int, float]:
    """The loss of every step as it was made at last."""
    with JournalReader(folder) as reader:
        return {sample.step: sample.signals["loss"] for sample in reader.samples()}


def replays(folder: Path) -> None:
    """The fork's own journal, replayed, gives its own decisions."""
    with JournalReader(folder) as reader:
        policy = parse_policy(reader.attempts()[-1].policy_text)
    for course in backtest(policy, read_journal(folder, str(folder))).courses:
        assert course.comparison is not None
        assert course.comparison.identical, course.comparison


def test_another_rung_of_the_ladder(own: Path, here: None) -> None:
    told = forked(own, instead={"back@28": 1})
    made = Path(told.fork.path)
    assert made.name == "7-instead-back@28=1"
    assert acts(made)[0] == ("back@28", "act", 1)
    with JournalReader(made) as reader:
        assert list(reader.outcomes()[0].details) == ["rollback"]
    assert told.comparison.prefix.differs_at is None
    replays(made)


def test_all_acts_of_a_rule_and_an_end_before_the_runs(own: Path, here: None) -> None:
    result = ask(own, "--without", "back", "--until", 60, "--json", "--", *words(own))
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    made = Path(said["fork"]["path"])
    assert acts(made) == [("back@28", "observe", 0), ("back@44", "observe", 0)]
    assert (said["fork"]["last_step"], said["run"]["last_step"], said["until"]) == (60, 80, 60)
    assert said["changed"] == [
        {"id": "back@44", "how": "act, rung 0 in the run; observe, rung 0 in the fork"}
    ]
    assert {each["signal"]: each["steps"] for each in said["signals"]}["loss"] == [41, 60]
    assert said["prefix"] == {"ticks": 13, "identical": True, "differs_at": None, "how": None}
    replays(made)


def test_without_a_checkpoint_it_begins_at_the_start_and_says_what_helps(tmp_path: Path, here: None) -> None:
    run = tmp_path / "8"
    forked_loop.main([str(run), "--passes", "4"])
    told = forked(run, "back@44", more=["--passes", "4"])
    assert (told.order.checkpoint, told.comparison.prefix.ticks) == (None, 44)
    assert told.comparison.prefix.differs_at is None
    assert "checkpoints: {every: 1000}" in str(told)
    replays(Path(told.fork.path))


def test_a_policy_that_was_changed_since_is_told(own: Path, here: None) -> None:
    told = forked(own, "back@28", more=["--passes", "4"], until=40)
    assert "the policy of the fork is not the run's: it was changed since" in str(told)


def test_a_loop_that_is_not_deterministic_is_told(own: Path, here: None) -> None:
    told = forked(own, "back@28", more=["--checkpoints", "--random"])
    assert told.comparison.prefix.differs_at == 16
    assert "the loop is not deterministic, so the difference is not the intervention's alone" in str(told)


@pytest.mark.slow
def test_a_fork_that_fails_is_compared_as_far_as_it_came(own: Path) -> None:
    result = ask(own, "--without", "back@28", "--", *words(own, "--checkpoints", "--fails"))
    assert result.exit_code == 1
    assert "the fork's command failed with exit code 1" in result.output
    assert "the disk with the data is gone" in result.output
    assert "the fork ended at step 39" in result.output


@pytest.mark.slow
def test_a_fork_of_a_fork_keeps_what_was_left_out_before(own: Path, here: None) -> None:
    first = Path(forked(own, "back@28").fork.path)
    second = Path(forked(first, "back@44").fork.path)
    assert acts(second) == [("back@28", "observe", 0), ("back@44", "observe", 0)]
    assert second.name == "7-without-back@28-without-back@44"
    replays(second)


def test_a_second_fork_gets_a_folder_of_its_own_and_a_named_one_must_be_new(tmp_path: Path) -> None:
    amendments = Amendments("7", frozenset({"bad-source[a/b]@9"}))
    names = [new_folder(tmp_path / "7", amendments, None).name for _ in range(2)]
    assert names == ["7-without-bad-source-a-b-@9", "7-without-bad-source-a-b-@9-2"]
    assert new_folder(tmp_path / "7", amendments, tmp_path / "x" / "y") == tmp_path / "x" / "y"
    with pytest.raises(ForkError, match="x exists"):
        new_folder(tmp_path / "7", amendments, tmp_path / "x")


def test_a_run_may_still_be_going_on(own: Path, here: None) -> None:
    journal = Journal.open(own)
    try:
        assert "the run is still going on, at step 80 so far" in str(forked(own, "back@28", until=40))
    finally:
        journal.close()


def test_a_run_that_was_killed_is_said_to_have_died(own: Path, here: None) -> None:
    with sqlite3.connect(own / "journal.sqlite") as journal:  # as SIGKILL leaves it
        journal.execute("DELETE FROM event WHERE kind = 'closed'")
    journal.close()
    assert "the run died at step 80: its journal was not closed" in str(forked(own, "back@28", until=40))


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "harm",
    [
        lambda folder: flip(next(folder.glob("*.safetensors"))),
        pytest.param(lambda folder: (folder / "rank-0.json").unlink(), marks=pytest.mark.slow),
        pytest.param(lambda folder: next(folder.glob("*.state")).write_bytes(b""), marks=pytest.mark.slow),
    ],
    ids=["altered", "no manifest", "torn"],
)
def test_a_damaged_checkpoint_is_passed_over(own: Path, here: None, harm: Callable[[Path], Any]) -> None:
    harm(own / "checkpoints" / "tick-00000015")
    told = forked(own, "back@28", until=40)
    assert told.order.checkpoint == "tick-00000010"
    assert told.comparison.prefix.differs_at is None
    assert any("tick-00000015" in note for note in told.notes)


@pytest.mark.parametrize(
    ("without", "instead", "said"),
    [
        (
            ["back@27"],
            {},
            "the run took no act 'back@27': did you mean 'back@28'?\nits acts: back@28, back@44",
        ),
        (["bakc"], {}, "the run took no act 'bakc': did you mean 'back'?"),
        ([], {}, "say what is to be left out"),
        ([], {"back@28": 2}, "rule 'back' has rungs 0 to 1, got 2"),
        ([], {"back@28": 0}, "back@28 took rung 0: nothing would be done otherwise"),
        (["back"], {"back@28": 1}, "back@28 is both to be left out and to take another rung"),
        (["x@1"], {"y@1": 1}, "the run took no act 'x@1'\nthe run took no act 'y@1'\nits acts"),
    ],
)
def test_what_cannot_be_asked(run: Path, without: list[str], instead: dict[str, int], said: str) -> None:
    with pytest.raises(ForkError) as caught:
        midcourse.fork(run, without, instead=instead)
    assert said in str(caught.value)
    assert [path.name for path in run.parent.iterdir()] == ["7"], "nothing was made"


def test_errors_of_use(run: Path, tmp_path: Path) -> None:
    assert "write ID=RUNG" in ask(run, "--instead", "back@28").output
    assert "--compare takes RUN and FORK" in ask("--compare", run).output
    assert "is no fork" in ask("--compare", run, run).output
    assert "there is no journal" in ask(tmp_path, "--without", "x").output
    assert (
        "until step 20: the decision was taken at step 28"
        in ask(run, "--without", "back@28", "--until", 20, "--", *words(run)).output
    )
    assert "no such program" in ask(run, "--without", "back@28", "--", "nothing-of-the-kind").output


def test_a_port_that_the_run_holds_becomes_another(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        port = held.getsockname()[1]
        amendments = Amendments("7", frozenset({"back@28"}))
        order = ForkOrder("7", str(own.parent / "x"), "back@28", 28, amendments)
        monkeypatch.setenv(VARIABLE, json.dumps(order.to_json()))
        trace = train(own, RESUMABLE, resume="auto", metrics_port=port, epochs=1)
    assert trace.controller is not None
    assert trace.controller.metrics_port not in (None, port)
    assert trace.controller.run_dir == own.parent / "x"


def test_an_order_that_cannot_be_read_is_an_error() -> None:
    assert ForkOrder.given({}) is None
    with pytest.raises(ForkError, match=VARIABLE):
        ForkOrder.given({VARIABLE: "{}"})


# -- the recorded command -------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("form", ["script", "module", "code", "two ranks"])
def test_the_recorded_command_is_started_again(tmp_path: Path, form: str) -> None:
    arguments = ["runs/7", "--checkpoints", "--passes", "8" if form == "two ranks" else "4"]
    code = f"import forked_loop; forked_loop.main({arguments!r})"
    line = {
        "script": [str(SCRIPT), *arguments],
        "module": ["-m", "forked_loop", *arguments],
        "code": ["-c", code],
        "two ranks": [
            *("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"),
            *(str(SCRIPT), *arguments),
        ],
    }[form]
    environment = {**os.environ, "PYTHONPATH": str(SCRIPT.parent)}
    done = subprocess.run(
        [sys.executable, *line], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    # From another folder, in an environment that knows nothing of the first.
    told = midcourse.fork(tmp_path / "runs" / "7", "back@28")
    made = tmp_path / "runs" / "7-without-back@28"
    assert told.exit_code == 0
    assert (told.order.checkpoint, told.comparison.prefix.differs_at) == ("tick-00000015", None)
    assert acts(made)[0] == ("back@28", "observe", 0)
    was, became = losses(tmp_path / "runs" / "7"), losses(made)
    assert [became[tick] for tick in range(1, 29)] == [was[tick] for tick in range(1, 29)]
    replays(made)
