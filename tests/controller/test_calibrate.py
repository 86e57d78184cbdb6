"""``midcourse calibrate``: thresholds that keep their rate on runs not seen, and what they cost."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from midcourse.controller.cli import main
from midcourse.controller.recorded.calibrate import Calibration, calibrate
from midcourse.controller.recorded.injected import Shape
from midcourse.controller.recorded.observe import observe
from midcourse.controller.recorded.recording import Chapter, Recording
from midcourse.controller.recorded.tails import Basis, choose, evidence
from midcourse.controller.recorded.thresholds import least_from, threshold_of, with_thresholds
from midcourse.monitors.conformance import healthy
from midcourse.monitors.types import MonitorSpec, Sample, Tuned
from midcourse.policies.judging import poisson_interval
from midcourse.policies.policy import load_policy, parse_policy

POLICY = """version: 1
monitors:
  guard: {type: guard}
  blowup: {type: divergence, signal: loss}   # two of three
  rise:
    type: sustained_rise    # the slow one
    signal: loss
  too_good: {type: too_good, signal: loss, threshold: 20, clip: 2}
  other: {type: spike, signal: grad_norm}
"""
RATE = 1 / 1600


def recording(seed: int, n: int = 4000) -> Recording:
    samples = [Sample(tick, tick, 0, {"loss": loss}) for tick, loss in enumerate(healthy(n, seed))]
    return Recording(f"run {seed}", [Chapter(1, lambda: samples)], frozenset({"loss"}))


@cache
def calibrated() -> Calibration:
    return calibrate(parse_policy(POLICY), [recording(seed) for seed in range(100, 104)], RATE)


def test_on_fresh_runs_the_rate_is_what_was_asked() -> None:
    """Within the exact interval of what was seen; never above it."""
    found = calibrated()
    new = {each.monitor: each.new for each in found.monitors if each.new is not None}
    assert set(new) == {"blowup", "rise", "too_good"}
    seen = observe(with_thresholds(parse_policy(POLICY), new), [recording(seed) for seed in range(200, 204)])
    for each in found.monitors:
        assert each.choice.basis is Basis.COUNTED
        assert each.after is not None
        assert each.before < each.after <= RATE * each.samples
        low, high = poisson_interval(seen.episodes[each.monitor])
        assert low <= RATE * seen.samples[each.monitor] <= high, each.monitor


def test_a_lower_threshold_finds_sooner_and_more() -> None:
    for each in calibrated().monitors:
        for shape in Shape:
            old, new = each.delays[shape]
            assert new is not None
            assert old.tried == new.tried > 10
            assert len(new.found) >= len(old.found)
        assert sum(new.found) <= sum(old.found) or len(new.found) > len(old.found)
        assert np.median(each.delays[Shape.STEP][0].found) < np.median(each.delays[Shape.RAMP][0].found)


def test_what_cannot_be_calibrated_is_told() -> None:
    assert calibrated().left_out == {
        "guard": "has no threshold that its score alone is compared with",
        "other": "judged nothing in these runs",
    }


def test_the_same_runs_and_seed_give_the_same() -> None:
    policy, runs = parse_policy(POLICY), [recording(1, 1000)]
    first, second = (calibrate(policy, runs, 1 / 1000) for _ in range(2))
    assert [each.to_json() for each in first.monitors] == [each.to_json() for each in second.monitors]


def excursions(n: int, seed: int) -> np.ndarray:  # type: ignore[type-arg]
    """Evidence whose peaks are exponential of scale 1, each alone."""
    scores = np.zeros(n)
    scores[::10] = np.random.default_rng(seed).exponential(1.0, n // 10)
    return scores


def test_a_tail_is_continued_to_ten_times_the_runs_and_no_further() -> None:
    """Of exponential peaks, one in ten samples, the threshold of a rate r is log(0.1 / r)."""
    tuned = Tuned()
    rates = [1e-2, 1e-3, 1e-4, 1e-5]
    choices = [choose([excursions(20_000, seed=1)], tuned, 20_000, rate) for rate in rates]
    assert [choice.basis for choice in choices] == [
        *(Basis.COUNTED, Basis.COUNTED),
        *(Basis.EXTRAPOLATED, Basis.EXTRAPOLATED),
    ]
    for rate, choice in zip(rates, choices, strict=True):
        assert choice.threshold == pytest.approx(np.log(0.1 / rate), rel=0.25)
    further = choose([excursions(20_000, seed=1)], tuned, 20_000, 4e-6)
    assert (further.threshold, further.basis, further.needed) == (None, Basis.TOO_FEW, 25_000)
    assert further.largest == pytest.approx(7.6, abs=2)


def test_of_too_few_excursions_nothing_is_said() -> None:
    assert choose([np.zeros(5000)], Tuned(), 5000, 1e-3).basis is Basis.TOO_FEW
    assert choose([], Tuned(), 0, 1e-3).basis is Basis.TOO_FEW


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.booleans())
def test_the_rarer_the_higher(seed: int, power: bool) -> None:
    scores = np.random.default_rng(seed).standard_t(4, 4000) * 2
    rates = [0.02, 0.01, 0.005, 0.002, 0.001, 0.0001]
    found = [choose([scores], Tuned(power=power), 4000, rate).threshold for rate in rates]
    assert all(one is not None and other is not None and one <= other for one, other in pairwise(found))


def test_evidence_is_the_score_reached_often_enough() -> None:
    scores = [1.0, 9.0, float("nan"), 7.0, 3.0]
    assert evidence(scores, Tuned(times=2, of=3)).tolist()[2:] == [1.0, 7.0, 3.0]
    assert evidence(scores, Tuned()).tolist()[3:] == [7.0, 3.0]


def test_no_threshold_is_asked_that_the_monitor_does_not_take() -> None:
    spec = MonitorSpec("rise", "sustained_rise", {"signal": "loss/source=*"})
    assert threshold_of(spec) == 20
    assert least_from(spec, 7.0) == 7.0
    assert least_from(spec, 2.0) == pytest.approx(4.0, rel=0.01)  # above its clip


def ask(*arguments: object) -> Result:
    result = CliRunner().invoke(main, ["calibrate", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    return result


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    policy, run = tmp_path / "policy.yaml", tmp_path / "run.csv"
    policy.write_text(POLICY, encoding="utf-8")
    lines = [f"{step},{loss!r}" for step, loss in enumerate(healthy(1200, seed=7))]
    run.write_text("\n".join(["step,loss", *lines]), encoding="utf-8")
    return policy, run


def test_the_command_tells_and_writes_the_policy(files: tuple[Path, Path]) -> None:
    policy, run = files
    out = policy.with_name("new.yaml")
    result = ask(policy, run, "--false-alarms", "1/1000", "--write", out)
    assert result.exit_code == 0
    assert "rise" in result.output
    assert "extrapolated" in result.output
    assert "guard: has no threshold that its score alone is compared with" in result.output
    old, new = load_policy(policy), load_policy(out)
    assert [each.name for each in new.monitors] == [each.name for each in old.monitors]
    assert {each.name for each in old.monitors if each not in new.monitors} == {
        *("blowup", "rise", "too_good")
    }
    assert "# two of three" in new.text
    assert "    type: sustained_rise    # the slow one\n    threshold: " in new.text


def test_json_has_all_of_it(files: tuple[Path, Path]) -> None:
    result = ask(*files, "--false-alarms", "1e-5", "--json")
    told = json.loads(result.output)
    blowup = told["monitors"][0]
    assert (blowup["monitor"], blowup["parameter"], blowup["old"], blowup["new"]) == (
        *("blowup", "threshold"),
        *(10.0, None),
    )
    assert (blowup["basis"], blowup["samples"], blowup["samples_needed"]) == ("too few samples", 1200, 10_000)
    assert blowup["after"] is None
    assert blowup["before"]["interval_95"][0] == 0.0
    assert blowup["delays"]["step"][0]["found"] > 0
    assert told["left_out"]["other"] == "judged nothing in these runs"
    assert "needs 10000 samples or more; largest score" in ask(*files, "--false-alarms", "1e-5").output


@pytest.mark.parametrize("rate", ["0", "2", "1/0", "many", "-1/5"])
def test_a_rate_is_a_share(files: tuple[Path, Path], rate: str) -> None:
    result = ask(*files, "--false-alarms", rate)
    assert result.exit_code == 2
    assert f"'{rate}' is no share between 0 and 1, such as 1/100000" in result.output


def test_what_cannot_be_read_or_written_is_told(files: tuple[Path, Path]) -> None:
    policy, run = files
    missing = ask(policy, run.with_name("none.csv"))
    assert missing.exit_code == 1
    assert "none.csv" in missing.output
    bad = ask(run, run)
    assert bad.exit_code == 1
    assert "run.csv:1:1: " in bad.output
    unwritten = ask(policy, run, "--false-alarms", "1/1000", "--write", policy.parent / "no" / "new.yaml")
    assert unwritten.exit_code == 1
    assert "new.yaml: " in unwritten.output


def test_it_never_loads_torch(files: tuple[Path, Path]) -> None:
    code = (
        "import sys; from midcourse.controller.cli import main\n"
        f"try: main(['calibrate', *{[str(each) for each in files]!r}, '--false-alarms', '1/1000'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'accelerate', 'pandas', 'scipy', 'prometheus_client'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
