"""The command line. Each command lives in a module of its own, loaded when it is called.

So ``midcourse check`` never waits for torch, and ``midcourse --help`` waits for nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import NamedTuple

import click

from .. import __version__


class _Command(NamedTuple):
    module: str
    name: str
    summary: str


_COMMANDS = {
    "approve": _Command(".cli_control", "approve", "Say yes to a decision that waits."),
    "backtest": _Command(".cli_backtest", "command", "Try a policy on runs that already happened."),
    "calibrate": _Command(
        ".cli_calibrate", "command", "Set thresholds from healthy runs, and say the delay."
    ),
    "check": _Command(".cli_check", "check", "Check policies: every mistake at once, with its place."),
    "demo": _Command(".cli_demo", "demo", "Watch a real run go wrong, be caught and be corrected."),
    "off": _Command(".cli_control", "off", "Keep a run's policy from changing anything."),
    "on": _Command(".cli_control", "on", "Let it act again."),
    "reject": _Command(".cli_control", "reject", "Say no to a decision that waits."),
    "fork": _Command(".cli_fork", "command", "Run a training again without a decision: what did it change?"),
    "journal": _Command(".cli_journal", "journal", "Show what a run saw, did and got from it."),
    "schema": _Command(".cli_schema", "schema", "Print the JSON Schema of policies, or of their tests."),
    "test": _Command(".cli_test", "command", "Test policies on written series and recorded runs."),
}
"""Command -> its module relative to this package, the click command in it, and a line for ``--help``."""


class _LazyGroup(click.Group):
    """A group whose commands are imported only when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        command = _COMMANDS.get(cmd_name)
        if command is None:
            return None
        found = getattr(import_module(command.module, __package__), command.name)
        assert isinstance(found, click.Command)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, _COMMANDS[name].summary) for name in self.list_commands(ctx)])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="midcourse")
def main() -> None:
    """Steer a PyTorch training run while it happens."""
