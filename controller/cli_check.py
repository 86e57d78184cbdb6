"""``midcourse check``: is this policy fit to steer a run?"""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from ..policies.policy import Policy, PolicyError, Problem, load_policy
from ..policies.smells import Smell, smells_of


@click.command()
@click.argument("policies", nargs=-1, required=True, metavar="POLICY...")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a policy, each on its line.")
@click.option("--merged", is_flag=True, help="Print the policy as YAML, merged with what it extends.")
@click.option("--strict", is_flag=True, help="Smells count as mistakes.")
def check(policies: tuple[str, ...], as_json: bool, merged: bool, strict: bool) -> None:
    """Check policies and print every mistake and every smell with its place.

    POLICY is a YAML file, or the bare name of a shipped policy, such as baseline. A smell is valid, but will
    not do what its author wants, such as a condition that can never hold.
    Exits with 0 if all are good, else with 1.
    """
    if merged and (as_json or len(policies) > 1):
        raise click.UsageError("--merged prints one policy, as YAML")
    all_good = True
    for source in policies:
        try:
            policy = load_policy(source)
        except PolicyError as error:
            all_good = False
            if as_json:
                click.echo(
                    json.dumps(
                        {"policy": source, "ok": False, "problems": list(map(problem_json, error.problems))}
                    )
                )
            else:
                click.echo(str(error))
        else:
            smells = smells_of(policy)
            all_good = all_good and not (strict and smells)
            if as_json:
                told = {"smells": list(map(smell_json, smells))}
                click.echo(json.dumps({"policy": source, "ok": True, **_summary(policy), **told}))
            elif merged:
                click.echo(policy.text.rstrip("\n"))
            else:
                click.echo("\n".join([_told(policy), *map(str, smells)]))
    sys.exit(0 if all_good else 1)


def problem_json(problem: Problem) -> dict[str, Any]:
    """A mistake of a policy, for programs."""
    line, column, _ = problem.place
    return {"file": problem.source, "line": line, "column": column, "message": problem.message}


def smell_json(smell: Smell) -> dict[str, Any]:
    """A smell of a policy, for programs."""
    return {
        "smell": smell.name,
        "rule": smell.rule,
        "line": smell.place.line,
        "column": smell.place.column,
        "wrong": smell.wrong,
        "instead": smell.instead,
    }


def _summary(policy: Policy) -> dict[str, Any]:
    actions = {action.name for rule in policy.rules for rung in rule.ladder for action in rung.actions}
    return {
        "mode": policy.mode.value,
        "extends": list(policy.extends),
        "monitors": [monitor.name for monitor in policy.monitors],
        "rules": [rule.name for rule in policy.rules],
        "regulators": [regulator.name for regulator in policy.regulators],
        "actions": sorted(actions),
    }


def _told(policy: Policy) -> str:
    summary = _summary(policy)
    lines = [f"{policy.source}: ok, mode {summary['mode']}"]
    if policy.extends:
        lines.append(f"  extends: {', '.join(policy.extends)}")
    lines += [f"  {key}: {', '.join(summary[key]) or 'none'}" for key in ("monitors", "rules", "actions")]
    if policy.regulators:
        lines.append(f"  regulators: {', '.join(summary['regulators'])}")
    return "\n".join(lines)
