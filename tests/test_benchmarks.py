"""Every benchmark runs as its docstring says and writes what a program can read; no time is tested."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def run(name: str, *arguments: str) -> str:
    """Standard output of a benchmark."""
    command = [sys.executable, str(BENCHMARKS / name), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=240).stdout


@pytest.fixture(scope="module")
def overhead(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """Table and JSON of a short run."""
    written = tmp_path_factory.mktemp("benchmarks") / "overhead.json"
    short = ("--only", "tick", "--ticks", "100", "--seed", "3")
    table = run("overhead.py", *short, "--json", str(written))
    return table, json.loads(written.read_text(encoding="utf-8"))


def test_overhead_gives_every_arm_part_and_step_length(overhead: tuple[str, dict[str, Any]]) -> None:
    _, result = overhead
    assert result["benchmark"] == "overhead"
    assert (result["ticks"], result["seed"]) == (100, 3)
    assert {"processor", "cores", "python", "torch"} <= result["machine"].keys()
    arms = {"empty_hooks", "observe", "act"}
    told = result["tick"]
    assert told["extra_us"].keys() == told["extra_quartiles_us"].keys() == arms
    parts = {"signals", "monitors", "engine", "journal", "metrics", "loop", "rest"}
    assert told["parts_us"].keys() == parts
    assert [step["step_ms"] for step in told["at_step"]] == [1, 10, 20, 100]
    assert not {"scaling", "allocations", "long", "device"} & result.keys(), "it was asked one thing only"


def test_overhead_measures_a_healthy_run_whose_parts_add_up(overhead: tuple[str, dict[str, Any]]) -> None:
    told = overhead[1]["tick"]
    assert told["decisions"] == 0, "an act would be measured with the ticks"
    once = ("bare_us", "norms_us", "moment_lag_us", "snapshot_us", "journal_thread_us")
    assert min(told[name] for name in once) > 0
    assert min(us for part, us in told["parts_us"].items() if part != "rest") > 0
    for step in told["at_step"]:
        parts = step["tick_us"] + step["norms_us"] + step["snapshots_us"]
        assert step["total_us"] == pytest.approx(parts, abs=0.2)
        assert step["share"] == pytest.approx(step["total_us"] / (1000 * step["step_ms"]), abs=1e-4)


def test_overhead_shows_a_table_to_people(overhead: tuple[str, dict[str, Any]]) -> None:
    table, _ = overhead
    for words in ("beyond it: act", "monitors", "one snapshot", "20 ms", "%"):
        assert words in table


def test_overhead_says_where_there_is_no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    command = benchmark(monkeypatch, "overhead")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert list(command.questions((), 1, None)) == ["tick", "scaling", "allocations"]
    assert list(command.questions(("tick",), 1, 50)) == ["tick", "long"]
    with pytest.raises(SystemExit, match="torch sees none"):
        command.main(["--only", "device"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert "device" in command.questions((), 1, None)


def benchmark(monkeypatch: pytest.MonkeyPatch, name: str) -> Any:
    """A module of the benchmarks."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return import_module(name)


def test_the_policies_of_the_scaling_benchmark_have_as_many_signals_and_rules_as_they_say(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scaling = benchmark(monkeypatch, "overhead_scaling")
    for signals, rules in ((1, 1), (30, 1), (1, 20)):
        policy = scaling.policy(signals, rules)
        assert (len(policy.monitors), len(policy.signals), len(policy.rules)) == (signals, signals, rules)
        [row, *_] = scaling.made_up(signals, seed=0)
        assert row.keys() == set(policy.signals)


@pytest.mark.slow
def test_overhead_grows_with_the_signals_and_keeps_next_to_nothing(tmp_path: Path) -> None:
    table = run("overhead.py", "--ticks", "300", "--long", "4000", "--json", str(tmp_path / "out.json"))
    result = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    signals, rules = result["scaling"]["signals"], result["scaling"]["rules"]
    assert list(signals["extra_us"]) == ["1", "3", "10", "30", "100"]
    assert list(rules["extra_us"]) == ["1", "5", "20", "50"]
    assert signals["slope_us"] > 0
    memory = result["allocations"]
    assert memory["bare"].keys() == memory["act"].keys() == memory["ours"].keys()
    assert memory["ours"]["waiting_bytes"] > 0, "the row of a tick waits for the journal's thread"
    assert abs(memory["ours"]["kept_blocks"]) < 20
    assert result["long"].keys() == {"deciding", "loop"}
    for course in result["long"].values():
        ticks = [look["tick"] for look in course["looks"]]
        assert len(ticks) == 10
        assert ticks[-1] == course["ticks"]
    for words in ("one more", "bytes at its end", "in its last half"):
        assert words in table


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_million_ticks_need_no_more_memory_or_work_than_two_hundred_thousand(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    course = benchmark(monkeypatch, "overhead_long").deciding(1_000_000, 0, tmp_path)
    _, early, *_, late = course["looks"]  # windows of what is measured at every tenth tick fill up first
    assert (early["tick"], late["tick"]) == (200_000, 1_000_000)
    assert late["objects"] <= early["objects"] + 200
    assert late["state_bytes"] <= 1.01 * early["state_bytes"]
    assert late["lines_a_tick"] <= 1.02 * early["lines_a_tick"]
    assert late["rss_bytes"] <= 1.05 * early["rss_bytes"], "16 bytes a tick, a number kept in a list say"


def test_a_course_is_steady_unless_something_grows_in_its_last_half(monkeypatch: pytest.MonkeyPatch) -> None:
    long = benchmark(monkeypatch, "overhead_long")
    flat: list[dict[str, float]] = [dict.fromkeys(long.BOUNDS, 1000.0) for _ in range(long.LOOKS)]
    early = [dict.fromkeys(long.BOUNDS, 100.0), *flat[1:]]
    assert long.verdict(flat)["steady"]
    assert long.verdict(early)["steady"], "what fills up at first is no growth"
    late = [*flat[:-1], {**flat[-1], "objects": 1003.0, "tick_us": 1100.0}]
    told = long.verdict(late)
    assert not told["steady"]
    assert told["grows"] == ["objects"], "a time may differ by more than a number of objects"


def test_what_is_measured_on_a_device_is_tried_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The order of its steps and the shape of what it tells; no device was needed for either."""
    module = benchmark(monkeypatch, "overhead_device")
    modes: list[str] = []
    at = module.Device(torch.device("cpu"), lambda: None, modes.append, {"cpu": True}, side=8)
    monkeypatch.setattr(module, "STEP_MS", 0.1)
    monkeypatch.setattr(module, "WARM_UP", 3)
    told = module.on_device(at, 0, tmp_path, ticks=5, turns=2, millions=0.01)
    assert modes == ["error", "default", *["warn", "default"] * 3], "nothing else is to be an error"
    assert told["forbidden"] == {"ticks": 5, "raised": None, "unwatched": 0}
    assert told["waits_a_tick"] == {"bare": 0, "baseline": 0, "unasked": 0}
    assert told["extra_us"].keys() == told["extra_host_us"].keys() == {"baseline", "unasked"}
    assert told["snapshot"].keys() == {"beside", "in_course"}
    assert not any(rule.before_step for rule in module.unasked().rules)
    shown = benchmark(monkeypatch, "overhead_tables").of(
        {"machine": benchmark(monkeypatch, "common").machine(), "policy": "", "ticks": 5, "device": told}
    )
    assert "forbidden for 5 ticks: none was made" in shown


def test_a_synchronisation_is_counted_and_one_of_ours_leaves_ticks_unwatched(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    module = benchmark(monkeypatch, "overhead_device")
    mode = "default"

    def debug(wanted: str) -> None:
        nonlocal mode
        mode = wanted

    def read(*_: object, **__: object) -> float:
        """As torch does it where a value of the device is read."""
        if mode == "warn":
            warnings.warn("called a synchronizing CUDA operation", stacklevel=2)
        if mode == "error":
            raise RuntimeError("called a synchronizing CUDA operation")
        return 0.0

    at = module.Device(torch.device("cpu"), lambda: None, debug, {"cpu": True}, side=8)
    assert module.waits(at, (read() for _ in range(6)), 5) == 1
    assert mode == "default"
    monkeypatch.setattr("midcourse.monitors.bank.MonitorBank.update", read)
    monkeypatch.setattr(module, "WARM_UP", 1)
    told = module.forbidden(at, 5, 0, tmp_path)
    assert told["raised"] is None, "training goes on"
    assert told["unwatched"] >= 5


@pytest.fixture(scope="module")
def rollback(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """Table and JSON of a short run: one size that fits, and one that no machine holds."""
    written = tmp_path_factory.mktemp("benchmarks") / "rollback.json"
    table = run("rollback.py", "--sizes", "0.1,1e9", "--turns", "2", "--seed", "3", "--json", str(written))
    return table, json.loads(written.read_text(encoding="utf-8"))


def test_rollback_compares_every_part_and_peer_with_a_plain_copy(
    rollback: tuple[str, dict[str, Any]],
) -> None:
    _, result = rollback
    assert result["benchmark"] == "rollback"
    assert (result["turns"], result["seed"]) == (2, 3)
    assert result["bars"] == {"snapshot": 1.2, "restore": 1.5}
    fits, _ = result["sizes"]
    peers = {"save_state", "load_state", "dcp_save", "dcp_async_save", "dcp_load"}
    ours = {"snapshot", "restore", "read_back", "act", "first_copy"}
    assert fits["ms"].keys() == fits["ratio"].keys() == ours | peers
    assert min(fits["copy_ms"], *fits["ms"].values(), *fits["ratio"].values()) > 0
    # Two layers of about 220: weights, biases, their two moments, and a step counter for each.
    assert fits["tensors"] == 4 * (2 + 2)
    assert fits["bytes"] == pytest.approx(12 * 1e5, rel=0.05)


def test_rollback_leaves_out_what_memory_does_not_hold_and_says_so(
    rollback: tuple[str, dict[str, Any]],
) -> None:
    table, result = rollback
    assert result["sizes"][1].keys() == {"millions", "skipped"}
    assert "GB are free" in table
    for words in ("snapshot", "restore, read back", "accelerator.save_state", "async_save", "1.2"):
        assert words in table


@pytest.fixture(scope="module")
def detection(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """Table and JSON of few synthetic runs, and of one recorded set made for the purpose."""
    folder = tmp_path_factory.mktemp("benchmarks")
    rng = np.random.default_rng(0)
    diverging = 2 + 0.05 * rng.standard_normal((2, 400))
    diverging[:, 300:] += 5
    np.savez(folder / "divergences_algoperf.npz", d000=diverging)
    facts = [{"id": "d000", "stride": 100, "onset": 300}]
    (folder / "divergences_algoperf.json").write_text(json.dumps(facts), encoding="utf-8")
    (folder / "tiny").mkdir()
    shape = {"loss": diverging[0], "grad_norm": diverging[1], "lr": np.ones(400), "pnorm": np.ones(400)}
    absent = np.where(np.arange(400) % 3 == 0, np.nan, diverging[0])
    meta = json.dumps({"fault": {"at": 300}})
    np.savez(folder / "tiny" / "fault_x_s0.npz", **shape, upd_ratio=np.ones(400), loss_g0=absent, meta=meta)
    written = folder / "detection.json"
    short = ("--steps", "2000", "--seeds", "1", "--seed", "3", "--workers", "1")
    table = run("detection.py", "--traces", str(folder), *short, "--json", str(written))
    return table, json.loads(written.read_text(encoding="utf-8"))


def test_detection_judges_monitors_policy_and_peers_on_all_that_there_is(
    detection: tuple[str, dict[str, Any]],
) -> None:
    table, result = detection
    assert result["benchmark"] == "detection"
    assert (result["seed"], result["seeds"], result["synthetic_steps"]) == (3, 1, 2000)
    ramps = {"ramp 2.5 %", "ramp 5 %", "ramp 10 %", "ramp 2 sigma", "shift 0.3"}
    families = {"divergences_algoperf", "tiny x", "synthetic", *ramps}
    assert result["samples"].keys() == families
    assert {"baseline policy, acts", "sustained_rise loss", "ADWIN, raw", "ZClip"} <= result["watches"].keys()
    for name, watch in result["watches"].items():
        assert watch["families"].keys() == families
        assert (watch["lateness"] is None) == (watch["peer"] or name.startswith("baseline policy"))
        assert watch["us"] is None or watch["us"] > 0
        assert name in table


def test_detection_counts_a_fault_once_and_only_where_its_signal_is(
    detection: tuple[str, dict[str, Any]],
) -> None:
    watches = detection[1]["watches"]
    found = watches["divergence loss"]["families"]["divergences_algoperf"]
    assert (found["runs"], found["found"], found["delay_median"], found["onset_bias"]) == (1, 1, 1, 0)
    assert watches["divergence loss"]["families"]["synthetic"]["episodes"] == 0
    own = "sustained_rise loss/source=*"
    assert watches[own]["families"]["synthetic"] is None
    assert watches[own]["families"]["tiny x"]["found"] == 1
    assert watches["Megatron 10x"]["families"]["ramp 5 %"]["found"] == 0


@pytest.fixture(scope="module")
def forecasting(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """Table and JSON of made-up runs."""
    written = tmp_path_factory.mktemp("benchmarks") / "forecasting.json"
    table = run("forecasting.py", "--seed", "3", "--calibrate", "--json", str(written))
    return table, json.loads(written.read_text(encoding="utf-8"))


def test_forecasting_compares_every_forecaster_at_every_share(
    forecasting: tuple[str, dict[str, Any]],
) -> None:
    table, result = forecasting
    assert (result["benchmark"], result["seed"]) == ("forecasting", 3)
    forecasters = ("last value", "power law", "schedule", "references")
    rows = {(row["forecaster"], row["share"]): row for row in result["results"]}
    assert rows.keys() == {(name, share) for name in forecasters for share in (0.25, 0.5, 0.75, 0.9)}
    for (name, _), row in rows.items():
        assert row["error"] >= 0
        assert row["error_by_group"] >= 0
        assert ("coverage" in row) == ("ms" in row) == (name != "last value")
        assert name == "last value" or (0 <= row["coverage"] <= 100 and row["width"] > 0 and row["ms"] > 0)
    assert {row["method"] for row in result["calibration"]} == set(forecasters[1:])
    assert all(0 < row["factor"] < 2 and row["left_out"] <= 100 for row in result["calibration"])
    healthy, shifted = result["as_detector"]
    assert (healthy["family"], healthy["found"]) == ("synthetic, no schedule", "")
    assert healthy["samples"] == 2 * shifted["samples"] == 40_000
    for words in (*forecasters, "coverage %", "units of reach", "as a detector"):
        assert words in table


def test_forecasting_takes_what_a_folder_holds(tmp_path: Path) -> None:
    steps = np.arange(1.0, 31.0) * 100
    once = np.stack([steps, 2 + 30 * steps**-0.6, 1 - steps / 3000])
    np.savez(tmp_path / "forecast_nanogpt.npz", a=np.concatenate([once, once], axis=1))
    facts = [{"id": "a", "group": "g"}]
    (tmp_path / "forecast_nanogpt.json").write_text(json.dumps(facts), encoding="utf-8")
    result = json.loads(run("forecasting.py", "--traces", str(tmp_path), "--json"))
    assert {row["source"] for row in result["results"]} == {"forecast_nanogpt"}
    assert {row["runs"] for row in result["results"]} == {2}, "steps that start again begin another run"
    assert (
        next(
            row["target"]
            for row in result["results"]
            if (row["forecaster"], row["share"]) == ("schedule", 0.25)
        )
        == 2.4
    )


@pytest.mark.slow
def test_precursors_tell_who_came_first(tmp_path: Path) -> None:
    """On runs too short to judge the norms, and a recorded one whose gradients move before its loss."""
    (tmp_path / "tiny").mkdir()
    rng = np.random.default_rng(0)
    noise = np.exp(0.05 * rng.standard_normal((2, 400)))
    signals = {"loss": 2 * noise[0], "grad_norm": noise[1], "lr": np.ones(400), "pnorm": np.ones(400)}
    signals["loss"][320:] *= 3
    signals["grad_norm"][300:] *= 3
    meta = json.dumps({"fault": {"at": 300}})
    np.savez(tmp_path / "tiny" / "fault_x_s0.npz", **signals, upd_ratio=np.ones(400), meta=meta)
    written = tmp_path / "precursors.json"
    short = ("--seeds", "1", "--begin", "80", "--after", "6", "--healthy", "90", "--workers", "1")
    table = run("precursors.py", "--traces", str(tmp_path), *short, "--json", str(written))
    result = json.loads(written.read_text(encoding="utf-8"))
    assert result["steps"] == {"begin": 80, "after": 6, "healthy": 90}
    told = {(entry["precursor"], entry["every"]): entry for entry in result["precursors"]}
    ahead = told["shift grad_norm", 10]["faults"]["tiny x"]
    assert (ahead["first"], ahead["alone"], ahead["lead_median"]) == (1, 0, 19.0)
    silent = told["jump param_norm", 10]["faults"]["tiny x"]
    assert (silent["loss_alarmed"], silent["first"], silent["lead_median"]) == (1, 0, None)
    assert told["sustained_rise moment_lag", 10]["faults"]["tiny x"] is None
    # A rate 30 times too high shows in all of them.
    assert told["sustained_rise moment_lag", 1]["faults"]["rate x30"]["runs"] == 1
    healthy = {"constant", "constant, no clipping", "cosine", "warm restarts"}
    assert told["sustained_rise moment_lag", 1]["healthy"].keys() == healthy
    assert told["jump update_ratio", 1]["healthy"]["cosine"] == {"steps": 90, "per_100k": 0.0}
    for words in ("norms every 10", "label noise", "never (never never)", "1/1 +19 (+19 +19)"):
        assert words in table


@pytest.mark.slow
def test_changes_tell_what_is_meant_from_what_is_wrong(tmp_path: Path) -> None:
    written = tmp_path / "changes.json"
    table = run(
        "changes.py", "--scenario", "another mix, then bad rows", "--seeds", "1", "--json", str(written)
    )
    (row,) = json.loads(written.read_text(encoding="utf-8"))["results"]
    assert (row["fault"], row["runs"], row["aware"]["alarms"]) == (True, 1, [])
    assert row["aware"]["delay"]["found"] == row["unaware"]["delay"]["found"] == 1
    assert "another mix, then bad rows" in table


@pytest.mark.slow
def test_mixing_compares_the_laws_with_equal_shares() -> None:
    result = json.loads(run("mixing.py", "--seeds", "1", "--steps", "40", "--json"))
    runs = {each["arm"]: each for each in result["runs"]}
    assert runs.keys() == {"equal shares", "group_dro", "online_mixing", "excess_loss"}
    assert runs["equal shares"]["moves"] == 0
    assert runs["group_dro"]["worst"] == max(runs["group_dro"]["validation"].values())


def test_average_run_length_compares_budgets_and_peers_on_every_noise() -> None:
    short = ("--budgets", "200", "--runs", "2", "--seed", "3", "--workers", "1")
    result = json.loads(run("average_run_length.py", *short, "--json"))
    assert (result["benchmark"], result["seed"], result["runs"]) == ("average_run_length", 3, 2)
    assert len(result["rows"]) >= 16
    for row in result["rows"]:
        assert row["budget"] == 200
        assert row["watches"].keys() == {"e_detector", "unwhitened", "sustained_rise", "adwin", "ADWIN, raw"}
        for told in row["watches"].values():
            assert 0 <= told["alarms"] <= 2
            assert told["ratio"] > 0
            assert (told["error"] is None) == (told["alarms"] == 0)
    assert "e_detector" in run("average_run_length.py", *short)


def test_recovery_reads_shares_harm_and_delays_off_its_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """On runs written by hand: no training."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    table = import_module("recovery_table")

    def ended(fault: str, arm: str, seed: int, loss: float | None, **more: Any) -> dict[str, Any]:
        where = {"world": "text", "fault": fault, "arm": arm, "seed": seed}
        told = {"acts": [], "alarms": [], "lost": 0, "stopped": False, "ticks": 800, "steps": 800, **more}
        return {**where, "loss": {"a": loss, "b": loss}, "untrained": {"a": 5.0, "b": 5.0}, **told}

    runs = [ended("cosine", "none", seed, 2.0 + 0.01 * seed) for seed in (0, 1, 2)]
    runs += [ended("nan", "none", seed, None) for seed in (0, 1)]
    runs += [ended("nan", "hindsight: skip", seed, 2.0) for seed in (0, 1)]
    runs += [ended("nan", "palm", 0, 2.6, acts=[90, 304, 310], lost=80, ticks=880)]
    runs += [ended("nan", "palm", 1, 1e9, alarms=[303])]
    runs += [ended("moments", "none", 0, 2.0), ended("moments", "palm", 0, 2.5)]
    results = table.Results(runs, [0, 1])
    assert results.noise("text") == pytest.approx(0.01)
    assert results.chosen("text", "nan", [0, 1]) == "hindsight: skip"
    cell = table.judge(results, "text", "nan", "palm", "hindsight: skip")
    assert cell["recovered_hindsight"]["value"] == pytest.approx((2.4 + 0.0) / (3 + 3))
    assert (cell["gap_hindsight"], cell["harm"]) == (3.0, 0)
    assert (cell["acts_delay"], cell["acts_found"], cell["alarms_delay"]) == (3, 1, 2)
    assert (cell["lost"], cell["overhead"]) == (40, pytest.approx(0.05))
    moments = table.judge(results, "text", "moments", "palm", "none")
    assert moments["recovered_hindsight"] is None, "where nothing is lost, no share of it is told"
    assert moments["harm"] == 1
    shown = table.tables(
        [table.judge(results, "text", "nan", a, "hindsight: skip") for a in ("none", "palm")]
    )
    assert "| one batch gives NaN | 3.000 | 40 % (0 to 80) |" in shown


@pytest.mark.slow
def test_recovery_trains_tells_and_goes_on_where_it_was(tmp_path: Path) -> None:
    few = ("--workloads", "digits", "--faults", "nan,cosine", "--arms", "none,hindsight,skipstep,midcourse")
    short = (*few, "--seeds", "1", "--tuning-seeds", "1", "--workers", "2", "--into", str(tmp_path))
    result = json.loads(run("recovery.py", *short, "--json"))
    lines = (tmp_path / "runs.jsonl").read_text(encoding="utf-8")
    cells = {(cell["fault"], cell["arm"]): cell for cell in result["cells"]}
    assert cells["nan", "midcourse"]["recovered_hindsight"]["value"] == pytest.approx(1, abs=0.05)
    assert cells["nan", "midcourse"]["acts_delay"] == 0
    assert cells["cosine", "midcourse"]["changes"] == 0
    assert cells["cosine", "midcourse"]["better"]["value"] == 0, "watched and unwatched are the same run"
    assert "nothing is wrong" in run("recovery.py", *short)
    assert (tmp_path / "runs.jsonl").read_text(encoding="utf-8") == lines, "a second start trains nothing"


@pytest.mark.slow
def test_library_holds_the_fine_tuning_policy_to_what_it_is_for() -> None:
    runs = json.loads(run("library.py", "--policy", "fine-tuning", "--seeds", "1", "--json"))["runs"]
    healthy, no_number, few = runs
    assert healthy["healthy"]
    assert healthy["bitwise"]
    assert not any(each["changes"] for each in healthy["decisions"])
    assert no_number["plain"] is None
    assert no_number["loss"] < 2.2
    assert few["loss"] < few["plain"] - 0.05
    [act] = [each for each in few["decisions"] if each["changes"]]
    assert (act["rule"], act["rung"], act["applied"]) == ("overfits", 0, True)
