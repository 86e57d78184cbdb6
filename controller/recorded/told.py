"""A backtest in words and tables, for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from ...policies.types import Decision, Disposition, Verdict
from ..journal.tell import describe
from ..printing import add_row, new_table, words
from .backtest import Backtest, Comparison, Course, Difference
from .scores import PER, Score, Scores


def tell_run(console: Console, test: Backtest, *, monitors: bool) -> None:
    """One run: how it was read, what was decided on it, and how far that is evidence."""
    steps = [step for course in test.courses for step in course.steps]
    span = f", steps {min(steps)} to {max(steps)}" if steps else ""
    _say(console, f"{test.recording.name}: {test.samples} samples{span}")
    for note in test.recording.notes:
        _say(console, f"  {note}")
    for missing in test.missing:
        hint = test.recording.hints.get(missing.signal, "")
        _say(console, f"  {missing}" + (f"; {hint}" if hint else ""))
    many = len(test.courses) > 1
    for course in test.courses:
        if many:
            went_on = "" if course.resumed is None else f", which goes on after tick {course.resumed}"
            _say(console, f"\nattempt {course.number}{went_on}")
        _tell_course(console, course, monitors=monitors)
    console.print()


def _say(console: Console, sentence: str) -> None:
    console.print(sentence, soft_wrap=True)  # a line stays one, however narrow the terminal


def _tell_course(console: Console, course: Course, *, monitors: bool) -> None:
    if course.decisions:
        console.print(_decisions(course))
    else:
        _say(console, "  no rule fired")
    if course.comparison is not None:
        _say(console, f"  {compared(course.comparison, len(course.decisions), len(course.verdicts))}")
    if course.difference is not None:
        _say(console, f"  {parted(course.difference)}")
    if monitors and course.alarms:
        console.print(_alarms(course))
    elif monitors:
        _say(console, "  no monitor alarmed")


def _decisions(course: Course) -> Table:
    made = new_table("tick", "step", "decision", "then", "rung", "acts", "onset", "reason", "evidence")
    results = {verdict.decision_id: words(verdict.result) for verdict in course.verdicts}
    for each in course.decisions:
        result = results.get(each.id)
        add_row(
            made,
            str(each.tick),
            str(each.step),
            each.id,  # names the rule, its instance and the tick
            words(each.disposition) + (f", {result}" if result else ""),
            str(each.rung + 1),
            _acts(each),
            _onset(course, each.onset),
            each.reason,
            "yes" if course.is_evidence(each.tick) else "not evidence",
        )
    return made


def _alarms(course: Course) -> Table:
    made = new_table("tick", "step", "monitor", "became", "onset", "reason")
    for each in course.alarms:
        name = f"{each.monitor}[{each.instance}]" if each.instance else each.monitor
        onset = _onset(course, each.onset)
        add_row(made, str(each.tick), str(each.step), name, words(each.health), onset, each.reason)
    return made


def _onset(course: Course, tick: int | None) -> str:
    step = None if tick is None else course.step_at(tick)
    return "" if tick is None else f"tick {tick}" if step is None else f"step {step}"


def _acts(decision: Decision) -> str:
    return ", ".join(map(describe, decision.actions)) or "nothing"


def parted(difference: Difference) -> str:
    """Where the policy and the run part, in words."""
    act = difference.act
    if difference.by_policy:
        what = f"there {act.rule} would have done {_acts(act)}, and the run did not"
    else:
        what = f"there the run did {_acts(act)} ({act.id}), and this policy would not have"
    return f"Evidence ends at tick {difference.tick}: {what}. What is decided later is not evidence."


def compared(comparison: Comparison, decisions: int, verdicts: int) -> str:
    """Whether a run's own policy came to what its journal says, in words."""
    if comparison.identical:
        return (
            f"This is the policy it ran under: the {decisions} decisions and {verdicts} verdicts replayed "
            "are identical with the journal's."
        )
    return (
        "This is the policy it ran under, but the replay differs from the journal, first here: replayed "
        f"{_named(comparison.replayed)}, in the journal {_named(comparison.journalled)}."
    )


def _named(said: Decision | Verdict | None) -> str:
    if said is None:
        return "nothing"
    if isinstance(said, Verdict):
        return f"the verdict {words(said.result)} on {said.decision_id} at tick {said.tick} ({said.reason})"
    return f"{said.id} to {words(said.disposition)}: {_acts(said)} ({said.reason})"


def tell_summary(console: Console, tests: Sequence[Backtest], scores: Scores | None) -> None:
    """All runs together: with labels how well each rule and monitor did, else how often each fired."""
    if scores is not None:
        _say(console, f"Judged by the labels of {scores.runs} of {len(tests)} runs")
        console.print(_scores("rule", scores.rules), _scores("monitor", scores.monitors), sep="\n")
    elif len(tests) > 1:
        console.print(_counts(tests))


def _counts(tests: Sequence[Backtest]) -> Table:
    made = new_table("rule", "runs in which it fired", "times")
    runs: Counter[str] = Counter()
    times: Counter[str] = Counter()
    for test in tests:
        fired = [
            each.rule
            for course in test.courses
            for each in course.decisions
            if each.disposition is not Disposition.SUPPRESSED
        ]
        times.update(fired)
        runs.update(set(fired))
    for rule, count in sorted(runs.items()):
        add_row(made, rule, f"{count} of {len(tests)}", str(times[rule]))
    return made


def _scores(what: str, scores: Mapping[str, Score]) -> Table:
    made = new_table(
        what, "found", "delay", "p90", "onset bias", "false alarms", f"in {PER} samples", "95 % interval"
    )
    for name, score in scores.items():
        of = score.to_json()
        low, high = of["interval_95"]
        add_row(
            made,
            name,
            f"{of['found']} of {of['faults']}" if of["faults"] else "-",
            *(_number(of[key]) for key in ("delay_median", "delay_p90", "onset_bias")),
            f"{of['false_alarms']} in {of['healthy_samples']}",
            _number(of["false_alarms_per_100k"]),
            "-" if low is None else f"{low:g} to {high:g}",
        )
    return made


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"
