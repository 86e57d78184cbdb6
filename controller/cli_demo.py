"""``midcourse demo``: a real run goes wrong, is caught, is corrected, and ends as if it had not."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import torch
from accelerate import Accelerator
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from .controller import Controller
from .demo.comparison import Arm, Comparison, compare
from .demo.report import as_json, as_tables
from .demo.training import FULL, QUICK, Plan
from .demo.training import Progress as Update

_SMOOTHING = 0.05  # of the loss shown: about the last twenty steps


@click.command()
@click.option(
    "--seed", default=0, show_default=True, help="Initial weights and data order of all three runs."
)
@click.option("--quick", is_flag=True, help="Shorter runs: under a minute, but less room between the faults.")
@click.option(
    "--json", "json_wanted", is_flag=True, help="Print one JSON object on standard output, nothing else."
)
@click.option(
    "--run-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the controlled run's journal; default: a new one in midcourse-runs.",
)
def demo(seed: int, quick: bool, json_wanted: bool, run_dir: Path | None) -> None:
    """Train a small transformer three times: clean, with faults, and with faults under Midcourse.

    It learns from Python's own library: code, documentation and tables. Mid-run the code source delivers
    compiled binaries for a while; later the schedule raises the learning rate far too high. The
    third run has a Controller with the shipped baseline policy, which is told of neither.
    """
    console = Console(stderr=json_wanted)
    torch.set_num_threads(1)  # the matrices are small: one thread is fastest, and the same on any machine
    result = _watched(console, QUICK if quick else FULL, seed, run_dir)
    if json_wanted:
        click.echo(json.dumps(as_json(result), indent=2))
    else:
        console.print(as_tables(result))
        console.print(f"The whole story: [bold]midcourse journal {result.run_dir}[/]")


def _watched(console: Console, plan: Plan, seed: int, run_dir: Path | None) -> Comparison:
    bar = Progress(
        TextColumn("[bold]{task.description:12}"),
        BarColumn(),
        TextColumn("step {task.completed:>4} of {task.total}"),
        TextColumn("loss {task.fields[loss]:.2f}"),
        TextColumn("rate {task.fields[rate]:.1e}"),
        TimeElapsedColumn(),
        console=console,
    )
    tasks: dict[Arm, TaskID] = {}

    def control(accelerator: Accelerator) -> Controller:
        return Controller(accelerator, policy="baseline", run_dir=run_dir, say=console.print)

    def watch(arm: Arm, update: Update) -> None:
        if arm not in tasks:
            tasks[arm] = bar.add_task(arm.value, total=plan.steps, loss=update.loss, rate=update.rate)
        task = bar.tasks[tasks[arm]]
        loss = task.fields["loss"] + _SMOOTHING * (update.loss - task.fields["loss"])
        # The schedule's step, not the tick: where a rollback takes steps back, the bar goes back too.
        bar.update(task.id, completed=update.step + 1, loss=loss, rate=update.rate)

    with bar, _told_on(console):
        return compare(plan, seed, control, watch)


@contextmanager
def _told_on(console: Console) -> Iterator[None]:
    """What Midcourse logs while the run goes on, on the console above the bars."""
    logger, handler = logging.getLogger("midcourse"), _ConsoleHandler(console)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


class _ConsoleHandler(logging.Handler):
    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        self._console.print(self.format(record), style="yellow", markup=False, highlight=False)
