"""Written series: what a run measures, in the notation of Prometheus' unit tests.

=============  ======================================================================
``2 3 4``      three values, a tick each
``2x3``        ``2 2 2 2``: the value, and three times more
``1+0.5x3``    ``1 1.5 2 2.5``: the value, and three times more, each higher by 0.5
``4-1x2``      ``4 3 2``
``_``, ``_x3`` not measured at one tick, at three ticks; ``stale`` is the same as ``_``
``nan``        a measurement that is no number; ``inf`` and ``-inf`` are too large
=============  ======================================================================
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Mapping
from random import Random

from .document import Fault, Node
from .shapes import Invalid, Schema

Series = list[float | None]
"""What was measured at tick 1, 2, ...; None where nothing was."""

MAX_VALUES = 1_000_000
"""Of one series: more takes minutes."""

_NUMBER = r"(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_TOKEN = re.compile(
    rf"(?:(?P<missing>_|stale)|(?P<first>[-+]?(?:{_NUMBER}|inf)|nan)(?P<slope>[-+]{_NUMBER}(?=x))?)"
    r"(?:x(?P<times>\d{1,9}))?",
    re.IGNORECASE,
)


class Written:
    """The shape of a series in a test file."""

    def read(self, node: Node, name: str) -> Series:
        """The values. Raises Invalid, at the word that is wrong."""
        if node.entries is not None or node.items is not None or not node.text.strip():
            raise Invalid.at(node, f"{name} must be a series such as '2x300 9x40', got {node}")
        values: Series = []
        faults = []
        for word in re.finditer(r"\S+", node.text):
            token = _TOKEN.fullmatch(word[0])
            if token is None:
                message = (
                    f"{name}: '{word[0]}' is no part of a series, such as '2', '2x300', '1+0.5x10' or '_x5'"
                )
                faults.append(Fault(node.place_of(word.start()), message))
            elif len(values) + int(token["times"] or 0) >= MAX_VALUES:
                faults.append(Fault(node.place_of(word.start()), f"{name}: more than {MAX_VALUES} values"))
                break
            else:
                values += _values(token)
        if faults:
            raise Invalid(faults)
        return values

    def schema(self) -> Schema:
        """A string, or a single number."""
        return {"type": ["string", "number"]}


def _values(token: re.Match[str]) -> Series:
    times = int(token["times"] or 0)
    if token["missing"]:
        return [None] * (times if token["times"] else 1)
    first, slope = float(token["first"]), float(token["slope"] or 0)
    return [first + slope * place if place else first for place in range(times + 1)]


def noisy(series: Mapping[str, Series], noise: Mapping[str, float], seed: int) -> dict[str, Series]:
    """The series with gaussian noise, relative to each value, of the standard deviation of its signal.

    Each signal has noise of its own, which depends on its name and the seed only: another series beside it,
    or a value that is not measured, changes nothing.
    """
    return {name: _noisy(name, values, noise[name], seed) for name, values in series.items()}


def _noisy(name: str, values: Series, noise: float, seed: int) -> Series:
    if not noise:
        return values
    draw = Random(f"{seed} {name}").gauss
    errors = array("d", (draw(0, noise) for _ in values))
    return [
        None if value is None else value * (1 + error) for value, error in zip(values, errors, strict=True)
    ]
