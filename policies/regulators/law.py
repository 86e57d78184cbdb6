"""The words of regulators: what a policy writes of one, and what a law is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from ..shapes import Field

MIX = "weight/*"
"""The target of a law that sets the shares of all sources together."""

Numbers = Mapping[str, float]
"""Finite numbers by source; of a law that gives a factor the one key is ``""``."""


@dataclass(frozen=True, slots=True)
class RegulatorSpec:
    """A regulator as a policy writes it.

    ``signal`` is what it goes by: with a star, whose place the sources' names take, for a law that sets
    shares. ``actuator`` is ``lr``, ``weight/NAME``, or ``weight/*``, the mix. ``every`` is in ticks.
    ``floor`` and ``ceiling`` bound each share, or the factor on the user's own value; ``rate`` is how much a
    share, or the factor, moves at most in one update. ``params`` are the law's own keys.
    """

    name: str
    law: str
    signal: str
    actuator: str
    every: int
    floor: float
    ceiling: float
    rate: float
    params: Mapping[str, Any] = field(default_factory=dict)


class Law:
    """How one update goes: from what was measured, and what holds now, to what is wanted.

    A law is pure: the same numbers in the same order give the same numbers. It is given finite numbers
    alone, and need not keep bounds: whoever asks it does, and tells it the next time what came of that. So
    its own state cannot run away behind a bound (wind up), unless it keeps sums of its own.
    """

    keys: ClassVar[Mapping[str, Field]] = {}
    """Its own keys in a policy: what the constructor takes."""

    sets_shares: ClassVar[bool] = True
    """Whether it sets the shares of all sources; else it gives one factor."""

    def start(self, own: Numbers) -> None:
        """Take note of the user's own shares, those above 0.

        Raises:
            ValueError: it cannot work with these sources; the message says why.
        """

    def update(self, measured: Numbers, now: Numbers) -> Numbers:
        """What is wanted.

        Args:
            measured: the mean of each source's measurements since the last update; one that was not
                measured is missing. Never empty.
            now: what holds now, of every source.
        """
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """All of its state, as what ``json.dumps`` accepts."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state from ``state_dict``."""
