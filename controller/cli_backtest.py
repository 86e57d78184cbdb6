"""``midcourse backtest``: what a policy would have done on runs that already happened."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import click

from ..policies.policy import Policy, PolicyError, load_policy
from .cli_check import problem_json
from .printing import dumps, plain_console
from .recorded.backtest import backtest
from .recorded.columns import Chosen, read_choice
from .recorded.document import document
from .recorded.journal_runs import is_journal, read_journal
from .recorded.labels import Label, read_labels
from .recorded.logs import read_log
from .recorded.needs import Needs
from .recorded.recording import Recording, RecordingError
from .recorded.scores import score
from .recorded.told import tell_run, tell_summary


@click.command("backtest")
@click.argument("policy", metavar="POLICY")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option("--signal", "signals", multiple=True, metavar="NAME=COLUMN", help="A log's column; repeatable.")
@click.option("--step", "step", metavar="COLUMN", help="A log's column of the training step.")
@click.option("--labels", type=click.Path(path_type=Path), metavar="FILE", help="What is known of the runs.")
@click.option("--onset", type=click.IntRange(0), metavar="STEP", help="The one run goes wrong at this step.")
@click.option("--healthy", is_flag=True, help="All runs are healthy: every alarm is a false one.")
@click.option("--monitors", is_flag=True, help="Show each monitor's alarms, too.")
@click.option("--json", "as_json", is_flag=True, help="For programs: one object; what is not finite is null.")
def command(
    policy: str,
    runs: tuple[str, ...],
    signals: tuple[str, ...],
    step: str | None,
    labels: Path | None,
    onset: int | None,
    healthy: bool,
    monitors: bool,
    as_json: bool,
) -> None:
    """Show what a policy would have done on runs that already happened; nothing is changed.

    POLICY is a YAML file, or the bare name of a shipped policy, such as baseline. RUN is a run's folder or
    journal, or a log of any tool as CSV (wandb, TensorBoard, MLflow) or as one JSON object a line. A log's
    columns are found by their names, or as --signal loss=train/loss and --step COLUMN say. In a log, ticks
    are steps: of one that goes back, the last is kept.

    As long as policy and run take the same acts, what is decided is evidence. After the first act that
    differs the policy only watches, and what it decides is marked: the run took another course than it
    would have had. A policy in observe mode is judged as if it acted.

    With labels it is counted what each rule and monitor found, how late, and how often it alarmed for
    nothing, with the exact 95 % interval of that rate. FILE is CSV (run,onset,end) or YAML (run: onset), in
    steps; a run without onset, or with the word healthy, is healthy.

    Exits with 0 if the runs could be judged, whatever was found; with 1 where policy, runs or labels
    cannot be read, and all that is wrong is told; with 2 for wrong usage.
    """
    if sum((labels is not None, onset is not None, healthy)) > 1:
        raise click.UsageError("--labels, --onset and --healthy exclude one another")
    if onset is not None and len(runs) > 1:
        raise click.UsageError("--onset is for a single run; for several, --labels FILE")
    loaded = usable(policy, as_json)
    try:
        recordings = read_runs(loaded, runs, signals, step)
        known = _labels(labels, onset, healthy, runs)
        tests = [backtest(loaded, recording) for recording in recordings]
        scores = None if known is None else score(loaded, tests, known)
    except RecordingError as error:
        fail(policy, error, as_json)
    if as_json:
        click.echo(dumps(document(loaded, tests, scores)))
        return
    console = plain_console()
    for test in tests:
        tell_run(console, test, monitors=monitors)
    tell_summary(console, tests, scores)


def usable(policy: str, as_json: bool) -> Policy:
    """The policy, or an exit with 1 that tells all its mistakes."""
    try:
        return load_policy(policy)
    except PolicyError as error:
        problems = list(map(problem_json, error.problems))
        click.echo(dumps({"policy": policy, "ok": False, "problems": problems}) if as_json else str(error))
        sys.exit(1)


def fail(policy: str, error: RecordingError, as_json: bool) -> NoReturn:
    """End the command by what is wrong with runs."""
    problems = [{"message": problem} for problem in error.problems]
    click.echo(dumps({"policy": policy, "ok": False, "problems": problems}) if as_json else str(error))
    sys.exit(1)


def read_runs(
    policy: Policy, runs: Sequence[str], signals: Sequence[str], step: str | None
) -> list[Recording]:
    """All runs. Raises RecordingError with what is wrong in any of them."""
    needs, problems, found = Needs(policy), list[str](), list[Recording]()
    choices = [read_choice(text, needs) for text in signals]
    problems += [choice for choice in choices if isinstance(choice, str)]
    chosen = Chosen(step, dict(choice for choice in choices if not isinstance(choice, str)))
    if (signals or step) and all(is_journal(Path(run)) for run in runs):
        problems.append("--signal and --step are for logs, and these are runs of Midcourse")
    for run in runs:
        path = Path(run)
        try:
            found.append(read_journal(path, run) if is_journal(path) else read_log(path, run, chosen, needs))
        except RecordingError as error:
            problems += error.problems
    if problems:
        raise RecordingError(problems)
    return found


def _labels(
    file: Path | None, onset: int | None, healthy: bool, runs: Sequence[str]
) -> dict[str, Label] | None:
    if file is not None:
        return read_labels(file, runs)
    if onset is not None or healthy:
        return {run: Label(onset) for run in runs}
    return None
