"""Decisions that wait for a person or a program to say yes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .model import Approval
from .types import Answer, Decision, Reply

Key = tuple[str, str]
"""Rule and instance: each asks about one decision at a time."""


@dataclass(slots=True)
class Question:
    """A decision that waits, and what was said to it so far."""

    decision: Decision
    reply: Reply | None = None
    by: str = ""

    def settle(self, approval: Approval, tick: int) -> Reply | None:
        """The reply by now: what was said, or what silence means once the time is up; None while it waits."""
        if self.reply is None and tick - self.decision.tick >= approval.within:
            self.reply, self.by = approval.otherwise, f"nobody answered within {approval.within} ticks"
        return self.reply

    def answer(self, reply: Reply, tick: int, by: str) -> Answer:
        """What came of it."""
        return Answer(self.decision.id, reply, tick, by)


class Questions:
    """All that wait, at most one for each rule and instance."""

    __slots__ = ("_open",)

    def __init__(self) -> None:
        self._open: dict[Key, Question] = {}

    def __contains__(self, key: Key) -> bool:
        return key in self._open

    def __getitem__(self, key: Key) -> Question:
        return self._open[key]

    @property
    def waiting(self) -> Sequence[Decision]:
        """The decisions to which nothing was said so far, oldest first."""
        return [question.decision for question in self._open.values() if question.reply is None]

    def ask(self, decision: Decision) -> None:
        """Let a decision wait."""
        self._open[decision.rule, decision.instance] = Question(decision)

    def reply(self, decision_id: str, reply: Reply, by: str) -> None:
        """Take an answer; the first one holds.

        Raises:
            ValueError: no such decision waits.
        """
        for question in self._open.values():
            if question.decision.id == decision_id:
                if question.reply is None:
                    question.reply, question.by = reply, by
                return
        waiting = ", ".join(decision.id for decision in self.waiting) or "none"
        raise ValueError(f"no decision {decision_id!r} waits for approval; waiting: {waiting}")

    def close(self, key: Key) -> Question | None:
        """End and return that of this rule and instance, if it has one."""
        return self._open.pop(key, None)

    def state_dict(self) -> list[dict[str, Any]]:
        """All of them, as JSON."""
        return [
            {
                "decision": question.decision.to_json(),
                "reply": question.reply and question.reply.value,
                "by": question.by,
            }
            for question in self._open.values()
        ]

    def load_state_dict(self, state: Sequence[Mapping[str, Any]]) -> None:
        """Take over those of another."""
        self._open = {}
        for each in state:
            decision = Decision.from_json(each["decision"])
            reply = None if each["reply"] is None else Reply(each["reply"])
            self._open[decision.rule, decision.instance] = Question(decision, reply, each["by"])
