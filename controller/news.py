"""What rank 0 has to tell the other processes besides an act."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..policies.types import Decision, Verdict


@dataclass(slots=True)
class News:
    """What all processes must know of besides an act.

    ``verdicts`` close what waited for them. Decisions that were ``asked`` about need the state that they
    would go back to until they are ``answered``. ``moves`` are regulators', by target. ``halt``: what is
    tried out is given up. ``withdraw``: overrides in force are taken back. ``anew``: what regulators have
    set is.
    """

    verdicts: list[Verdict] = field(default_factory=list)
    asked: list[Decision] = field(default_factory=list)
    answered: list[str] = field(default_factory=list)
    moves: dict[str, float] = field(default_factory=dict)
    halt: bool = False
    withdraw: bool = False
    anew: bool = False

    def __bool__(self) -> bool:
        flags = self.halt or self.withdraw or self.anew
        return bool(self.verdicts or self.asked or self.answered or self.moves or flags)

    def extend(self, other: News) -> None:
        """Append what came later."""
        self.verdicts += other.verdicts
        self.asked += other.asked
        self.answered += other.answered
        self.moves = other.moves if other.anew else self.moves | other.moves
        self.halt |= other.halt
        self.withdraw |= other.withdraw
        self.anew |= other.anew
