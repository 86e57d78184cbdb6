"""``midcourse journal``: what a run saw, did and got from it, also while it goes on."""

from __future__ import annotations

import csv
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import datetime
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from ..policies.policy import PolicyError, parse_policy
from ..policies.types import Status
from .journal.place import JournalError
from .journal.reader import JournalReader
from .journal.tables import Attempt, Event
from .journal.tell import Story, describe, number, stories, tell
from .printing import add_row, dumps, new_table, plain_console, words


@click.command()
@click.argument("run", type=click.Path(path_type=Path), metavar="RUN")
@click.option("--decision", "id", metavar="ID", help="Tell one decision in sentences.")
@click.option("--signals", is_flag=True, help="Print every sample as CSV (with --json: an object a line).")
@click.option("--policy", is_flag=True, help="Print the last attempt's policy, merged with what it extends.")
@click.option("--attempt", type=int, metavar="N", help="Only this process life of the run.")
@click.option("--json", "as_json", is_flag=True, help="For programs: what is not finite is null.")
def journal(
    run: Path, id: str | None, signals: bool, policy: bool, attempt: int | None, as_json: bool
) -> None:
    """Show what a run saw, what was done, and whether it helped.

    RUN is the run's folder or its journal file; the run may be going on. Exits with 1 if there is no journal
    or no such decision.
    """
    try:
        with JournalReader(run) as reader:
            if attempt is not None and attempt not in [life.number for life in reader.attempts()]:
                raise click.ClickException(f"{reader.path}: there is no attempt {attempt}")
            if signals:
                _print_samples(reader, attempt, as_json)
            elif policy:
                lives = [life for life in reader.attempts() if attempt in (None, life.number)]
                click.echo("".join(life.policy_text for life in lives[-1:]), nl=False)
            elif id is not None:
                _print_story(reader, _find(stories(reader, attempt), id), as_json)
            elif as_json:
                click.echo(dumps(_document(reader, attempt)))
            else:
                _print_overview(reader, attempt)
    except JournalError as error:
        raise click.ClickException(str(error)) from error


def _find(told: list[Story], id: str) -> Story:
    found = [story for story in told if story.decision.id == id]
    if found:
        return found[-1]
    near = get_close_matches(id, [story.decision.id for story in told], n=1, cutoff=0)
    hint = f"did you mean '{near[0]}'?" if near else "the journal has no decisions"
    raise click.ClickException(f"no decision '{id}'; {hint}")


def _print_story(reader: JournalReader, story: Story, as_json: bool) -> None:
    onset = story.decision.onset
    step = None if onset is None else reader.step_at(onset, story.attempt)
    [life] = [life for life in reader.attempts() if life.number == story.attempt]
    text = tell(story, _signals_of(life), step)
    click.echo(dumps({**_story_json(story), "text": text}) if as_json else text)


def _signals_of(life: Attempt) -> dict[str, str]:
    """Which signal each monitor of an attempt's policy watches; nothing if this version cannot read it."""
    try:
        monitors = parse_policy(life.policy_text, life.policy_source).monitors
    except PolicyError:
        return {}
    return {spec.name: str(spec.params["signal"]) for spec in monitors if "signal" in spec.params}


def _print_samples(reader: JournalReader, attempt: int | None, as_json: bool) -> None:
    names = reader.signals()
    lives = [life.number for life in reader.attempts()] if attempt is None else [attempt]
    table = csv.writer(sys.stdout)
    if not as_json:
        table.writerow(["attempt", "tick", "step", "branch", *names])
    for life in lives:
        for sample in reader.samples(life):
            if as_json:
                click.echo(dumps({"attempt": life, **asdict(sample)}))
            else:
                values = [sample.signals.get(name, "") for name in names]
                table.writerow([life, sample.tick, sample.step, sample.branch, *values])


def _print_overview(reader: JournalReader, attempt: int | None) -> None:
    console = plain_console()
    lives = new_table("attempt", "started", "state", "mode", "ticks", "policy")
    for life in reader.attempts():
        if attempt in (None, life.number):
            span = reader.span(life.number)
            ticks = "none" if span is None else f"{span[0]}–{span[1]} ({span[2]} kept)"
            state = _state(reader, life)
            add_row(lives, str(life.number), _when(life.started), state, life.mode, ticks, life.policy_source)
    console.print(str(reader.path), lives, f"signals: {', '.join(reader.signals()) or 'none'}\n", sep="\n")
    happened = _shortly([event for event in reader.events(attempt) if event.kind in _HAPPENED])
    if happened:
        console.print(_events(happened))
    told = stories(reader, attempt)
    if told:
        console.print(_decisions(told), f"In sentences: --decision {told[-1].decision.id}", sep="\n")
    else:
        console.print("No decision has been taken.")


_HAPPENED = {
    "fork": "from here on it is a fork of {of}, which parts from it at {decision}",
    "plan": "what lies ahead: {horizon} steps in all, the learning rate {rate}",
    "resumed": "went on from checkpoint {checkpoint}, after step {step}",
    "terminated": "was asked to end by {signal}, and left",
    "checkpoint_failed": "checkpoint {name} failed: {reason}",
    "command": "was told: {command} {subject} (by {by})",
    "policy": "the policy was edited: {changes}",
    "policy_refused": "an edited policy was not taken up: {problems}",
    "trial": "{what}",
    "regulated": "regulator {regulator} {moved} {set}",
    "regulator_refused": "regulator {regulator} was refused: {reason}",
    "data_changed": "pass {epoch}, batch {batch}: the data set gave another batch than before",
}
"""What happened to a run besides decisions that people want to know of, in words."""


def _shortly(happened: list[Event]) -> list[Event]:
    """Of each regulator's moves only the last one is told, with their number."""
    moves = [event.detail["regulator"] for event in happened if event.kind == "regulated"]
    count, left = Counter(moves), Counter(moves)
    told = []
    for event in happened:
        if event.kind == "regulated":
            name = event.detail["regulator"]
            left[name] -= 1
            if left[name]:
                continue
            event = replace(event, detail={**event.detail, "count": count[name]})
        told.append(event)
    return told


def _events(happened: list[Event]) -> Table:
    table = new_table("tick", "what happened")
    for event in happened:
        tick = "" if event.tick < 0 else str(event.tick)
        add_row(table, tick, _HAPPENED[event.kind].format_map(_in_words(event)))
    return table


def _in_words(event: Event) -> Mapping[str, Any]:
    """The details of an event, as the sentence about it needs them."""
    if event.kind == "policy":
        return {"changes": "; ".join(line for line in event.detail["diff"] if line[:3] not in ("---", "+++"))}
    if event.kind == "policy_refused":
        return {"problems": "; ".join(event.detail["problems"])}
    if event.kind == "trial":
        arm, decision, tick = (event.detail[name] for name in ("arm", "decision", "back_to"))
        what = (
            f"{decision} is over: the run goes on from" if arm is None else f"{decision}: arm {arm} begins at"
        )
        return {"what": f"the trial {what} the state of tick {tick}"}
    if event.kind == "regulated":
        values = event.detail["values"].items()
        told = ", ".join(f"{target.removeprefix('weight/')} {number(value)}" for target, value in values)
        moved = "moved" if event.detail["in_force"] else "would have moved"
        moved += f" {event.detail['count']} times, last to"
        return {"regulator": event.detail["regulator"], "moved": moved, "set": told}
    if event.kind != "plan":
        return event.detail
    horizon, corners = event.detail["horizon"], event.detail["schedule"]
    rate = "not known" if corners is None else f"ending at {corners[-1][1]:.2g} of its peak"
    return {"horizon": "unknown" if horizon is None else horizon, "rate": rate}


def _decisions(told: list[Story]) -> Table:
    table = new_table("step", "decision", "onset", "disposition", "actions", "outcome", "verdict")
    for story in told:
        decision = story.decision
        outcome = story.outcomes[-1] if story.outcomes else None
        verdict = story.verdicts[-1] if story.verdicts else None
        why = f": {outcome.reason}" if outcome and outcome.status is not Status.APPLIED else ""
        add_row(
            table,
            str(decision.step),
            decision.id,  # names the rule, its instance and the tick
            "" if decision.onset is None else f"tick {decision.onset}",
            words(decision.disposition)
            + ("" if story.answer is None else f": {story.answer.detail['reply']}"),
            ", ".join(map(describe, decision.actions)),
            "" if outcome is None else f"{words(outcome.status)}{why}",
            "" if verdict is None else words(verdict.result),
        )
    return table


def _document(reader: JournalReader, attempt: int | None) -> dict[str, Any]:
    """Everything but the samples, as plain values."""
    lives = []
    for life in reader.attempts():
        if attempt in (None, life.number):
            span = reader.span(life.number)
            ticks = None if span is None else dict(zip(("first", "last", "kept"), span, strict=True))
            lives.append({**asdict(life), "state": _state(reader, life), "ticks": ticks})
    return {
        "path": str(reader.path),
        "attempts": lives,
        "signals": reader.signals(),
        "decisions": [_story_json(story) for story in stories(reader, attempt)],
        "transitions": [asdict(item) for item in reader.transitions(attempt)],
        "phases": [asdict(item) for item in reader.phases(attempt)],
        "events": [asdict(item) for item in reader.events(attempt)],
    }


def _story_json(story: Story) -> dict[str, Any]:
    return {
        "attempt": story.attempt,
        "time": story.time,
        **asdict(story.decision),
        "outcomes": [asdict(item) for item in story.outcomes],
        "verdicts": [asdict(item) for item in story.verdicts],
    }


def _state(reader: JournalReader, life: Attempt) -> str:
    if life.ended is not None:
        return f"ended {_when(life.ended)}"
    newest = max(other.number for other in reader.attempts())
    return "running" if life.number == newest and reader.running else "ended without closing"


def _when(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).isoformat(" ", "seconds")
