"""``midcourse schema``: the policy language for editors and other programs."""

from __future__ import annotations

import json

import click

from ..policies.json_schema import LANGUAGES, json_schema


@click.command()
@click.argument("language", type=click.Choice(LANGUAGES), default="policy")
def schema(language: str) -> None:
    """Print the JSON Schema (draft 2020-12) of policies, or of the files that test them.

    It allows all that Midcourse reads, and shows an editor keys, words and mistakes while you write. What it
    cannot say, such as whether an expression is right, is found by `midcourse check`.
    """
    click.echo(printed(language))


def printed(language: str) -> str:
    """The schema as it is printed, and shipped."""
    return json.dumps(json_schema(language), indent=2)
