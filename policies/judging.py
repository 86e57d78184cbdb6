"""How well alarms and acts match what is known of a run: episodes, false alarms, and what was found.

An **episode** begins where a monitor turns bad (each instance of a star for itself), or where a policy
decides on an act. As long as the alarm latches, or the rule cools down, it is the same one. A fault is
**found** by the first episode that begins between its onset and its end; what alarmed before, and still
does, has not found it. All other episodes before the onset, and all of a healthy run, are **false alarms**.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from math import exp, lgamma, log
from typing import NamedTuple

from ..monitors.bank import MonitorBank
from ..monitors.types import Reading
from .types import Action

CHANGES_NOTHING = frozenset({"skip_step", "notify", "checkpoint"})
"""Actions that leave a healthy run as it is, but for one batch."""

_HALVINGS = 200  # of an interval: more than a double has digits


def changes_the_run(actions: Iterable[Action]) -> bool:
    """Whether any of these actions is more than to skip a step or to record."""
    return any(action.name not in CHANGES_NOTHING for action in actions)


class Alarms:
    """Follows the readings of a bank, and tells where a monitor turns bad."""

    def __init__(self, bank: MonitorBank) -> None:
        self._bank = bank
        self._bad: set[tuple[str, str]] = set()

    def begun(self) -> Iterator[tuple[str, str, Reading]]:
        """Monitor, instance and reading of each episode that began since the last call."""
        bad = self._bad
        for name, readings in self._bank.readings.items():
            for instance, reading in readings.items():
                if not reading.bad:
                    bad.discard((name, instance))
                elif (name, instance) not in bad:
                    bad.add((name, instance))
                    yield name, instance, reading


class Match(NamedTuple):
    """How many episodes were ``early``, before the fault, and the place of the one that ``found`` it."""

    early: int
    found: int | None


def match(began: Sequence[float], onset: float, end: float | None = None) -> Match:
    """Match the beginnings of episodes, in order, with a fault that lasts from its onset to its end.

    >>> match([3, 120, 130], onset=100)
    Match(early=1, found=1)
    >>> match([3, 120], onset=100, end=110)
    Match(early=1, found=None)
    """
    early = sum(at < onset for at in began)
    found = early if early < len(began) and (end is None or began[early] <= end) else None
    return Match(early, found)


def poisson_interval(count: int, confidence: float = 0.95) -> tuple[float, float]:
    """The exact interval of a Poisson mean of which ``count`` events were seen (Garwood 1936).

    Each end is where that many, or as few, would be seen with half of what the confidence leaves.

    >>> tuple(round(end, 3) for end in poisson_interval(0))
    (0.0, 3.689)
    >>> tuple(round(end, 3) for end in poisson_interval(10))
    (4.795, 18.39)
    """
    tail = (1 - confidence) / 2
    low = 0.0 if count == 0 else _mean_at(count - 1, 1 - tail)
    return low, _mean_at(count, tail)


def _mean_at(count: int, probability: float) -> float:
    """The mean with which at most ``count`` events have this probability: it falls as the mean grows."""
    low, high = 0.0, 2.0 * count + 20.0  # at twice the count and 20 more it is below 1e-6
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if _at_most(count, middle) > probability:
            low = middle
        else:
            high = middle
    return high


def _at_most(count: int, mean: float) -> float:
    """The probability of at most so many events of a Poisson distribution."""
    return sum(exp(k * log(mean) - mean - lgamma(k + 1)) for k in range(count + 1))
