"""``midcourse check``: is this policy fit to steer a run?"""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from ..policies.policy import Policy, PolicyError, Problem, load_policy


@click.command()
@click.argument("policies", nargs=-1, required=True, metavar="POLICY...")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a policy, each on its line.")
def check(policies: tuple[str, ...], as_json: bool) -> None:
    """Check policies and print every mistake with its place.

    POLICY is a YAML file, or the bare name of a shipped policy, such as baseline.
    Exits with 0 if all are good, else with 1.
    """
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
            click.echo(
                json.dumps({"policy": source, "ok": True, **_summary(policy)}) if as_json else _told(policy)
            )
    sys.exit(0 if all_good else 1)


def problem_json(problem: Problem) -> dict[str, Any]:
    """A mistake of a policy, for programs."""
    return {"line": problem.place.line, "column": problem.place.column, "message": problem.message}


def _summary(policy: Policy) -> dict[str, Any]:
    actions = {action.name for rule in policy.rules for rung in rule.ladder for action in rung.actions}
    return {
        "mode": policy.mode.value,
        "monitors": [monitor.name for monitor in policy.monitors],
        "rules": [rule.name for rule in policy.rules],
        "regulators": [regulator.name for regulator in policy.regulators],
        "actions": sorted(actions),
    }


def _told(policy: Policy) -> str:
    summary = _summary(policy)
    lines = [f"{policy.source}: ok, mode {summary['mode']}"]
    lines += [f"  {key}: {', '.join(summary[key]) or 'none'}" for key in ("monitors", "rules", "actions")]
    if policy.regulators:
        lines.append(f"  regulators: {', '.join(summary['regulators'])}")
    return "\n".join(lines)
