"""Changes of the run that are meant: what they do to each signal, so that monitors expect it.

They are read off the samples themselves, so that the same samples give the same readings for ever:

- ``lr``: a learning rate that changes fast. Down is always meant. Up is meant as far as the run has been
  before (a warm restart, an override that ends); one that is higher than ever is a fault until announced.
- ``expected_change``: something was announced with this sample. ``expected_change/NAME`` name the signals
  that it moves (without any: all of them), ``mix/SOURCE`` are the shares of the data sources from now on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from math import inf
from typing import Any

from .types import Sample

MARK = "expected_change"
"""Signal that says, with any value: what changes from this sample on was announced."""

MIX_PREFIX = "mix/"
"""Prefix of the data sources' shares, told where they change."""

_FAST = 1.25
_WITHIN = 32  # ticks
# A rate that changes by a quarter within 32 ticks. A cosine does so in its last 290 ticks only, a linear
# decay in its last 160; a restart, a step, an override at once.
_SUDDEN = 1.1  # within one tick
_HIGHER = 1.05  # over the highest rate so far: still one that the run has known
_MIX_MOVES = 0.1
# Share of the data that comes from other sources than before: with less, the loss moves by less than a noise.

_DRIVEN_BY_MIX = ("loss", "grad_norm", "update_ratio", "moment_lag")


class Way(Enum):
    """Directions in which a signal may change."""

    UP = "up"
    DOWN = "down"
    EITHER = "either"

    def meets(self, other: Way) -> bool:
        """Whether a change this way could be taken for one the other way."""
        return Way.EITHER in (self, other) or self is other


class Kind(Enum):
    """What a change does to a signal.

    MOVES: it goes to another level at once, which nobody knows. SCALES: it is multiplied by a known
    factor. TURNS: it takes another course from where it is.
    """

    MOVES = "moves"
    SCALES = "scales"
    TURNS = "turns"


@dataclass(frozen=True, slots=True)
class Effect:
    """What a change that was meant, with the sample of ``tick``, does to one signal.

    What it could explain must at first be ``1 + doubt`` times as far off as usual to count, ever less then:
    an intended rise has a few noises, what breaks has dozens. A move goes no further than ``room``, a share
    of the level.
    """

    tick: int
    kind: Kind
    way: Way = Way.EITHER
    factor: float = 1.0
    doubt: float = 0.0
    room: float = inf


@dataclass(frozen=True, slots=True)
class Change:
    """What was meant to change with the sample of ``tick``.

    ``rate`` is the factor by which the learning rate changed since it was last told, None if it did not;
    ``slow`` says that it did so as schedules do, ``sudden`` that it jumped. ``mix`` is the share of the data
    that comes from other sources than before. ``names`` are the signals that were announced, those below them
    too.
    """

    tick: int
    rate: float | None = None
    mix: float = 0.0
    names: frozenset[str] = frozenset()
    everything: bool = False
    sudden: bool = False
    slow: bool = False

    def effect_on(self, signal: str) -> Effect | None:
        """What it does to a signal; None if nothing.

        A source's own loss and an evaluation do not depend on the mix. The size of an update goes with the
        learning rate at once, a loss and the norms take another course from where they are.
        """
        family, _, instance = signal.partition("/")
        announced = self.everything or not self.names.isdisjoint((signal, family))
        if announced:
            return Effect(self.tick, Kind.MOVES, doubt=_doubt(family))
        if self.mix and family in _DRIVEN_BY_MIX and not instance:
            # Other data in a share of the batch moves the mean loss by that share of how far the sources'
            # losses lie apart; by more than the level itself they seldom do.
            room = self.mix if family == "loss" else inf
            return Effect(self.tick, Kind.MOVES, doubt=self.mix * _doubt(family), room=room)
        if self.rate is None or family == "lr":
            return None
        doubt = _doubt(family) if self.sudden else 0.0
        if family == "update_ratio":
            return Effect(self.tick, Kind.SCALES, factor=self.rate, doubt=doubt)
        if self.slow:
            return None
        if family == "loss":
            return Effect(self.tick, Kind.TURNS, Way.UP if self.rate > 1 else Way.DOWN, doubt=doubt)
        return Effect(self.tick, Kind.TURNS, doubt=doubt)


def _doubt(family: str) -> float:
    """A loss moves less than the norms do, and what is blind to it is blind to all."""
    return 1.0 if family == "loss" else 2.0


class ChangeWatch:
    """Reads off the samples what was meant to change.

    >>> watch = ChangeWatch()
    >>> rates = [1e-3] * 50 + [1e-4] * 50 + [1e-3] * 50 + [1e-2]
    >>> changes = [watch.take(Sample(tick, tick, 0, {"lr": rate})) for tick, rate in enumerate(rates)]
    >>> [(change.tick, round(change.rate, 3)) for change in changes if change]
    [(50, 0.1), (100, 10.0)]
    """

    __slots__ = ("_anchor", "_highest", "_last", "_shares", "_since")

    def __init__(self) -> None:
        self._anchor = 0.0  # the rate that the present one is compared with, and since which tick
        self._since = 0
        self._highest = 0.0
        self._last = 0.0
        self._shares: dict[str, float] = {}  # of the sources, at the last change that counted

    def take(self, sample: Sample) -> Change | None:
        """What was meant to change with this sample; None, as a rule."""
        signals = sample.signals
        rate = signals.get("lr", 0.0)
        announced = MARK in signals
        anchor, last = self._anchor, self._last
        self._last = rate if rate < inf else 0.0  # nor NaN: it is state, which is JSON
        if not announced and anchor / _FAST <= rate <= anchor * _FAST:
            if sample.tick - self._since < _WITHIN:
                return None
            self._anchor, self._since = rate, sample.tick
            known = rate <= self._highest and 0 < anchor != rate > 0
            self._highest = max(rate, self._highest)
            return Change(sample.tick, rate / anchor, slow=True) if known else None
        return self._look(sample, rate, last, announced)

    def _look(self, sample: Sample, rate: float, last: float, announced: bool) -> Change | None:
        names = frozenset(n.removeprefix(f"{MARK}/") for n in sample.signals if n.startswith(f"{MARK}/"))
        shares = {n: value for n, value in sample.signals.items() if n.startswith(MIX_PREFIX)}
        everything = announced and not names and not shares
        mix = self._moved(shares) if announced else 0.0
        factor = self._changed(sample.tick, rate, permitted=everything or "lr" in names)
        if factor is None and not mix and not names and not everything:
            return None
        sudden = not last / _SUDDEN <= rate <= last * _SUDDEN
        return Change(sample.tick, factor, mix, names, everything, sudden=sudden)

    def _changed(self, tick: int, rate: float, *, permitted: bool) -> float | None:
        """By which factor the rate changed, if fast, and as the run has known it before."""
        if not 0 < rate < inf:  # none, or not measured: nothing to compare
            return None
        anchor, known = self._anchor, rate <= _HIGHER * self._highest
        self._highest = max(self._highest, rate)
        if anchor / _FAST <= rate <= anchor * _FAST:
            return None
        self._anchor, self._since = rate, tick
        if anchor == 0 or not (known or permitted):
            return None
        return rate / anchor

    def _moved(self, shares: Mapping[str, float]) -> float:
        """Share of the data that comes from other sources than before, if much; the first tell nothing."""
        before = self._shares
        names = {*shares, *before}
        apart = sum(abs(shares.get(name, 0.0) - before.get(name, 0.0)) for name in names) / 2
        if not shares or (before and apart < _MIX_MOVES):
            return 0.0
        self._shares = dict(shares)
        return apart if before else 0.0

    def state_dict(self) -> dict[str, Any]:
        """All of its state."""
        return {
            "anchor": self._anchor,
            "since": self._since,
            "highest": self._highest,
            "last": self._last,
            "shares": dict(self._shares),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state."""
        self._anchor, self._since = state["anchor"], state["since"]
        self._highest, self._last, self._shares = state["highest"], state["last"], dict(state["shares"])
