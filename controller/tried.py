"""The tests of a policy, carried out: on written series, or on recorded runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..policies.cases import Case, CaseFile
from ..policies.expectations import Pair, compare, differs, say
from ..policies.model import Policy
from ..policies.names import matches
from ..policies.series import noisy
from ..policies.simulated import SimulatedRun, simulate
from ..policies.types import Decision, Disposition, Status, Turn
from .recorded.backtest import backtest
from .recorded.columns import Chosen
from .recorded.journal_runs import is_journal, read_journal
from .recorded.logs import read_log
from .recorded.needs import Needs
from .recorded.recording import RecordingError


@dataclass(frozen=True, slots=True)
class Tried:
    """A test, as it went. ``notes`` help to understand a failure.

    ``problems`` are why it could not be carried out (``broken``), or what of it came to nothing.
    """

    case: Case
    compared: Mapping[str, list[Pair]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    broken: bool = False

    @property
    def ok(self) -> bool:
        """Whether all is as expected."""
        return not self.problems and all(pair.ok for pairs in self.compared.values() for pair in pairs)


def carry_out(file: CaseFile, case: Case) -> Tried:
    """One test of a file."""
    if case.run is not None:
        return _on_recording(file, case, file.path.parent / case.run)
    return _on_series(file.policy, case)


def _on_series(policy: Policy, case: Case) -> Tried:
    assert case.series is not None
    fates = _Fates(case)
    run = SimulatedRun(policy, fates, case.every)
    turn = simulate(run, noisy(case.series, _noise(case), case.seed), case.commands)
    end = f"the run ended at tick {run.tick}"
    if run.stopped is not None:
        end = f"{run.stopped.rule} stopped the run at tick {run.tick}"
    late = [tick for tick in case.commands if tick > run.tick]
    problems = [f"line {line}: there was no such act whose outcome this could be" for line in fates.idle]
    problems += [f"the command of tick {tick} was never given: {end}" for tick in late]
    problems += run.refused
    compared = compare(case, turn)
    return Tried(case, compared, (*_suppressed(compared, turn), end), tuple(problems))


class _Fates:
    """What becomes of acts, as a test writes it."""

    def __init__(self, case: Case) -> None:
        self._written = case.outcomes
        self._idle = {*range(len(case.outcomes))}

    def __call__(self, decision: Decision) -> tuple[Status, str]:
        """The first outcome that is written for such a decision."""
        for place, each in enumerate(self._written):
            wanted = {key: value for key, value in each.wanted.items() if key not in ("status", "reason")}
            if not differs(wanted, say(decision)):
                self._idle.discard(place)
                return each.wanted["status"], each.wanted["reason"]
        return Status.APPLIED, ""

    @property
    def idle(self) -> list[int]:
        """The lines of those that were no decision's."""
        return [self._written[place].line for place in sorted(self._idle)]


def _noise(case: Case) -> Mapping[str, float]:
    """The noise of each series; where several patterns match, the first counts."""
    assert case.series is not None
    if not isinstance(case.noise, Mapping):
        return dict.fromkeys(case.series, case.noise)
    written = case.noise.items()
    return {
        name: next((noise for pattern, noise in written if matches(name, pattern)), 0.0)
        for name in case.series
    }


def _on_recording(file: CaseFile, case: Case, path: Path) -> Tried:
    needs = Needs(file.policy)
    try:
        if is_journal(path):
            recording = read_journal(path, str(path))
        else:
            recording = read_log(path, str(path), Chosen(case.step, case.columns), needs)
        test = backtest(file.policy, recording)
    except RecordingError as error:
        return Tried(case, problems=error.problems, broken=True)
    turn = Turn()
    for course in test.courses:
        turn.extend(Turn(course.decisions, course.verdicts, phases=course.phases))
    compared = compare(case, turn)
    notes = (*_suppressed(compared, turn), *recording.notes, *map(str, test.missing))
    return Tried(case, compared, notes)


def _suppressed(compared: Mapping[str, list[Pair]], turn: Turn) -> list[str]:
    """Why a rule of which a decision was expected did not act when it wanted to."""
    alone = [pair.expected for pair in compared.get("decisions", ()) if pair.said is None]
    rules = {each.wanted.get("rule") for each in alone if each is not None}
    suppressed = [each for each in turn.decisions if each.disposition is Disposition.SUPPRESSED]
    return [f"{each.id} was suppressed: {each.reason}" for each in suppressed if each.rule in rules]
