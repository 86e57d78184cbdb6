"""Every correction is verified: what is remembered of it, and how it is judged when its window closes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .expressions import Readings
from .model import Verify
from .types import Decision, Facts, Outcome, Result, Verdict


@dataclass(frozen=True, slots=True)
class OpenVerdict:
    """An applied act whose verdict is open until ``due``.

    ``before`` are the facts of the decision, ``target`` those at the rollback's target (empty without one).
    """

    decision_id: str
    rule: str
    instance: str
    applied: int
    due: int
    before: Facts
    target: Facts

    @classmethod
    def of(cls, decision: Decision, outcome: Outcome, verify: Verify) -> OpenVerdict:
        """That of an act which was just applied."""
        return cls(
            decision_id=decision.id,
            rule=decision.rule,
            instance=decision.instance,
            applied=outcome.tick,
            due=outcome.tick + verify.within,
            before=decision.facts,
            target=outcome.facts,
        )

    @property
    def key(self) -> tuple[str, str]:
        """Rule and instance."""
        return self.rule, self.instance

    def judged(self, verify: Verify, readings: Readings, tick: int) -> Verdict:
        """The verdict at the window's end: what ``expect`` says; unknown is INCONCLUSIVE."""
        expect = verify.expect
        try:
            helped = expect(readings, self.instance, self.before, self.target)
            numbers = expect.numbers(readings, self.instance, self.before, self.target)
        except Exception as error:  # noqa: BLE001 - a verdict of its own: it must never end the run
            return self.verdict(Result.ERROR, tick, f"{expect.text}: {type(error).__name__}: {error}")
        if helped is None:
            result, words = Result.INCONCLUSIVE, "cannot be decided: something in it was not measured"
        elif helped:
            result, words = Result.HELPED, "holds"
        else:
            result, words = Result.DID_NOT_HELP, "does not hold"
        return self.verdict(result, tick, f"{expect.text} {words}", numbers)

    def returned(self, tick: int) -> Verdict:
        """The rule fires again before the window closed: an act that lets its fault return did not help."""
        return self.verdict(
            Result.DID_NOT_HELP, tick, f"fired again {tick - self.applied} ticks after the act was applied"
        )

    def overlapped(self, other: Decision, tick: int) -> Verdict:
        """Another act changed the run inside the window: whose effect it was cannot be told."""
        return self.verdict(Result.INCONCLUSIVE, tick, f"{other.id} was applied within the window")

    def verdict(
        self, result: Result, tick: int, reason: str, numbers: Mapping[str, float] | None = None
    ) -> Verdict:
        """A verdict on this act."""
        return Verdict(self.decision_id, result, tick, reason, numbers or {})


class OpenVerdicts:
    """The acts whose verdict is open, at most one for each rule and instance."""

    __slots__ = ("_open",)

    def __init__(self) -> None:
        self._open: dict[tuple[str, str], OpenVerdict] = {}

    def __len__(self) -> int:
        return len(self._open)

    def __contains__(self, key: tuple[str, str]) -> bool:
        return key in self._open

    def waits_for(self, decision: str) -> bool:
        """Whether the act of this decision waits for its verdict."""
        return any(act.decision_id == decision for act in self._open.values())

    def open(self, act: OpenVerdict) -> None:
        """Wait for the verdict of an act."""
        self._open[act.key] = act

    def close(self, key: tuple[str, str]) -> OpenVerdict | None:
        """End and return that of this rule and instance, if it has one."""
        return self._open.pop(key, None)

    def close_where(self, ends: Callable[[OpenVerdict], bool]) -> list[OpenVerdict]:
        """End and return those that meet a condition, in the order in which they were opened."""
        closed = [act for act in self._open.values() if ends(act)]
        for act in closed:
            del self._open[act.key]
        return closed

    def state_dict(self) -> list[dict[str, Any]]:
        """All of them, as JSON."""
        return [asdict(act) for act in self._open.values()]

    def load_state_dict(self, state: Sequence[Mapping[str, Any]]) -> None:
        """Take over those of another."""
        self._open = {act.key: act for act in (OpenVerdict(**each) for each in state)}
