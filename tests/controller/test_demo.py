"""The demo's world: its text, its faults, and three arms that differ in nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from midcourse.controller import cli_demo
from midcourse.controller.demo.corpus import WINDOW, Corpus, load_corpus
from midcourse.controller.demo.faults import Faults, Storage, schedule
from midcourse.controller.demo.model import ByteTransformer, byte_losses
from midcourse.controller.demo.training import BATCH_SIZE, FULL, QUICK, Plan, Progress, train

FAULTS = Faults("docs", broken_from=3, broken_until=5, restart_at=8, restart_factor=10.0)
TINY = Plan(epochs=2, steps_per_epoch=6, warmup=2, faults=FAULTS)


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    torch.set_num_threads(1)
    return load_corpus()


def test_sources_are_large_enough_and_share_nothing_with_validation(corpus: Corpus) -> None:
    assert list(corpus.train) == ["code", "docs", "tables"]
    for name, windows in corpus.train.items():
        learned = {bytes(window.tolist()) for window in windows.windows}
        held_out = [bytes(window.tolist()) for window in corpus.validation[name]]
        assert len(windows) > 4000
        assert len(held_out) == 256
        assert sum(window in learned for window in held_out) <= 2, "boilerplate may repeat, text must not"


def test_corpus_is_the_same_each_time(corpus: Corpus) -> None:
    again = load_corpus()
    for name in corpus.train:
        assert torch.equal(corpus.train[name].windows, again.train[name].windows)
        assert torch.equal(corpus.validation[name], again.validation[name])


def test_binaries_are_no_text(corpus: Corpus) -> None:
    assert len(corpus.binaries) > 1000
    printable = ((corpus.binaries.windows >= 32) & (corpus.binaries.windows < 127)).float().mean()
    assert printable < 0.6


def test_storage_breaks_for_a_stretch_of_reads_and_heals(corpus: Corpus) -> None:
    storage = Storage(corpus, FAULTS, BATCH_SIZE)
    docs, healthy = storage.shelves["docs"], corpus.train["docs"][7]["bytes"]
    seen = [torch.equal(docs[7]["bytes"], healthy) for _ in range(6 * BATCH_SIZE)]
    broken = range(3 * BATCH_SIZE, 5 * BATCH_SIZE)
    assert seen == [read not in broken for read in range(6 * BATCH_SIZE)]
    storage = Storage(corpus, FAULTS, BATCH_SIZE)
    code, healthy = storage.shelves["code"], corpus.train["code"][7]["bytes"]
    assert all(torch.equal(code[7]["bytes"], healthy) for _ in range(6 * BATCH_SIZE))


def test_schedule_is_wrong_from_a_step_on_however_often_it_is_asked() -> None:
    clean, faulty = schedule(100, 10, None), schedule(100, 10, Faults("docs", 3, 5, 60, 10.0))
    assert [faulty(step) for step in range(60)] == [clean(step) for step in range(60)]
    assert max(clean(step) for step in range(100)) <= 1.0
    assert faulty(60) == 10.0
    assert faulty(100) == pytest.approx(0.0)


def test_model_reads_only_the_past() -> None:
    model, text = ByteTransformer().eval(), torch.randint(0, 256, (2, WINDOW))
    changed = text.clone()
    changed[:, 40:] = 0
    assert torch.equal(model(text[:, :-1])[:, :40], model(changed[:, :-1])[:, :40])
    assert byte_losses(model, text).shape == (2,)


def test_arms_are_identical_up_to_the_first_fault(corpus: Corpus) -> None:
    told: dict[str, list[Progress]] = {"clean": [], "uncontrolled": []}
    clean = train(TINY.without_faults(), corpus, 1, told["clean"].append)
    uncontrolled = train(TINY, corpus, 1, told["uncontrolled"].append)
    assert told["clean"][:3] == told["uncontrolled"][:3]
    assert told["clean"][3].loss != told["uncontrolled"][3].loss
    assert (clean.restart_tick, uncontrolled.restart_tick) == (None, 9)
    assert clean.ticks == uncontrolled.ticks == TINY.steps


@pytest.mark.parametrize("plan", [FULL, QUICK])
def test_plans_leave_room_for_the_detectors(plan: Plan) -> None:
    assert plan.faults is not None
    assert plan.faults.broken_from > 64, "measurements of warm-up"
    assert plan.faults.restart_at - plan.faults.broken_until >= 100
    assert plan.steps - plan.faults.restart_at >= 100


def test_json_is_all_that_is_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli_demo, "QUICK", TINY)
    told = CliRunner().invoke(cli_demo.demo, ["--quick", "--seed", "3", "--json", "--run-dir", str(tmp_path)])
    assert told.exit_code == 0, told.output
    result = json.loads(told.stdout)
    assert [fault["first_tick"] for fault in result["faults"]] == [4, 9]
    assert set(result["runs"]) == {"clean", "uncontrolled", "controlled"}
    # The detectors were still warming up: nothing was seen, nothing done, and so nothing changed.
    assert result["acts"] == []
    runs = result["runs"]
    assert runs["controlled"]["validation_loss"] == runs["uncontrolled"]["validation_loss"]


def test_tables_tell_the_same_to_people(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli_demo, "FULL", TINY)
    told = CliRunner().invoke(cli_demo.demo, ["--run-dir", str(tmp_path)])
    assert told.exit_code == 0, told.output
    for words in ("What was detected", "docs delivers binaries", "uncontrolled", "against clean"):
        assert words in told.output


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_controlled_run_ends_like_its_clean_twin(tmp_path: Path) -> None:
    told = CliRunner().invoke(cli_demo.demo, ["--seed", "11", "--json", "--run-dir", str(tmp_path)])
    assert told.exit_code == 0, told.output
    result = json.loads(told.stdout)
    assert result["acts_before_first_fault"] == 0
    assert all(fault["delay_steps"] <= 30 for fault in result["faults"])
    assert result["runs"]["controlled"]["excess_over_clean"] <= 0.03
    assert result["runs"]["uncontrolled"]["excess_over_clean"] > 0.03
