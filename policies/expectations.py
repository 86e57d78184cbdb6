"""What a policy said on a run, beside what a test expects of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from .cases import Case, Expected, Span
from .types import Action, Decision, Disposition, Phase, Turn, Verdict

Said = Mapping[str, Any]
"""A decision, a verdict or a phase under the keys of a test file."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Something expected beside what was said; one of the two is None where the other has no counterpart.

    ``wrong`` are the keys in which they differ.
    """

    expected: Expected | None
    said: Said | None
    wrong: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether what was said is what was expected."""
        return self.expected is not None and self.said is not None and not self.wrong


def compare(case: Case, turn: Turn) -> dict[str, list[Pair]]:
    """What a test expects, side by side with what was said: of decisions, verdicts and phases, in order."""
    compared: dict[str, list[Pair]] = {}
    if case.decisions is not None:
        compared["decisions"] = aligned(case.decisions, [*map(say, _counted(case.decisions, turn.decisions))])
    if case.verdicts is not None:
        decided = {each.id: each for each in turn.decisions}
        verdicts = [_verdict(each, decided[each.decision_id]) for each in turn.verdicts]
        compared["verdicts"] = aligned(case.verdicts, verdicts)
    if case.phases is not None:
        compared["phases"] = [_paired(each, _phase(each.wanted, turn)) for each in case.phases]
    return compared


def differs(wanted: Mapping[str, Any], said: Said) -> tuple[str, ...]:
    """The keys in which what was said is not what is wanted."""
    return tuple(key for key, value in wanted.items() if not _fits(key, value, said[key]))


def aligned(expected: Sequence[Expected], said: Sequence[Said]) -> list[Pair]:
    """The two lists side by side, both in their order, with the fewest differences.

    Two entries of one rule that differ stand beside each other; those of different rules do not.
    """
    cost = _costs(expected, said)
    rows, columns = len(expected), len(said)
    pairs: list[Pair] = []
    row = column = 0
    while row < rows or column < columns:
        left = cost[row][column]
        both = row < rows and column < columns
        if both and left == cost[row + 1][column + 1] + _distance(expected[row], said[column]):
            pairs.append(_paired(expected[row], said[column]))
            row, column = row + 1, column + 1
        elif row < rows and left == _ALONE + cost[row + 1][column]:
            pairs.append(Pair(expected[row], None))
            row += 1
        else:
            pairs.append(Pair(None, said[column]))
            column += 1
    return pairs


_ALONE = 2
"""What an entry costs that stands alone."""


def _costs(expected: Sequence[Expected], said: Sequence[Said]) -> list[list[int]]:
    """What aligning costs from each place of the one list and of the other on, to the ends of both."""
    rows, columns = len(expected), len(said)
    cost = [[0] * (columns + 1) for _ in range(rows + 1)]
    for row in range(rows, -1, -1):
        for column in range(columns, -1, -1):
            if row == rows or column == columns:
                cost[row][column] = _ALONE * (rows - row + columns - column)
                continue
            beside = cost[row + 1][column + 1] + _distance(expected[row], said[column])
            alone = _ALONE + min(cost[row + 1][column], cost[row][column + 1])
            cost[row][column] = min(beside, alone)
    return cost


def _distance(expected: Expected, said: Said) -> int:
    """Of two side by side: one rule's are nearer than two that stand alone, those of others are not."""
    wrong = differs(expected.wanted, said)
    return 0 if not wrong else 2 * _ALONE + 1 if "rule" in wrong else 2 * _ALONE - 1


def _paired(expected: Expected, said: Said) -> Pair:
    return Pair(expected, said, differs(expected.wanted, said))


def _fits(key: str, wanted: Any, said: Any) -> bool:
    if isinstance(wanted, Span):
        return said is not None and wanted.first <= said <= wanted.last
    if key == "reason":
        return wanted in said
    if key == "actions":
        return len(wanted) == len(said) and all(map(_fits_action, wanted, said))
    return bool(wanted == said)


def _fits_action(wanted: str | Mapping[str, Any], action: Action) -> bool:
    """Whether it is this action, with the parameters that are written."""
    if isinstance(wanted, str):
        return wanted == action.name
    ((name, params),) = wanted.items()
    return name == action.name and all(
        key in action.params and action.params[key] == value for key, value in (params or {}).items()
    )


def _counted(expected: Sequence[Expected], decisions: Sequence[Decision]) -> list[Decision]:
    """Those that are compared: suppressed ones only of rules of which one is expected to be."""
    of = {each.wanted.get("rule") for each in expected if each.wanted.get("disposition") is _SUPPRESSED}
    return [each for each in decisions if each.disposition is not _SUPPRESSED or of & {each.rule, None}]


_SUPPRESSED = Disposition.SUPPRESSED


def say(decision: Decision) -> dict[str, Any]:
    """A decision under the keys of a test file."""
    keys = ("tick", "step", "rule", "instance", "disposition", "rung", "actions", "reason")
    return {key: getattr(decision, key) for key in keys}


def _verdict(verdict: Verdict, decision: Decision) -> dict[str, Any]:
    of = {"rule": decision.rule, "instance": decision.instance}
    return {"tick": verdict.tick, **of, "result": verdict.result, "reason": verdict.reason}


def _phase(wanted: Mapping[str, Any], turn: Turn) -> dict[str, Any]:
    """In which phase the rule was after that tick."""
    of = {"tick": wanted["tick"], "rule": wanted["rule"], "instance": wanted.get("instance", "")}
    changes = (
        each.after
        for each in reversed(turn.phases)
        if (each.rule, each.instance) == (of["rule"], of["instance"]) and each.tick <= of["tick"]
    )
    return {**of, "phase": next(changes, Phase.INACTIVE)}


def plain(value: Any) -> Any:
    """A value of either side as JSON has it."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Action):
        return {value.name: dict(value.params)}
    if isinstance(value, Span):
        return {"from": value.first, "to": value.last}
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value
