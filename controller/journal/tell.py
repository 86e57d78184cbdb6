"""Telling a decision in words: what was seen, what was done, whether it helped."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

from ...monitors.registry import extra_numbers
from ...policies.trials import NOTHING
from ...policies.types import Action, Decision, Disposition, Outcome, Reply, Result, Status, Verdict
from .reader import JournalReader
from .tables import Event

_FIRED = re.compile(r"(?P<monitor>[\w-]+(\[.*\])?) (?P<health>alarm|nonfinite|warning)( \((?P<why>.*)\))?")
_SAYS = {"alarm": "alarmed", "nonfinite": "was not finite", "warning": "warned"}
_RESULTS = {
    Result.HELPED: "it helped",
    Result.DID_NOT_HELP: "it did not help",
    Result.INCONCLUSIVE: "it cannot be told whether it helped",
    Result.ERROR: "it could not be judged",
}


@dataclass(slots=True)
class Story:
    """A decision, and all that followed from it: in its attempt, or in one that went on from a checkpoint."""

    attempt: int
    time: float
    decision: Decision
    outcomes: list[Outcome] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    answer: Event | None = None


def stories(reader: JournalReader, attempt: int | None = None) -> list[Story]:
    """Every decision of a journal with its outcomes and verdicts, in order."""
    told: list[Story] = []
    newest: dict[str, Story] = {}
    for entry in reader.entries(samples=False):
        item = entry.item
        if isinstance(item, Decision):
            newest[item.id] = Story(entry.attempt, entry.time, item)
            told.append(newest[item.id])
        elif isinstance(item, Outcome) and item.decision_id in newest:
            newest[item.decision_id].outcomes.append(item)
        elif isinstance(item, Verdict) and item.decision_id in newest:
            newest[item.decision_id].verdicts.append(item)
        elif isinstance(item, Event) and item.kind == "approval" and item.detail["decision"] in newest:
            newest[item.detail["decision"]].answer = item
    return [story for story in told if attempt in (None, story.attempt)]


def tell(story: Story, signals: Mapping[str, str], onset_step: int | None = None) -> str:
    """A story in sentences.

    ``signals`` says which signal each monitor watches; ``onset_step`` is the training step at which the
    change began, where the journal still has that tick.
    """
    sentences = [_fired(story.decision, signals, onset_step)]
    if story.answer is not None:
        sentences.append(_answered(story.decision, story.answer))
    if story.decision.disposition is Disposition.ACT and not story.outcomes:
        sentences.append(f"The journal does not say that it was done ({_actions(story.decision)}).")
    sentences += [_done(story.decision, outcome) for outcome in story.outcomes]
    for verdict in story.verdicts:
        began = story.outcomes[-1].tick if story.outcomes else story.decision.tick
        numbers = ", ".join(f"{name} = {number(value)}" for name, value in verdict.numbers.items())
        why = verdict.reason or numbers
        if numbers and numbers not in why:
            why += f" ({numbers})"
        sentences.append(
            f"The verdict came {_count(verdict.tick - began, 'tick')} later: {_RESULTS[verdict.result]}"
            + (f", {why}." if why else ".")
        )
    return " ".join(sentences)


def _fired(decision: Decision, signals: Mapping[str, str], onset_step: int | None) -> str:
    where = f"At step {decision.step}" + (
        f" (tick {decision.tick})" if decision.tick != decision.step else ""
    )
    rule = f"rule {decision.rule}" + (f" for {decision.instance}" if decision.instance else "")
    if decision.disposition is Disposition.SUPPRESSED:
        return f"{where} {rule} would have fired ({_actions(decision)}) but was held back: {decision.reason}."
    said = map(_FIRED.fullmatch, decision.reason.split("; "))
    causes = [_cause(match, decision, signals) for match in said if match]
    because = " and ".join(causes) if causes else decision.reason
    onset = ""
    if decision.onset is not None:
        began = f"tick {decision.onset}" if onset_step is None else f"step {onset_step}"
        onset = f"; the change began at {began}"
    ending = ""
    if decision.disposition is Disposition.OBSERVE:
        ending = f" It only observed and changed nothing; it would have done {_actions(decision)}."
    elif decision.disposition is Disposition.AWAITING_APPROVAL:
        ending = f" It asked for approval of {_actions(decision)}."
    return f"{where} {rule} fired because {because}{onset}.{ending}"


_REPLIES = {
    Reply.YES.value: "the answer was yes",
    Reply.NO.value: "the answer was no",
    Reply.LAPSED.value: "the question lapsed",
}


def _answered(decision: Decision, answer: Event) -> str:
    later = _count(answer.tick - decision.tick, "tick")
    return f"{_REPLIES[answer.detail['reply']].capitalize()} {later} later: {answer.detail['by']}."


def _cause(match: re.Match[str], decision: Decision, signals: Mapping[str, str]) -> str:
    """``blowup alarmed: loss 5.31 against level 2.40 ± 0.05, score 58 > 10``, as far as the numbers go."""
    label = match["monitor"]
    text = f"{label} {_SAYS[match['health']]}"
    facts = decision.facts.get(label, {})
    parts = []
    if "value" in facts:
        name, _, instance = label.partition("[")
        signal = signals.get(name, name).replace("*", instance.rstrip("]"))
        level = f" against level {number(facts['level'])}" if "level" in facts else ""
        noise = f" ± {number(facts['noise'])}" if level and "noise" in facts else ""
        parts.append(f"{signal} {number(facts['value'])}{level}{noise}")
    if "score" in facts and "threshold" in facts:
        sign = ">" if facts["score"] > facts["threshold"] else "≤"
        parts.append(f"score {number(facts['score'])} {sign} {number(facts['threshold'])}")
    parts += [f"{name} {number(facts[name])}" for name in extra_numbers(None) if name in facts]
    if not parts and match["why"]:
        parts = [match["why"]]
    return f"{text}: {', '.join(parts)}" if parts else text


def _done(decision: Decision, outcome: Outcome) -> str:
    if outcome.status is not Status.APPLIED:
        return f"What it decided ({_actions(decision)}) {outcome.status.value}: {outcome.reason}."
    said = [past(action, outcome.details.get(action.name, {})) for action in decision.actions]
    return f"It {_joined(said)}."


def past(action: Action, detail: Mapping[str, Any]) -> str:
    """An applied action in the past tense, with what was read back."""
    params = action.params
    match action.name:
        case "rollback":
            target = f"step {detail['target_step']}" if "target_step" in detail else str(params.get("to"))
            undone = f", undoing {_count(detail['steps_undone'], 'step')}" if "steps_undone" in detail else ""
            way = "; ".join([f"data: {detail.get('data', params.get('data'))}", *_fate(detail)])
            return f"rolled back to {target}{undone} ({way})"
        case "scale_lr":
            return f"multiplied the learning rate by {number(params['factor'])}{_while(params)}"
        case "restore_lr":
            return f"took back the rise of the learning rate{_while(params)}"
        case "set_lr":
            return f"set the learning rate to {number(params['to'])}{_while(params)}"
        case "reweight" if params.get("scale") is not None:
            return f"multiplied the weight of {params['source']} by {number(params['scale'])}{_while(params)}"
        case "reweight":
            return f"set the weight of {params['source']} to {number(params['to'])}{_while(params)}"
        case "skip_step":
            return "left out the optimizer step"
        case "reset_moments":
            return "reset the optimizer's moments"
        case "checkpoint":
            return f"saved a checkpoint in {detail['path']}" if "path" in detail else "saved a checkpoint"
        case "notify":
            return f"notified: “{params.get('message', '')}”"
        case "trial":
            return _tried(params, detail)
        case "stop":
            return "stopped the run" + (
                f" with a checkpoint in {detail['checkpoint']}" if "checkpoint" in detail else ""
            )
        case _:
            return f"did {describe(action)}"


def _tried(params: Mapping[str, Any], detail: Mapping[str, Any]) -> str:
    """What a trial kept, with every arm's comparison, and what it cost."""
    arms = detail.get("arms", {})
    where = f" from step {detail['from_step']}" if "from_step" in detail else ""
    said = [
        f"{name} {_compared(name, arms[name], str(params['judge']))}"
        for name in (NOTHING, *params["arms"])
        if name in arms
    ]
    cost = (
        f"this took {_count(detail['ticks'], 'tick')}, {detail['seconds']:.1f} s" if "ticks" in detail else ""
    )
    told = f" ({'; '.join([*said, cost] if cost else said)})" if said else ""
    each = f"for {_count(params['steps'], 'step')} each{where}"
    return f"tried {', '.join(params['arms'])} and nothing {each}, and kept {detail.get('kept', 'one')}{told}"


def _compared(name: str, arm: Mapping[str, Any], judge: str) -> str:
    if "failed" in arm:
        return f"was out: {arm['failed']}"
    if not arm["pairs"]:
        return f"came to no {judge} that can be compared"
    mean = f"came to {judge} {number(arm['mean'])}"
    if name == NOTHING:
        return mean
    if not isfinite(arm["difference"]):
        return f"{mean}, of {_count(arm['pairs'], 'measurement')} only"
    error = f" ± {number(arm['standard_error'])}" if arm["standard_error"] else ""
    said = f"{mean}, {number(abs(arm['difference']))}{error}"
    if arm["difference"] >= 0:
        return f"{said} more than nothing"
    measure = f"(t = {number(arm['t'])}, {number(-arm['noises'])} times the noise)"
    return f"{said} less than nothing {measure}, which is {'' if arm['better'] else 'not '}enough"


def _fate(detail: Mapping[str, Any]) -> list[str]:
    """What a rollback did to the batches since its target, as far as it is more than nothing."""
    return [
        f"{words}: {' and '.join(_batches(*between) for between in detail[name])}"
        for name, words in (
            ("never_trained", "left out"),
            ("trained_twice", "taken again"),
            ("undone", "undone for good"),
        )
        if detail.get(name)
    ]


def _batches(first: Sequence[int], stop: Sequence[int]) -> str:
    (number, batch), (last, end) = first, stop
    if number != last:
        return f"pass {number} from batch {batch} to pass {last} before batch {end}"
    if end == batch + 1:
        return f"pass {number} batch {batch}"
    return f"pass {number} batches {batch} to {end - 1}"


def describe(action: Action) -> str:
    """An action as a policy writes it, in short: ``rollback(to=before_onset, data=skip)``."""
    if action.name == "trial":
        arms = " or ".join([*action.params["arms"], NOTHING])
        return f"trial({arms}, steps={action.params['steps']}, judge={action.params['judge']})"
    params = ", ".join(
        f"{name}={number(value) if isinstance(value, float) else value}"
        for name, value in action.params.items()
        if value is not None and (name, value) != ("ramp", 0)
    )
    return f"{action.name}({params})" if params else action.name


def number(value: float) -> str:
    """A number for people: four digits, no padding."""
    return f"{value:.4g}"


def _actions(decision: Decision) -> str:
    return ", ".join(map(describe, decision.actions)) or "nothing"


def _while(params: Mapping[str, Any]) -> str:
    if params.get("hold") is None:
        return ""
    ramp = f", then back over {_count(params['ramp'], 'tick')}" if params.get("ramp") else ""
    return f" for {_count(params['hold'], 'tick')}{ramp}"


def _count(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _joined(parts: Iterable[str]) -> str:
    *first, last = list(parts) or ["did nothing"]
    return f"{', '.join(first)} and {last}" if first else last
