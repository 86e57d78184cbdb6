"""What a fork decides otherwise than the run that it is a fork of: decisions withheld, or another rung.

A fork answers what an act was good for: the same run from the same state, but for that act. Where a decision
is *withheld*, its rule goes on as if it were in observe mode for that one decision: budget and cooldown are
charged, nothing is changed. Where another *rung* is named, that one is taken, and the ladder goes on from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Amendments:
    """Which decisions are amended.

    ``withheld`` names decisions by id (``off-course@1146``), or all of a rule's (``off-course``) or of one
    instance's (``bad-source[code]``). ``instead`` maps ids to the rung that is taken, counted from 0.
    ``of`` is the original run, as people call it.
    """

    of: str = ""
    withheld: frozenset[str] = frozenset()
    instead: Mapping[str, int] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.withheld or self.instead)

    def withholds(self, rule: str, label: str, tick: int) -> bool:
        """Whether what a rule decides at a tick is withheld; ``label`` names it with its instance."""
        return not self.withheld.isdisjoint((rule, label, f"{label}@{tick}"))

    def rung(self, label: str, tick: int) -> int | None:
        """The rung that is taken at a decision in place of the ladder's own; None: its own."""
        return self.instead.get(f"{label}@{tick}")

    def said_of(self, rule: str, label: str, tick: int) -> str:
        """What the reason of a decision ends with; nothing if it stands as it was."""
        if self.withholds(rule, label, tick):
            return f"; withheld in this fork of {self.of}"
        rung = self.rung(label, tick)
        return "" if rung is None else f"; rung {rung} by this fork of {self.of}"

    def joined(self, later: Amendments) -> Amendments:
        """These, and those of a fork of the fork."""
        return Amendments(later.of, self.withheld | later.withheld, {**self.instead, **later.instead})

    def to_json(self) -> dict[str, Any]:
        """All of it, as what ``json.dumps`` accepts."""
        return {"of": self.of, "withheld": sorted(self.withheld), "instead": dict(self.instead)}

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> Amendments:
        """The inverse of ``to_json``."""
        return cls(state["of"], frozenset(state["withheld"]), dict(state["instead"]))


NONE_AMENDED = Amendments()
