"""Whether as much comes of each source as is asked of it: evidence, told with the signals of a tick."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from ..monitors.types import SUPPLY_PREFIX

SCARCE = 0.3
"""Of what is asked of a source so much comes where it is scarce: what evidence is gathered for."""

_LOG_SCARCE = math.log(SCARCE)


class Supply:
    """What is asked of the sources, held against what came, as ``monitors.scarce`` reads it.

    Args:
        sources: In the order of their counts.
        planned: The shares of the sources that are asked for, summing to 1.
        at: Where their counts begin in the vector that processes exchange.
    """

    def __init__(self, sources: Sequence[str], planned: Mapping[str, float], at: int) -> None:
        self.planned = planned
        self.slots = slice(at, at + len(sources))
        """Where in that vector they are."""
        place = {name: number for number, name in enumerate(sources)}
        self._places = [place[name] for name in planned if name in place]
        self._every = len(self._places) == len(place)
        self._asked = [
            (SUPPLY_PREFIX + name, place.get(name), -(1 - SCARCE) * share)
            for name, share in planned.items()
            if share > 0
        ]

    def tell(self, signals: dict[str, float], came: Sequence[float]) -> None:
        """Add to a tick's signals, of each source that is asked for, the evidence that it has become scarce.

        That is the logarithm of Poisson's likelihood ratio, for all of what was planned against ``SCARCE`` of
        it; ``came`` are the examples by source.
        """
        whole = sum(came) if self._every else sum(came[place] for place in self._places)
        if whole > 0:
            for name, number, all_of_it in self._asked:
                missed = 0.0 if number is None else _LOG_SCARCE * came[number]
                signals[name] = all_of_it * whole - missed
