"""``midcourse fork``: what if this had not been done?"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from .forks.fork import compared, fork
from .forks.order import ForkError
from .journal.place import JournalError
from .printing import dumps


@click.command("fork")
@click.argument("run", type=click.Path(path_type=Path), metavar="RUN")
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[-- COMMAND...]")
@click.option("--without", multiple=True, metavar="ID", help="Leave out this act, or all of this rule's.")
@click.option("--instead", multiple=True, metavar="ID=RUNG", help="Take this rung there, counted from 0.")
@click.option("--into", type=click.Path(path_type=Path), metavar="DIR", help="The fork's folder.")
@click.option("--until", type=click.IntRange(1), metavar="STEP", help="End the fork after this step.")
@click.option("--from-start", is_flag=True, help="Begin at the start, for a loop that cannot be resumed.")
@click.option("--compare", is_flag=True, help="Run nothing: report on RUN and its fork, given after it.")
@click.option("--json", "as_json", is_flag=True, help="For programs: one object; what is not finite is null.")
def command(
    run: Path,
    command: tuple[str, ...],
    without: tuple[str, ...],
    instead: tuple[str, ...],
    into: Path | None,
    until: int | None,
    from_start: bool,
    compare: bool,
    as_json: bool,
) -> None:
    """Run a training again from before a decision, without it, and show what it changed.

    RUN is a run's folder, and is only read. The command that its journal recorded is started again, from the
    newest complete checkpoint before the decision, in a folder beside RUN; or the COMMAND after --. ID is a
    decision as midcourse journal shows it (off-course@1146), a rule, or one instance of a rule
    (bad-source[code]); --without and --instead may be repeated. An act that is left out counts for its rule
    as if it were in observe mode; other rules may act on what follows.

    midcourse fork --compare RUN FORK prints the report again from the two journals.

    Exits with 0 if the fork came to its end; with 1 if there is no such act, or the fork failed.
    """
    try:
        if compare:
            if len(command) != 1 or without or instead:
                raise click.UsageError("--compare takes RUN and FORK, and nothing else")
            told = compared(run, command[0])
        else:
            told = fork(
                run,
                without,
                instead=dict(map(_rung, instead)),
                command=command,
                into=into,
                until=until,
                from_start=from_start,
                say=lambda line: click.echo(f"midcourse: {line}", err=True),
            )
    except (ForkError, JournalError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(dumps(told.to_json()) if as_json else str(told))
    sys.exit(1 if told.exit_code else 0)


def _rung(text: str) -> tuple[str, int]:
    id, _, rung = text.rpartition("=")
    if not id or not rung.isdecimal():
        raise click.UsageError(f"--instead {text}: write ID=RUNG, as in --instead off-course@1146=2")
    return id, int(rung)
