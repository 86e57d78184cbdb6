"""``midcourse approve``, ``reject``, ``off`` and ``on``: what a person tells a run that goes on."""

from __future__ import annotations

import getpass
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click

from ..policies.types import Decision
from . import outside
from .journal.place import JournalError
from .journal.tell import describe

T = TypeVar("T")

_run = click.argument("run", type=click.Path(path_type=Path), metavar="RUN")
_decision = click.argument("decision", required=False, metavar="[DECISION]")
_by = click.option("--by", metavar="NAME", help="Who says so, for the journal; default: you.")


@click.command()
@_run
@_decision
@_by
def approve(run: Path, decision: str | None, by: str | None) -> None:
    """Say yes to a decision that waits.

    RUN is the run's folder. Without DECISION, the one that waits; if there are several they are listed. The
    run takes it up within about a second. Exits with 1 if nothing was answered.
    """
    _answer(run, decision, by, yes=True)


@click.command()
@_run
@_decision
@_by
def reject(run: Path, decision: str | None, by: str | None) -> None:
    """Say no to a decision that waits; otherwise like approve."""
    _answer(run, decision, by, yes=False)


@click.command()
@_run
@click.option("--withdraw", is_flag=True, help="Take back the overrides in force too.")
def off(run: Path, withdraw: bool) -> None:
    """Keep a run's policy from changing anything, until it is switched on again.

    It goes on to watch and to record what it would do. The same for a process and all its runs:
    MIDCOURSE_OFF=1 in its environment.
    """
    click.echo(f"off: {_told(lambda: outside.switch_off(run, withdraw=withdraw))} says so")


@click.command()
@_run
def on(run: Path) -> None:
    """Let a run's policy act again."""
    click.echo(f"on: {_told(lambda: outside.switch_on(run))} is gone")


def _answer(run: Path, decision: str | None, by: str | None, *, yes: bool) -> None:
    if decision is None:
        waiting = _told(lambda: outside.waiting(run))
        if len(waiting) != 1:
            raise click.ClickException("\n".join(map(_line, waiting)) or "no decision waits")
        decision = waiting[0].id
    name, say = by or getpass.getuser(), outside.approve if yes else outside.reject
    _told(lambda: say(run, decision, name))
    click.echo(f"{decision}: {'yes' if yes else 'no'}, by {name}")


def _line(decision: Decision) -> str:
    return f"{decision.id}: {', '.join(map(describe, decision.actions))}; {decision.reason}"


def _told(ask: Callable[[], T]) -> T:
    try:
        return ask()
    except (JournalError, ValueError) as error:
        raise click.ClickException(str(error)) from error
