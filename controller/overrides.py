"""Overrides are layers over the user's own values; nothing is ever written into a schedule.

A layer belongs to the decision that added it. It holds for a while, then ramps back to the user's
value, and can be withdrawn at any time: what is left is exactly the composition of the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import Enum
from typing import Any


class Kind(Enum):
    """How a layer meets the value below it."""

    SCALE = "scale"
    SET = "set"


@dataclass(frozen=True, slots=True)
class Layer:
    """One override of one target.

    ``value`` applies in full from tick ``start`` for ``hold`` ticks (None: for good), then fades
    linearly over ``ramp`` ticks. ``target`` is ``lr`` or ``weight/NAME``.
    """

    decision: str
    target: str
    kind: Kind
    value: float
    start: int
    hold: int | None = None
    ramp: int = 0

    def strength(self, tick: int) -> float:
        """0 before it came, 1 while held, falling to 0 over the ramp, 0 when it is over."""
        if tick < self.start:
            return 0.0
        if self.hold is None or tick < self.start + self.hold:
            return 1.0
        faded = tick - (self.start + self.hold)
        return max(0.0, 1.0 - (faded + 1) / (self.ramp + 1))

    def over(self, tick: int) -> bool:
        """Whether nothing of it is left at this tick."""
        return self.hold is not None and tick >= self.start + self.hold + self.ramp


class Layers:
    """All live overrides, and the value that they make of a user's value.

    The newest SET layer replaces the user's value (in part while it ramps); the SCALE layers then
    multiply, in no particular order, because a product has none. Lives outside the snapshot: a
    rollback must not revert the learning-rate cut that came with it.
    """

    def __init__(self) -> None:
        self.live: list[Layer] = []
        """Those in force, as they came; mostly there are none."""

    def __iter__(self) -> Iterator[Layer]:
        return iter(self.live)

    def __bool__(self) -> bool:
        return bool(self.live)

    def add(self, layer: Layer) -> None:
        """Put a layer on top."""
        self.live.append(layer)

    def withdraw(self, decision: str) -> set[str]:
        """Take away what a decision added; returns the targets that this changes."""
        gone = {layer.target for layer in self.live if layer.decision == decision}
        self.live = [layer for layer in self.live if layer.decision != decision]
        return gone

    def clear(self) -> set[str]:
        """Take all of them away; returns the targets that this changes."""
        gone = {layer.target for layer in self.live}
        self.live = []
        return gone

    def expire(self, tick: int) -> set[str]:
        """Drop the layers that are over; returns the targets that they were on."""
        gone = {layer.target for layer in self.live if layer.over(tick)}
        if gone:
            self.live = [layer for layer in self.live if not layer.over(tick)]
        return gone

    def touches(self, target: str) -> bool:
        """Whether any layer is on the target."""
        return any(layer.target == target for layer in self.live)

    def fades(self, target: str, tick: int) -> bool:
        """Whether any layer on the target is on its way out."""
        return any(layer.target == target and layer.strength(tick) < 1.0 for layer in self.live)

    def setting(self, target: str, tick: int) -> tuple[float, float]:
        """Value and strength of the newest SET layer on the target; (0, 0) where there is none."""
        for layer in reversed(self.live):
            if layer.target == target and layer.kind is Kind.SET:
                return layer.value, layer.strength(tick)
        return 0.0, 0.0

    def factor(self, target: str, tick: int) -> float:
        """Product of the SCALE layers on the target."""
        factor = 1.0
        for layer in self.live:
            if layer.target == target and layer.kind is Kind.SCALE:
                strength = layer.strength(tick)
                factor *= 1.0 - strength + layer.value * strength  # at full strength the value, bit for bit
        return factor

    def value(self, target: str, base: float, tick: int, share: float = 1.0) -> float:
        """What the layers make of the user's ``base`` at this tick; a set value counts by its ``share``."""
        value, strength = self.setting(target, tick)
        # Weighted so that the full strength gives the value itself, bit for bit, and none the base.
        base = base * (1.0 - strength) + value * share * strength
        return base * self.factor(target, tick)

    def delay(self, ticks: int) -> None:
        """Make all of them younger: so many ticks were spent on a course that does not count."""
        if ticks:
            self.live = [replace(layer, start=layer.start + ticks) for layer in self.live]

    def state_dict(self) -> list[dict[str, Any]]:
        """The layers as JSON."""
        return [{**asdict(layer), "kind": layer.kind.value} for layer in self.live]

    def load_state_dict(self, state: Sequence[Mapping[str, Any]]) -> None:
        """Take over the layers from ``state_dict``."""
        self.live = [Layer(**{**entry, "kind": Kind(entry["kind"])}) for entry in state]
