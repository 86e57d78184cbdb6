"""The data mix in force: the mixture's own weights, or a regulator's, under the live overrides."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from .feed import Feed
from .mixture import Mixture
from .overrides import Layers
from .places import Place

STAGE = 0.05
"""A ramp changes the mix in stages of this size: each change is an entry in the mixture's history."""

COURSE = 1024
"""Changes by regulators that are remembered: as many as a rollback may go back over."""

Shares = Mapping[str, float]


def target(source: str) -> str:
    """The override target of a source's weight."""
    return f"weight/{source}"


class _Regulated(NamedTuple):
    """From the draw ``at`` on these shares hold; that was settled when the next draw was ``settled``."""

    at: int
    settled: int
    shares: Shares


class Mix:
    """Keeps a mixture's weights equal to what regulators and overrides make of its own ones.

    Args:
        mixture: The stream of the training loader.
        feed: Knows which draw comes next, and can have prefetched batches drawn again.
        layers: The live overrides; a weight is a source's share of the mixture as its author set it.
    """

    def __init__(self, mixture: Mixture, feed: Feed, layers: Layers) -> None:
        self.regulated: Shares = {}
        """Shares that regulators set in place of the author's own: the lowest layer, below the overrides."""
        self.mixture = mixture
        self._feed = feed
        self._layers = layers
        self._base = dict(mixture.base_weights)
        self._total = sum(self._base.values())
        self._applied = mixture.weights_at(feed.draw)
        self._course: list[_Regulated] = []
        self._told: Mapping[str, float] | None = None  # the weights that were last told
        self._planned: Shares = {}
        self.told_version = -1
        """Version of the mixture's history up to which there is no ``news``."""

    @property
    def names(self) -> tuple[str, ...]:
        """The sources."""
        return self.mixture.names

    @property
    def own(self) -> dict[str, float]:
        """The shares of the author's own mix, summing to 1, of those sources that it draws from."""
        return {name: weight / self._total for name, weight in self._base.items() if weight > 0.0}

    @property
    def weights(self) -> Mapping[str, float]:
        """The weights that were last put in force: another mapping after every change."""
        return self._applied

    @property
    def applied(self) -> Mapping[str, float]:
        """The shares that were last put in force, before normalisation."""
        return {name: weight / self._total for name, weight in self._applied.items()}

    @property
    def plain(self) -> bool:
        """Whether the author's own weights are in force, and nobody asks for others."""
        return not self._layers.live and not self.regulated and self._applied == self._base

    def news(self) -> Mapping[str, float] | None:
        """The shares of which the newest batch was drawn, summing to 1; None while nothing has changed."""
        if self.told_version == self.mixture.version:
            return None
        weights = self.mixture.weights_at(self._feed.draw - 1)
        if weights == self._applied:  # no change lies ahead any more
            self.told_version = self.mixture.version
        if weights == self._told:
            return None
        self._told = weights
        return _shares(weights)

    @property
    def planned(self) -> Shares:
        """The shares of which the newest batch was drawn, summing to 1."""
        if not self._planned or self.told_version != self.mixture.version:
            self._planned = _shares(self.mixture.weights_at(self._feed.draw - 1))
        return self._planned

    def wanted(self, tick: int) -> dict[str, float]:
        """The weights that regulators and overrides ask for at this tick."""
        return {name: self._wanted(name, base, tick) for name, base in self._base.items()}

    def _wanted(self, name: str, base: float, tick: int) -> float:
        if name in self.regulated:
            return self._layers.value(target(name), self.regulated[name], tick) * self._total
        if not self._layers.touches(target(name)):
            # The author's own number, not one that went through a division: the stream must stay the same.
            return base
        return self._layers.value(target(name), base / self._total, tick) * self._total

    def apply_now(self, tick: int) -> None:
        """Put the wanted weights in force for the very next batch: what was prefetched is drawn again."""
        self._set(self.wanted(tick), self._feed.draw)
        self._feed.refresh()

    def follow(self, tick: int) -> None:
        """Put the wanted weights in force once what is prefetched is consumed; a ramp goes in stages."""
        if self.plain:
            return
        wanted = self.wanted(tick)
        if wanted == self._applied:
            return
        ramps = any(self._layers.fades(target(name), tick) for name in wanted)
        if not ramps or max(abs(wanted[n] - self._applied[n]) for n in wanted) >= STAGE * self._total:
            self._set(wanted, self._feed.draw + self._prefetched())

    def rewind(self, place: Place, tick: int) -> None:
        """Before the feed goes back: forget the abandoned branch's weights, put those of now in force.

        What regulators had settled by then comes in force at the same draws again, so that what is taken
        again is the same.
        """
        draw = self._feed.draw_at(place)
        course = [change for change in self._course if change.settled <= draw]
        ahead = [change for change in course if change.at > draw]
        before = course[: len(course) - len(ahead)]
        self._course = before
        newest = self.regulated
        if ahead and ahead[-1].shares == newest:
            self.regulated = before[-1].shares if before else {}
            self._set(self.wanted(tick), draw, draw)
            for change in ahead:
                self.regulated = change.shares
                self._set(self.wanted(tick), change.at, change.settled)
        else:
            self._set(self.wanted(tick), draw, draw)
        self._told, self.told_version = None, -1  # monitors go back to what they knew there

    def put_back(self, state: Mapping[str, Any]) -> None:
        """Take over a state from ``state_dict`` for the very next batch: what changed since is undone."""
        self.load_state_dict(state)
        self._feed.refresh()

    def state_dict(self) -> dict[str, Any]:
        """The mixture's weight history and the weights in force, as JSON."""
        return {
            "mixture": self.mixture.state_dict(),
            "applied": self._applied,
            "told": self._told,
            "regulated": dict(self.regulated),
            "course": list(map(list, self._course)),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state from ``state_dict``."""
        self.mixture.load_state_dict(state["mixture"])
        self._applied, self._told = dict(state["applied"]), state.get("told")
        self.regulated = dict(state.get("regulated", {}))
        self._course = [_Regulated(*change) for change in state.get("course", ())]

    def _set(self, weights: dict[str, float], at: int, settled: int | None = None) -> None:
        """Let weights hold from the draw ``at`` on; ``settled`` is the draw at which that was decided."""
        if not any(weights.values()):
            # Overrides may end so that no source is left: what is in force stays.
            weights = self._applied
        # A stage of a ramp may be waiting further on; what comes first now is decided now.
        self.mixture.truncate(at)
        self.mixture.set_weights(weights, at=at)
        self._applied = weights
        if self.regulated or self._course:
            settled = self._feed.draw if settled is None else settled
            earlier = [change for change in self._course[-COURSE:] if change.at < at]
            self._course = [*earlier, _Regulated(at, settled, self.regulated)]

    def _prefetched(self) -> int:
        """Draws that may have been made ahead: the workers' queues and Accelerate's one batch."""
        loader = self._feed.loader
        batches = (loader.num_workers or 0) * (loader.prefetch_factor or 0) + 2
        return int(batches) * self._feed.draws_per_batch


def _shares(weights: Mapping[str, float]) -> dict[str, float]:
    total = sum(weights.values())
    return {name: weight / total for name, weight in weights.items()}
