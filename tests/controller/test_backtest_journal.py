"""``midcourse backtest`` on runs of Midcourse: exact for their own policy, honest about any other."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from journal_words import decision, sample, started
from small_loop import RESUMABLE, Died, train
from test_journal_replay import POLICY

from midcourse.controller.cli import main
from midcourse.controller.journal.reader import JournalReader
from midcourse.controller.recorded.backtest import Backtest, backtest
from midcourse.controller.recorded.journal_runs import read_journal
from midcourse.monitors.types import Sample
from midcourse.policies.policy import load_policy, parse_policy
from midcourse.policies.simulated import SimulatedRun
from midcourse.policies.types import Outcome, Status, Turn

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run with skipped steps, rollbacks of three kinds, a refused one, and a fault at its end."""

    def spoil(tick: int, loss: torch.Tensor) -> torch.Tensor:
        return loss * float("nan") if tick in (30, 33, 70) else loss * (1 + 9 * (tick > 150))

    folder = tmp_path_factory.mktemp("run")
    triggers = {20: 1.0, 21: 1.0, 45: 1.0, 100: 1.0}
    train(folder, POLICY, triggers=triggers, epochs=9, spoil=spoil, mixture=True)
    return folder


def tried(policy: str, run: Path) -> Backtest:
    return backtest(parse_policy(policy), read_journal(run, str(run)))


def ask(*args: object) -> Result:
    result = CliRunner().invoke(main, ["backtest", *map(str, args)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    return result


def test_the_run_s_own_policy_decides_what_the_journal_says(run: Path) -> None:
    [course] = tried(POLICY, run).courses
    with JournalReader(run) as journal:
        assert course.decisions == list(journal.decisions())
        assert course.verdicts == list(journal.verdicts())
    assert course.comparison is not None
    assert course.comparison.identical
    assert course.difference is None
    assert len(course.decisions) == 9


def test_a_policy_that_does_the_same_is_followed_through_outcomes_and_verdicts(run: Path) -> None:
    own, other = (tried(text, run).courses[0] for text in (POLICY, POLICY.replace("acts: 3", "acts: 4")))
    assert other.difference is None
    assert other.comparison is None
    assert other.decisions == own.decisions
    assert other.verdicts == own.verdicts


def test_what_follows_an_act_that_the_run_did_not_take_is_no_evidence(run: Path) -> None:
    [course] = tried(POLICY.replace("factor: 0.5", "factor: 0.4"), run).courses
    assert course.difference is not None
    assert (course.difference.act.id, course.difference.by_policy) == ("back@45", True)
    said = [(each.id, each.disposition.value, course.is_evidence(each.tick)) for each in course.decisions]
    assert said[:3] == [("back@20", "act", True), ("back@21", "act", True), ("bad-step@30", "act", True)]
    assert ("back@45", "act", True) in said
    assert ("bad-step@70", "observe", False) in said
    assert ("back@100", "observe", False) in said


def test_what_follows_an_act_of_the_run_that_the_policy_does_not_take_is_no_evidence(run: Path) -> None:
    watching = POLICY.replace("  - name: back", "  - name: back\n    mode: observe")
    [course] = tried(watching, run).courses
    assert course.difference is not None  # the act at tick 20 was refused: it changed nothing
    assert (course.difference.act.id, course.difference.by_policy) == ("back@21", False)
    assert course.is_evidence(21)
    assert not course.is_evidence(22)


def test_monitors_of_another_policy_go_back_with_the_run(run: Path) -> None:
    """Else ``rise`` would have more in its window than that of the run's own policy."""
    own, other = (
        tried(text, run).courses[0] for text in (POLICY, POLICY.replace("name: back", "name: other"))
    )
    assert other.difference is not None
    assert other.difference.tick == 20
    assert other.alarms == own.alarms
    assert other.alarms[-1].monitor == "rise"


def test_a_policy_in_observe_mode_is_judged_as_if_it_acted(run: Path) -> None:
    own, other = (
        tried(text, run).courses[0]
        for text in (POLICY, POLICY.replace("version: 1", "version: 1\nmode: observe"))
    )
    assert other.difference is None
    assert other.decisions == own.decisions


def test_a_run_that_only_observed_is_compared_with_what_it_would_have_done(tmp_path: Path) -> None:
    observing = POLICY.replace("version: 1", "version: 1\nmode: observe")
    train(tmp_path, observing, triggers={20: 1.0}, epochs=2)
    own, acting = (tried(text, tmp_path).courses[0] for text in (observing, POLICY))
    assert own.comparison is not None
    assert own.comparison.identical
    for course, disposition in ((own, "observe"), (acting, "act")):
        [decided] = course.decisions
        assert decided.disposition.value == disposition
        assert course.difference is not None
        assert (course.difference.tick, course.difference.by_policy) == (20, True)


def test_the_report_says_what_it_was_compared_with_and_where_evidence_ends(run: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text(POLICY)
    result = ask(own, run, "--monitors")
    assert result.exit_code == 0
    assert "the 9 decisions and 3 verdicts replayed are identical with the journal's" in result.output
    assert "loss/source=* was never measured: monitor source saw nothing of it" in result.output
    assert "Evidence ends" not in result.output
    assert "rise" in result.output
    own.write_text(POLICY.replace("factor: 0.5", "factor: 0.4"))
    result = ask(own, run)
    assert "Evidence ends at tick 45: there back would have done rollback(" in result.output
    assert "and the run did not. What is decided later is not evidence." in result.output
    assert result.output.count("not evidence") == 4
    own.write_text(POLICY.replace("  - name: back", "  - name: back\n    mode: observe"))
    assert "there the run did rollback(" in ask(own, run).output


def test_a_policy_that_only_records_takes_no_other_course(run: Path, tmp_path: Path) -> None:
    told = "  - name: word\n    when: trigger.value > 0.5\n    ladder:\n      - [notify: {message: look}]\n"
    [course] = tried(POLICY.replace("  - name: off-course", f"{told}  - name: off-course"), run).courses
    assert {"word@20", "word@100"} & {each.id for each in course.decisions}
    assert course.difference is None


def test_a_journal_that_was_tampered_with_names_the_first_decision_that_differs(tmp_path: Path) -> None:
    text = "version: 1\nmonitors:\n  blowup: {type: divergence, signal: loss}\n"
    journal = started(tmp_path)
    for tick in range(1, 4):
        journal.sample(sample(tick))
    journal.decision(decision(3))
    journal.close()
    [course] = tried(text, tmp_path).courses
    assert course.comparison is not None
    assert not course.comparison.identical
    assert course.comparison.replayed is None
    assert course.comparison.journalled == decision(3)


def interrupted(folder: Path, **loop: Any) -> None:
    with pytest.raises(Died):
        train(folder, RESUMABLE, resume="auto", **loop)
    loop.pop("die_at")
    train(folder, RESUMABLE, resume="auto", **loop)


def test_a_resumed_run_is_followed_from_where_it_went_on(tmp_path: Path) -> None:
    interrupted(tmp_path, die_at=28, triggers={17: 1.0, 40: 1.0}, epochs=4)
    first, second = tried(RESUMABLE, tmp_path).courses
    assert second.resumed is not None
    assert second.resumed < first.ticks[-1]
    for course in (first, second):
        assert course.comparison is not None
        assert course.comparison.identical, course.comparison
    assert [each.id for each in second.decisions if each.disposition.value == "act"] == ["back@40"]


@pytest.mark.parametrize("lost", [False, True], ids=["after", "before"])
def test_what_a_new_process_goes_on_from_decides_whether_it_is_evidence(tmp_path: Path, lost: bool) -> None:
    """A policy that would not have rolled back at tick 23: with that tick lost, the two are one again."""
    with pytest.raises(Died):
        train(tmp_path, RESUMABLE, resume="auto", triggers={23: 1.0}, epochs=2, die_at=24)
    if lost:
        shutil.rmtree(tmp_path / "checkpoints" / "tick-00000023")
    train(tmp_path, RESUMABLE, resume="auto", triggers={30: 1.0}, epochs=2)
    stricter = RESUMABLE.replace("when: trigger.value > 0.5", "when: trigger.value > 2")
    first, second = tried(stricter, tmp_path).courses
    assert first.difference is not None
    assert first.difference.tick == 23
    assert second.difference is not None
    assert (second.resumed, second.difference.tick) == ((10, 30) if lost else (23, 23))
    assert second.is_evidence(second.ticks[0]) is lost


def test_a_run_that_began_anew_is_judged_anew(tmp_path: Path) -> None:
    for _ in range(2):
        train(tmp_path, POLICY, triggers={20: 1.0, 21: 1.0}, epochs=2)
    first, second = tried(POLICY, tmp_path).courses
    assert second.resumed is None
    assert first.comparison == second.comparison
    assert first.decisions == second.decisions


def test_json_tells_all_of_it(run: Path, tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text(POLICY.replace("factor: 0.5", "factor: 0.4"))
    said = json.loads(ask(policy, run, "--json", "--onset", 1).output)
    [course] = said["runs"][0]["attempts"]
    assert course["evidence_until"]["tick"] == 45
    assert [each["evidence"] for each in course["decisions"]].count(False) == 3
    assert course["own_policy"] is None
    assert said["runs"][0]["missing"] == [{"signal": "loss/source=*", "monitors": ["source"], "rules": []}]
    assert said["scores"]["rules"]["back"]["found"] == 1


def test_a_run_that_cannot_be_followed_is_an_error(tmp_path: Path) -> None:
    journal = started(tmp_path)
    journal.sample(sample(9))
    acted = decision(9)
    journal.decision(acted)
    journal.outcome(Outcome(acted.id, Status.APPLIED, 9, details={"rollback": {"target_tick": 4}}), acted)
    journal.close()
    result = ask("baseline", tmp_path)
    assert (result.exit_code, result.output) == (
        1,
        f"{tmp_path}: {acted.id} goes back to tick 4, which was not replayed\n",
    )
    nothing = ask("baseline", tmp_path / "none.sqlite")
    assert (nothing.exit_code, "there is no journal" in nothing.output) == (1, True)
    refused = ask("baseline", tmp_path, "--step", "step")
    assert (refused.exit_code, "are for logs" in refused.output) == (1, True)


def test_a_run_s_policy_is_known_without_the_files_that_it_extended(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(POLICY)
    own = tmp_path / "own.yaml"
    own.write_text("extends: base.yaml\nrules: [{name: back, cooldown: 3}]\n")
    policy = load_policy(own)
    run = tmp_path / "run"
    train(run, own, triggers={20: 1.0, 45: 1.0}, epochs=4)
    (tmp_path / "base.yaml").unlink()
    with JournalReader(run) as journal:
        [life] = journal.attempts()
    assert (life.policy_text, life.policy_source) == (policy.text, str(own))
    told = CliRunner().invoke(main, ["journal", str(run), "--policy"]).output
    [course] = tried(told, run).courses
    assert course.comparison is not None
    assert course.comparison.identical
    assert len(course.decisions) == 2


def test_a_file_of_tests_takes_a_run_s_folder(run: Path, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(POLICY, "utf-8")
    (tmp_path / "own.test.yaml").write_text(
        f"policy: own.yaml\ntests:\n  - {{name: as it went, run: '{run}', decisions: [], verdicts: []}}\n",
        "utf-8",
    )
    result = CliRunner().invoke(main, ["test", str(tmp_path), "--json"])
    said = json.loads(result.output)["tests"][0]
    with JournalReader(run) as journal:
        ids = [
            (each.rule, each.tick) for each in journal.decisions() if each.disposition.value != "suppressed"
        ]
        results = [each.result.value for each in journal.verdicts()]
    assert [(pair["got"]["rule"], pair["got"]["tick"]) for pair in said["decisions"]] == ids
    assert [pair["got"]["result"] for pair in said["verdicts"]] == results


def test_a_simulated_run_goes_as_the_real_one_went(run: Path) -> None:
    """What was measured in a real run, played to its policy, gives the same decisions and verdicts."""
    with JournalReader(run) as journal:
        items = [entry.item for entry in journal.entries()]
        decisions, verdicts = list(journal.decisions()), list(journal.verdicts())
    samples = {item.tick: item for item in items if isinstance(item, Sample)}
    fates = {item.decision_id: (item.status, item.reason) for item in items if isinstance(item, Outcome)}
    simulated = SimulatedRun(parse_policy(POLICY), lambda decision: fates[decision.id])
    said = Turn()
    for tick in range(1, max(samples) + 1):
        said.extend(simulated.take(samples[tick].signals))
    assert said.decisions == decisions
    assert said.verdicts == verdicts
