"""``midcourse backtest`` on logs of other tools: layouts, mistakes, labels, and what is told of a policy."""

from __future__ import annotations

import csv
import json
import math
import subprocess
import sys
from io import StringIO
from pathlib import Path
from random import Random
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from midcourse.controller.cli import main
from midcourse.controller.recorded.columns import Chosen, read_choice
from midcourse.controller.recorded.logs import read_log
from midcourse.controller.recorded.needs import Needs
from midcourse.controller.recorded.recording import Recording, RecordingError
from midcourse.monitors.types import Sample
from midcourse.policies.policy import load_policy, parse_policy

NEEDS = Needs(load_policy("baseline"))
NAN = math.nan


def ask(*args: object) -> Result:
    result = CliRunner().invoke(main, ["backtest", "baseline", *map(str, args)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    return result


def written(folder: Path, *lines: str, name: str = "log.csv") -> Path:
    path = folder / name
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def read(path: Path, step: str | None = None, needs: Needs = NEEDS, **signals: str) -> Recording:
    return read_log(path, str(path), Chosen(step, signals), needs)


def samples(recording: Recording) -> list[tuple[int, dict[str, float]]]:
    events = list(recording.chapters[0].events())
    assert all(isinstance(each, Sample) and each.tick == each.step and each.branch == 0 for each in events)
    return [(each.step, each.signals) for each in events if isinstance(each, Sample)]


def mistakes(path: Path, **chosen: Any) -> list[str]:
    with pytest.raises(RecordingError) as caught:
        read(path, **chosen)
    return [problem.removeprefix(str(path)) for problem in caught.value.problems]


TWO = [(10, {"loss": 2.5, "grad_norm": 1.0}), (20, {"loss": 2.25})]

LAYOUTS: dict[str, tuple[dict[str, str], list[str]]] = {
    "own": ({}, ["step,loss,grad_norm,note", "10,2.5,1.0,begin", "20,2.25,,"]),
    "tabs": ({}, ["global_step\tloss\tgrad_norm", "10\t2.5\t1", "20\t2.25\t"]),
    "semicolons": ({}, ["iteration;loss;grad_norm", "10;2.5;1", "20; 2.25;"]),
    "wandb": (
        {"loss": "train/loss"},
        [
            '"Step","my - train/loss","my - train/loss__MIN","my - train/loss__MAX","my - grad_norm"',
            '"10","2.5","2.5","2.5","1.0"',
            '"20","2.25","2.25","2.25",""',
        ],
    ),
    "wandb history": ({}, ["_step,trainer/global_step,loss,grad_norm", "0,10,2.5,1", "1,20,2.25,", "2,,,"]),
    "lightning": ({}, ["epoch,step,loss,grad_norm", "0,10,,1", "0,10,2.5,", "0,20,2.25,"]),
    "tensorboard": ({"loss": "Value"}, ["Wall time,Step,Value", "1.5,10,2.5", "2.5,20,2.25"]),
    "long": (
        {"loss": "train/loss"},
        ["tag,step,value", "train/loss,10,2.5", "train/loss,20,2.25", "grad_norm,10,1", "epoch,10,0"],
    ),
    "mlflow": (
        {},
        ["run_id,key,value,step,timestamp", "a,loss,2.5,10,1", "a,grad_norm,1,10,1", "a,loss,2.25,20,2"],
    ),
    "json lines": (
        {},
        ['{"step": 10, "loss": 2.5, "grad_norm": 1}', "", '{"step": 20, "loss": 2.25, "x": [1]}'],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("signals", "lines"), LAYOUTS.values(), ids=LAYOUTS)
def test_each_layout_gives_the_same_samples(
    tmp_path: Path, signals: dict[str, str], lines: list[str]
) -> None:
    wanted = [(step, {"loss": given["loss"]}) for step, given in TWO] if "Wall" in lines[0] else TWO
    assert samples(read(written(tmp_path, *lines), **signals)) == wanted


def test_a_byte_order_mark_and_the_line_ends_of_another_system_do_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_bytes(b"\xef\xbb\xbfstep,loss\r\n1,2.5\r\n")
    assert samples(read(path)) == [(1, {"loss": 2.5})]


def test_an_empty_cell_was_not_measured_and_nan_was(tmp_path: Path) -> None:
    lines = ["step,loss,grad_norm,loss/source=code", "1,nan,-inf,", "2,Infinity,,NaN", "3,,,"]
    first, second = samples(read(written(tmp_path, *lines)))
    assert (first[0], repr(first[1])) == (1, "{'loss': nan, 'grad_norm': -inf}")
    assert (second[0], repr(second[1])) == (2, "{'loss': inf, 'loss/source=code': nan}")


def test_without_a_step_rows_are_counted_and_that_is_said(tmp_path: Path) -> None:
    recording = read(written(tmp_path, "loss", "2.5", "2.25"))
    assert [step for step, _ in samples(recording)] == [1, 2]
    assert "rows are counted: no column is called step" in recording.notes[0]
    assert read(written(tmp_path, "Step,loss", "4,2")).notes == ("steps are from column 'Step'",)
    named = read(written(tmp_path, "step,updates,loss", "0,40,2"), step="updates")
    assert samples(named) == [(40, {"loss": 2.0})]


def test_of_a_resumed_log_the_last_is_kept_and_that_is_said(tmp_path: Path) -> None:
    lines = ["step,loss,grad_norm", "1,1,9", "2,2,9", "3,3,9", "2,20,", "4,40,", "4,41,"]
    recording = read(written(tmp_path, *lines))
    assert samples(recording) == [
        (1, {"loss": 1, "grad_norm": 9}), (2, {"loss": 20}), (4, {"loss": 41}),
    ]  # fmt: skip
    assert recording.notes[1] == (
        "line 5: the steps go back from 3 to 2, as those of a resumed log do: what came later was kept, and "
        "2 earlier measured steps were not judged"
    )
    long = [
        "tag,step,value",
        "loss,1,1",
        "loss,2,2",
        "loss,2,3",
        "loss,1,7",
        "grad_norm,1,5",
        "grad_norm,2,6",
    ]
    recording = read(written(tmp_path, *long))
    assert samples(recording) == [(1, {"loss": 7, "grad_norm": 5}), (2, {"grad_norm": 6})]
    assert recording.notes[1].startswith("line 5: the steps go back from 2 to 1")


@pytest.mark.parametrize(
    ("lines", "chosen", "problems"),
    [
        (
            ["step,loss,grad_norm", "1,abc,1_0", "x,2,3", "2.5,2,", "-1,2,", ",2,", "1e300,2,", "7,8,9"],
            {},
            [
                ":2: column 'loss': 'abc' is no number",
                ":2: column 'grad_norm': '1_0' is no number",
                ":3: column 'step': 'x' is no number",
                ":4: column 'step': the step must be a whole number, got 2.5",
                ":5: column 'step': the step must be a whole number, got -1",
                ":6: column 'step': the step must be a whole number, got nothing",
                ":7: column 'step': the step must be a whole number, got 1e300",
            ],
        ),
        (
            ["step,train/loss,grad_norm", "1,2,3"],
            {"loss": "train/los", "step": "stpe"},
            [
                ": there is no column 'stpe': did you mean 'step'?",
                ": there is no column 'train/los': did you mean 'train/loss'?",
            ],
        ),
        (
            ["Step,a - loss,b - loss", "1,2,3"],
            {},
            [": columns 'a - loss', 'b - loss' are all loss: say which, --signal 'loss=a - loss'"],
        ),
        (
            ["step,Step,loss", "1,1,2"],
            {},
            [": columns 'step', 'Step' may each be the step: say which, --step COLUMN"],
        ),
        (
            ["step,train/loss,eval.loss,grad-norm", "1,2,3,4"],
            {},
            [
                ": nothing that the policy reads was measured; is it 'train/loss' or 'eval.loss'? "
                "--signal 'loss=train/loss'; did you mean 'grad-norm'?"
            ],
        ),
        (["tag,step,value", "loss,1,x"], {"loss": "los"}, [": there is no tag 'los': did you mean 'loss'?"]),
        (["tag,step,value", "loss,1,x"], {}, [":2: column 'value': 'x' is no number"]),
        (
            ["step,loss", "1,x", "2,3,4"],
            {},
            [":2: column 'loss': 'x' is no number", ":3: 3 cells, but the header has 2"],
        ),
        (["step,loss", "1,2", "2"], {}, [":3: 1 cells, but the header has 2"]),
        (["", ""], {}, [":1: there is no header with the names of columns"]),
        (['{"step": 1, "loss": 2}', "x"], {}, [":2: is not JSON: Expecting value: line 1 column 1 (char 0)"]),
        (['{"step": 1, "loss": 2}', "[1]"], {}, [":2: each line must be one JSON object"]),
        (['{"step": 1, "loss": [2]}'], {}, [":1: column 'loss': '[2]' is no number"]),
    ],
)  # fmt: skip
def test_every_mistake_is_told_with_its_place(
    tmp_path: Path, lines: list[str], chosen: dict[str, Any], problems: list[str]
) -> None:
    assert mistakes(written(tmp_path, *lines), **chosen) == problems


def test_of_many_mistakes_the_first_are_told_and_the_rest_counted(tmp_path: Path) -> None:
    problems = mistakes(written(tmp_path, "step,loss", *(f"{step},x" for step in range(50))))
    assert len(problems) == 21
    assert problems[-1] == ": and 30 more"


def test_files_that_are_none_are_told(tmp_path: Path) -> None:
    assert mistakes(tmp_path / "none.csv") == [": cannot be read: no such file or directory"]
    (tmp_path / "log.csv").write_bytes(b"\xff\xfe\x00")
    assert mistakes(tmp_path / "log.csv") == [": is neither a run folder, a journal nor text"]


def test_a_choice_of_columns_may_hold_the_sign_that_parts_it() -> None:
    assert read_choice("loss=train/loss", NEEDS) == ("loss", "train/loss")
    assert read_choice("loss/source=code=train/code", NEEDS) == ("loss/source=code", "train/code")
    assert read_choice("loss=loss/source=code", NEEDS) == ("loss", "loss/source=code")
    assert (
        read_choice("los=x", NEEDS)
        == "--signal los=x: the policy reads no signal 'los': did you mean 'loss'?"
    )
    assert read_choice("loss", NEEDS) == "--signal must be SIGNAL=COLUMN, got 'loss'"


VALUES = st.floats(allow_nan=True, allow_infinity=True)
NAMES = ["loss", "grad_norm", 'loss/source=a, "b"', "loss/source=ü"]
MEASURED = st.dictionaries(
    st.integers(0, 10**9),
    st.dictionaries(st.sampled_from(NAMES), VALUES, min_size=1),
    min_size=1,
    max_size=30,
)  # fmt: skip


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(measured=MEASURED, long=st.booleans())
def test_what_is_written_is_read_bit_for_bit(
    tmp_path: Path, measured: dict[int, dict[str, float]], long: bool
) -> None:
    text = StringIO()
    table = csv.writer(text)
    names = sorted({name for given in measured.values() for name in given})
    if long:
        table.writerow(["tag", "step", "value"])
        for name in names:
            table.writerows(
                [name, step, given[name]] for step, given in sorted(measured.items()) if name in given
            )
    else:
        table.writerow(["step", *names])
        table.writerows(
            [step, *(given.get(name, "") for name in names)] for step, given in sorted(measured.items())
        )
    path = tmp_path / "log.csv"
    path.write_text(text.getvalue(), encoding="utf-8")
    recording = read(path)
    assert repr([(step, sorted(given.items())) for step, given in samples(recording)]) == repr(
        [(step, sorted(given.items())) for step, given in sorted(measured.items())]
    )
    assert recording.signals == set(names)


def run_csv(folder: Path, name: str, *, fault: int | None = None, steps: int = 1500) -> Path:
    noise = Random(name)
    lines = ["step,loss,grad_norm"]
    for step in range(steps):
        loss = 2 + 8 * (step + 20) ** -0.5 + noise.gauss(0, 0.05) + 3 * (fault is not None and step >= fault)
        lines.append(f"{step},{loss},{noise.gauss(1, 0.1)}")
    return written(folder, *lines, name=f"{name}.csv")


def test_labels_say_what_was_found_how_late_and_what_was_a_false_alarm(tmp_path: Path) -> None:
    runs = [
        run_csv(tmp_path, "bad", fault=1000),
        run_csv(tmp_path, "worse", fault=900),
        run_csv(tmp_path, "fine"),
    ]
    runs.append(run_csv(tmp_path, "mislabelled", fault=700))
    (tmp_path / "labels.csv").write_text(
        "run,onset,end\nbad,1000,1400\nworse,900,\nfine,\nmislabelled,healthy\n"
    )
    (tmp_path / "labels.yaml").write_text(
        "bad: {onset: 1000, end: 1400}\nworse.csv: 900\nfine: healthy\nmislabelled:\nanother: 3\n"
    )
    said = [ask(*runs, "--labels", tmp_path / f"labels.{kind}", "--json").output for kind in ("csv", "yaml")]
    assert said[0] == said[1]
    scores = json.loads(said[0])["scores"]
    assert scores["runs"] == 4
    rule, monitor = scores["rules"]["blown-up"], scores["monitors"]["blowup"]
    assert (rule["faults"], rule["found"], rule["missed"]) == (2, 2, 0)
    assert 29 <= rule["delay_median"] <= 31  # the rule waits for 30 measurements
    assert monitor["delay_median"] <= 2
    assert -1 <= monitor["onset_bias"] <= 1
    assert (monitor["false_alarms"], monitor["healthy_samples"]) == (1, 1000 + 900 + 1500 + 1500)
    assert monitor["interval_95"] == [0.52, 113.71]  # of 1 in 4900: 0.0253 and 5.5716 in Garwood's table
    anything = scores["rules"]["any act that changes the run"]
    assert (anything["found"], anything["delay_median"]) == (2, rule["delay_median"])
    assert scores["rules"]["bad-source"]["healthy_samples"] == 0  # no source was ever measured
    table = ask(*runs, "--labels", tmp_path / "labels.csv").output
    assert "Judged by the labels of 4 of 4 runs" in table
    assert "2 of 2" in table
    assert "0.52 to 113.71" in table


def test_a_fault_that_was_alarmed_at_before_or_after_it_is_not_found(tmp_path: Path) -> None:
    run = run_csv(tmp_path, "bad", fault=1000)
    for onset, found, false_alarms in ((1000, 1, 0), (1100, 0, 1)):
        scores = json.loads(ask(run, "--onset", onset, "--json").output)["scores"]
        assert (scores["monitors"]["blowup"]["found"], scores["monitors"]["blowup"]["false_alarms"]) == (
            found, false_alarms,
        )  # fmt: skip
    labels = written(tmp_path, "run,onset,end", "bad,500,900", name="labels.csv")
    scores = json.loads(ask(run, "--labels", labels, "--json").output)["scores"]
    assert (scores["monitors"]["blowup"]["found"], scores["monitors"]["blowup"]["false_alarms"]) == (0, 0)
    healthy = json.loads(ask(run, "--healthy", "--json").output)["scores"]["monitors"]["blowup"]
    assert (healthy["false_alarms"], healthy["healthy_samples"]) == (1, 1500)


@pytest.mark.parametrize(
    ("name", "text", "problems"),
    [
        ("labels.csv", "run,onst\nbad,1\n", ["labels.csv:1: there is no column 'onst'{ONSET}"]),
        ("labels.csv", "onset\n1\n", ["labels.csv:1: the column 'run' is missing"]),
        (
            "labels.csv",
            "run,onset,end\nbad,late,\nbad,9,3\n,1,\nfine,,4\n",
            [
                "labels.csv:2: {STEP}, got 'late'",
                "labels.csv:3: the end, 3, comes before the onset, 9",
                "labels.csv:3: run 'bad' is here twice",
                "labels.csv:4: names no run",
                "labels.csv:5: run 'fine' has an end but no onset",
            ],
        ),
        ("labels.csv", "run,onset\nbda,1\n", ["labels.csv: none of its runs was given: 'bda'"]),
        ("labels.yaml", "bad: {onst: 3}\n", ["labels.yaml:1: run 'bad' has no key 'onst'{ONSET}"]),
        ("labels.yaml", "- bad\n", ["labels.yaml:1:1: labels must be a mapping from runs, got a list"]),
        ("labels.yaml", "a: 3\na: 4\n", ["labels.yaml:2:1: the key 'a' is here twice, first in line 1"]),
        ("labels.yaml", "bad: [3]\n", ["labels.yaml:1: {STEP}, got 'a list'"]),
        ("labels.csv", "run,onset\nbad,99999\n", ["bad.csv: the onset, 99999, is after its last step, 1499"]),
    ],
)  # fmt: skip
def test_every_mistake_of_labels_is_told(tmp_path: Path, name: str, text: str, problems: list[str]) -> None:
    run = run_csv(tmp_path, "bad")
    (tmp_path / name).write_text(text)
    result = ask(run, "--labels", tmp_path / name)
    assert result.exit_code == 1
    assert [line.removeprefix(f"{tmp_path}/") for line in result.output.splitlines()] == [
        problem.replace("{ONSET}", ": did you mean 'onset'?").replace("{STEP}", STEP) for problem in problems
    ]


STEP = "onset must be a step, a whole number, or healthy"


def test_one_label_for_two_runs_is_ambiguous(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    runs = [run_csv(tmp_path / folder, "log", steps=100) for folder in ("a", "b")]
    labels = written(tmp_path, "run,onset", "log,50", name="labels.csv")
    result = ask(*runs, "--labels", labels)
    assert (
        result.exit_code,
        f"run 'log' may be {runs[0]} or {runs[1]}: write its path" in result.output,
    ) == (1, True)
    labels = written(tmp_path, "run,onset", f"{runs[0]},50", name="labels.csv")
    assert "Judged by the labels of 1 of 2 runs" in ask(*runs, "--labels", labels).output


def test_the_report_for_people_tells_what_fired_when_and_why(tmp_path: Path) -> None:
    output = ask(run_csv(tmp_path, "bad", fault=1000), run_csv(tmp_path, "fine"), "--monitors").output
    for words in (
        "bad.csv: 1500 samples, steps 0 to 1499",
        "steps are from column 'step'",
        "loss/source=* was never measured: monitors source, broken, recent saw nothing of it;",
        "rule bad-source cannot",
        "bad-data@1002",
        "blown-up@1030",
        "rollback(to=before_onset, data=replay)",
        "blowup.bad; blowup alarm",
        "step 1000",
        "there bad-data would have done skip_step, and the run did not",
        "no rule fired",
        "no monitor alarmed",
        "1 of 2",
    ):  # fmt: skip
        assert words in output


def test_a_run_without_what_a_rule_reads_is_not_silent_about_it(tmp_path: Path) -> None:
    output = ask(written(tmp_path, "step,train/loss,grad_norm", "1,2,3")).output
    assert "loss was never measured: monitors guard, garbage, blowup, rise" in output
    assert "saw nothing of it; rules after-bad-data, too-hot, blown-up, off-course cannot" in output
    assert "is it 'train/loss'? --signal 'loss=train/loss'" in output
    assert "grad_norm was never" not in output


def test_which_rules_are_blind() -> None:
    needs = Needs(parse_policy(
        "version: 1\nsignals: [eval/loss, trigger]\n"
        "monitors:\n"
        "  one: {type: spike, signal: eval/loss}\n"
        "  outcome: {type: forecast, signal: loss, horizon: 900}\n"
        "rules:\n"
        "  - {name: both, when: one.bad and trigger.value > 1, ladder: [[notify: {message: x}]]}\n"
        "  - {name: either, when: one.bad or outcome.bad, ladder: [[notify: {message: x}]]}\n"
    ))  # fmt: skip
    assert set(needs.patterns) == {"eval/loss", "loss", "lr", "trigger"}
    assert needs.blind({"loss"}) == {"one", "trigger"}  # a forecast without its learning rate still sees
    assert needs.dead({"loss"}) == {"both"}
    assert [str(each) for each in needs.missing({"loss", "lr", "trigger"})] == [
        "eval/loss was never measured: monitor one saw nothing of it"
    ]


def test_a_bad_policy_is_told_as_check_tells_it(tmp_path: Path) -> None:
    bad = Path(__file__).parent.parent / "policies" / "bad" / "ten_mistakes.yaml"
    log = written(tmp_path, "step,loss", "1,2")
    told = [
        CliRunner().invoke(main, args) for args in (["check", str(bad)], ["backtest", str(bad), str(log)])
    ]
    assert told[0].output == told[1].output
    assert told[1].exit_code == 1
    as_json = json.loads(CliRunner().invoke(main, ["backtest", str(bad), str(log), "--json"]).output)
    assert (as_json["ok"], len(as_json["problems"])) == (False, 10)


def test_what_is_wrong_in_several_files_is_told_at_once(tmp_path: Path) -> None:
    one, two = written(tmp_path, "step,loss", "1,x", name="1.csv"), written(tmp_path, "a", "1", name="2.csv")
    result = ask(one, two, tmp_path / "none", "--signal", "los=x")
    assert result.exit_code == 1
    assert len(result.output.splitlines()) == 4
    said = json.loads(ask(one, "--json").output)
    assert said == {
        "policy": "baseline", "ok": False,
        "problems": [{"message": f"{one}:2: column 'loss': 'x' is no number"}],
    }  # fmt: skip


@pytest.mark.parametrize("options", [["--onset", 3, "--healthy"], ["b", "--onset", 3]])
def test_wrong_usage_exits_with_2(options: list[object]) -> None:
    assert ask("a", *options).exit_code == 2


def test_it_loads_neither_torch_nor_anything_else_that_is_slow(tmp_path: Path) -> None:
    code = (
        "import sys; from midcourse.controller.cli import main\n"
        f"try: main(['backtest', 'baseline', {str(run_csv(tmp_path, 'fine', steps=50))!r}, '--healthy'])\n"
        "except SystemExit as done: assert not done.code\n"
        "heavy = {'torch', 'accelerate', 'pandas', 'scipy', 'prometheus_client'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
