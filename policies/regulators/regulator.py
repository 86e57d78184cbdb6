"""One regulator: a law on its cadence, fed with fresh finite measurements, kept within its bounds."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any

from .law import MIX, Law, Numbers, RegulatorSpec
from .registry import LAWS
from .shares import fill

LEAST_MOVE = 0.01
"""A share that moved by less, or a factor by a smaller share of itself, is not put in force by itself."""

_HUGE = 1e300
# What is larger would overflow a sum, and is no measurement.

NO_MIXTURE = "the training loader is not a Mixture, so there are no shares to set"


class Regulator:
    """Turns a run's signals into shares of its sources, or into a factor, one update every so many ticks.

    Between two updates the finite measurements of each signal are averaged; the law gets the means. What
    comes out keeps floor, ceiling and rate. Ticks are counted by the samples taken, so that a run which was
    led back comes to the same updates again.

    Args:
        spec: as the policy writes it.
        law: its law; None: a new one of the table.
    """

    def __init__(self, spec: RegulatorSpec, law: Law | None = None) -> None:
        self.spec = spec
        self.values: dict[str, float] = {}
        """What is wanted now, within the bounds: a share of each source, or the factor under ``""``."""
        self._law = law or LAWS[spec.law](**spec.params)
        self._fresh = self._law.state_dict()
        self._own: dict[str, float] = {}
        self._user: dict[str, float] = {}  # what holds without the regulator
        self._began: dict[str, float] = {}  # the same, led within the bounds
        self._told: dict[str, float] = {}  # what was news last
        self._watched: dict[str, str] = {}  # the signal of each source
        self._sums: dict[str, tuple[float, int]] = {}
        self._ticks = 0

    @property
    def sets_shares(self) -> bool:
        """Whether it sets the shares of all sources; else it gives one factor."""
        return self._law.sets_shares

    def start(self, shares: Numbers | None) -> None:
        """Begin to regulate, or go on with other sources: those that are known keep their shares.

        Args:
            shares: the user's own ones of the sources that are drawn from, summing to 1; None: no mixture.

        Raises:
            ValueError: it cannot; the message says why.
        """
        spec, own = self.spec, dict(shares or {})
        if spec.actuator == "lr":
            own = {"": 1.0}
        elif not own:
            raise ValueError(NO_MIXTURE)
        elif spec.actuator != MIX:
            name = spec.actuator.partition("/")[2]
            if name not in own:
                raise ValueError(f"no source '{name}' is drawn from; there are {', '.join(own)}")
            own = {"": own[name]}
        elif (least := len(own) * spec.floor) > 1.0 + 1e-9:
            raise ValueError(f"floor {spec.floor:g} for {len(own)} sources is {least:g}, more than there is")
        elif (most := len(own) * spec.ceiling) < 1.0 - 1e-9:
            raise ValueError(
                f"ceiling {spec.ceiling:g} for {len(own)} sources is {most:g}, less than there is"
            )
        self._law.start(own)
        if own != self._own:
            self._own = own
            self._start_over(self.values)

    def take(self, signals: Numbers) -> bool:
        """Take one tick's signals; whether there is news to put in force. Raises what the law raises."""
        for name, signal in self._watched.items():
            value = signals.get(signal)
            if value is not None and -_HUGE < value < _HUGE:
                total, count = self._sums.get(name, (0.0, 0))
                self._sums[name] = total + value, count + 1
        self._ticks += 1
        if self._ticks < self.spec.every or not self._sums:
            return False
        measured = {name: total / count for name, (total, count) in self._sums.items()}
        self._ticks, self._sums = 0, {}
        wanted = self._law.update(measured, self.values)
        if wanted.keys() != self.values.keys() or not all(map(isfinite, wanted.values())):
            raise ValueError(f"the law gave {dict(wanted)}")
        self.values = self._bounded(wanted)
        return self._is_news()

    def ordered(self) -> dict[str, float]:
        """What is to be in force, by target: the factor on ``lr``, a source's share by ``weight/NAME``.

        Nothing as long as there was no news: then the user's own value is.
        """
        if not self._told:
            return {}
        if self._law.sets_shares:
            return {f"weight/{name}": share for name, share in self._told.items()}
        return {self.spec.actuator: self._told[""] * self._own[""]}

    def shown(self) -> dict[str, float]:
        """What it gives now: shares by ``weight/NAME``, or the factor by its actuator."""
        if self._law.sets_shares:
            return {f"weight/{name}": share for name, share in self.values.items()}
        return {self.spec.actuator: self.values[""]}

    def state_dict(self) -> dict[str, Any]:
        """All of its state, as JSON."""
        return {
            "written": str(self.spec),
            "law": self._law.state_dict(),
            "own": dict(self._own),
            "values": dict(self.values),
            "began": dict(self._began),
            "told": dict(self._told),
            "sums": {name: list(pair) for name, pair in self._sums.items()},
            "ticks": self._ticks,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state of the same regulator on the same sources; from any other it begins anew."""
        if state.get("written") != str(self.spec) or state["own"] != self._own:
            self._start_over({})
            self._law.load_state_dict(self._fresh)
            return
        self._law.load_state_dict(state["law"])
        self.values, self._told = dict(state["values"]), dict(state["told"])
        self._began = dict(state["began"])
        self._sums = {name: (total, count) for name, (total, count) in state["sums"].items()}
        self._ticks = state["ticks"]

    def _is_news(self) -> bool:
        """Whether so much has changed since the last news that it is worth putting in force."""
        before = self._told or self._user
        least = LEAST_MOVE if self.sets_shares else LEAST_MOVE * before[""]
        if all(abs(value - before[name]) < min(least, self.spec.rate) for name, value in self.values.items()):
            return False
        self._told = dict(self.values)
        return True

    def _start_over(self, known: Numbers) -> None:
        """From the user's own values, but for what is known of a source already."""
        own = self._own
        self._ticks, self._sums, self._told = 0, {}, {}
        self._watched = {name: self.spec.signal.replace("*", name) for name in own}
        self._user = own if self._law.sets_shares else dict.fromkeys(own, 1.0)
        self.values = {name: known.get(name, value) for name, value in self._user.items()}
        if own:
            self.values = self._within(self.values, {}, {})
        self._began = dict(self.values)

    def _bounded(self, wanted: Numbers) -> dict[str, float]:
        """The rate counts from what is in force: what was not worth putting there is part of a later move."""
        rate, held = self.spec.rate, self._told or self._began
        low = {name: value - rate for name, value in held.items()}
        return self._within(wanted, low, {name: value + rate for name, value in held.items()})

    def _within(self, wanted: Numbers, low: Numbers, high: Numbers) -> dict[str, float]:
        """Floor and ceiling go before other bounds."""
        floor, ceiling = self.spec.floor, self.spec.ceiling
        lowest = {name: min(max(low.get(name, floor), floor), ceiling) for name in wanted}
        highest = {name: max(min(high.get(name, ceiling), ceiling), floor) for name in wanted}
        if self._law.sets_shares:
            return fill(wanted, lowest, highest)
        return {name: min(max(value, lowest[name]), highest[name]) for name, value in wanted.items()}
