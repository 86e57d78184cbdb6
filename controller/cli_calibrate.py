"""``midcourse calibrate``: thresholds from healthy runs, and what delay they cost."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from ..policies.rewrite import RewriteError, with_parameters
from .cli_backtest import fail, read_runs, usable
from .printing import add_row, dumps, new_table, plain_console
from .recorded.calibrate import Calibrated, Calibration, calibrate
from .recorded.injected import RAMP, WITHIN, Shape
from .recorded.recording import RecordingError
from .recorded.tails import Basis


def _share(context: click.Context, parameter: click.Parameter, value: str) -> float:
    """A share such as 1/100000 or 1e-5."""
    try:
        share = float(Fraction(value))
    except (ValueError, ZeroDivisionError):
        share = 0.0
    if not 0 < share < 1:
        raise click.BadParameter(f"'{value}' is no share between 0 and 1, such as 1/100000")
    return share


@click.command("calibrate")
@click.argument("policy", metavar="POLICY")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option(
    "--false-alarms",
    "rate",
    callback=_share,
    default="1/100000",
    show_default=True,
    metavar="N/SAMPLES",
    help="Of each monitor, that are accepted.",
)
@click.option("--signal", "signals", multiple=True, metavar="NAME=COLUMN", help="A log's column; repeatable.")
@click.option("--step", "step", metavar="COLUMN", help="A log's column of the training step.")
@click.option("--seed", default=0, show_default=True, help="Of the places at which changes are put.")
@click.option(
    "--write", type=click.Path(path_type=Path), metavar="FILE", help="The policy, with new thresholds."
)
@click.option("--json", "as_json", is_flag=True, help="For programs: one object.")
def command(
    policy: str,
    runs: tuple[str, ...],
    rate: float,
    signals: tuple[str, ...],
    step: str | None,
    seed: int,
    write: Path | None,
    as_json: bool,
) -> None:
    """Set thresholds from healthy runs, and say what delay they cost.

    POLICY and RUN are as in backtest; all RUNs must be healthy. For each monitor that has a threshold the
    smallest one is found at which these runs give at most N false alarms in so many SAMPLES. Where they hold
    ten alarms or more at that rate, these are counted; where they are shorter, the tail of the highest scores
    is continued, to at most ten times their length; beyond that the threshold stays, and it is said how many
    samples are needed. The false alarms told are those of the same runs, with the exact 95 % interval: judge
    the result on others, by backtest --healthy.

    Then steps and ramps are put into the runs' own values, as high as each monitor declares to find, and
    it is told how soon they are found with the old threshold and with the new. 100 000 samples under the
    baseline policy take about 20 seconds.

    Exits with 0; with 1 where policy or runs cannot be read, or FILE cannot be written; with 2 for wrong
    usage.
    """
    loaded = usable(policy, as_json)
    try:
        found = calibrate(loaded, read_runs(loaded, runs, signals, step), rate, seed)
    except RecordingError as error:
        fail(policy, error, as_json)
    if write is not None:
        try:
            write.write_bytes(with_parameters(loaded, found.thresholds).encode())
        except (RewriteError, OSError) as error:
            fail(policy, RecordingError([f"{write}: {error}"]), as_json)
    if as_json:
        monitors = [each.to_json() for each in found.monitors]
        told = {"policy": policy, "ok": True, "rate": rate, "monitors": monitors, "left_out": found.left_out}
        click.echo(dumps(told))
        return
    tell(plain_console(), found)


def tell(console: Console, found: Calibration) -> None:
    """A calibration, for people."""
    shapes = [f"{shape.value}, then" for shape in Shape]
    table = new_table(
        "monitor", "parameter", "in 100k samples", "then", *shapes, "rests on", whole=("monitor",)
    )
    for each in found.monitors:
        add_row(table, *_row(each))
    console.print(table)
    for line in (
        f"Asked: {1e5 * found.rate:g} false alarms in 100k samples; told are those of these runs, with their "
        "95 % interval.",
        f"Steps, and ramps of {RAMP} samples, as high as each monitor declares to find: found within "
        f"{WITHIN} samples, median delay, 90th percentile.",
        *(f"{name}: {why}" for name, why in found.left_out.items()),
    ):
        console.print(line, soft_wrap=True)


def _row(each: Calibrated) -> list[str]:
    old, new = f"{each.parameter} {each.old:g}", "" if each.new is None else f" -> {each.new:g}"
    told = each.to_json()
    delays = [_then(*map(_delays, told["delays"].get(shape.value, (None, None)))) for shape in Shape]
    return [each.monitor, old + new, _rate(told["before"]), _rate(told["after"]), *delays, _rests_on(each)]


def _rests_on(each: Calibrated) -> str:
    choice = each.choice
    if choice.basis is not Basis.TOO_FEW:
        return f"{choice.basis.value}, {each.samples} samples"
    why = f"needs {choice.needed} samples or more" if each.samples < choice.needed else "too few large scores"
    return f"{why}; largest score {choice.largest:.3g} in {each.samples}"


def _rate(told: Mapping[str, Any] | None) -> str:
    if told is None:
        return "-"
    low, high = told["interval_95"]
    return f"{told['per_100k']:g} ({low:g} to {high:g})"


def _delays(told: Mapping[str, Any] | None) -> str:
    if told is None or not told["tried"]:
        return ""
    found = f"{told['found']} of {told['tried']}"
    return f"{found}, {told['delay_median']:g}, {told['delay_p90']:g}" if told["found"] else found


def _then(before: str, after: str) -> str:
    return f"{before} -> {after}" if after else before or "-"
