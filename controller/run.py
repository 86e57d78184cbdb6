"""The parts of a running training that actuators may read and change."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any, Protocol

from .clock import Clock, Trail
from .durable.checkpoints import Checkpoints
from .expected import Expected
from .feed import Feed
from .learning_rate import LearningRate
from .mix import Mix
from .overrides import Layers
from .ranks import Ranks
from .ring import Ring
from .training_state import TrainingState

Rollback = Callable[[int, int], None]
"""Told of a rollback: ``(from_step, to_step)``."""


class Detectors(Protocol):
    """What a rollback restores of the sensing side."""

    def state_dict(self) -> dict[str, Any]:
        """State of every monitor, as JSON."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the state over."""
        ...

    def facts(self) -> dict[str, dict[str, float]]:
        """Present readings as numbers."""
        ...


@dataclass(slots=True)
class Run:
    """One training run as its actuators see it. ``feed`` and ``mix`` are None until the loader is known.

    ``rewinds`` is None where data can be rewound, else the reason why it cannot, in words. ``own_state``
    gives what goes on from a durable checkpoint besides the training state, ``horizon`` the step at which the
    loop will end, None where nobody knows. ``until`` is the step after which the run was asked to end,
    ``step_seconds`` what the last one took, ``returned_to`` the tick to which the
    schedule was last taken back, None where the last rollback could not do that.
    """

    accelerator: Any
    optimizer: Any
    directory: Path
    clock: Clock
    trail: Trail
    ranks: Ranks
    layers: Layers
    learning_rate: LearningRate
    ring: Ring
    state: TrainingState
    checkpoints: Checkpoints
    detectors: Detectors = field(init=False)
    feed: Feed | None = None
    mix: Mix | None = None
    rewinds: str | None = None
    expected: Expected = field(default_factory=Expected)
    stopped: str | None = None
    on_rollback: list[Rollback] = field(default_factory=list)
    own_state: Callable[[], Mapping[str, Any]] = dict
    horizon: Callable[[], int | None] = lambda: None
    until: float = inf
    step_seconds: float = 0.0
    returned_to: int | None = None

    def end_if_asked(self) -> None:
        """A fork that was asked for so many steps only comes to its end after them."""
        if self.stopped is None and self.clock.step >= self.until:
            self.stopped = f"the fork was asked for no more than {self.until} steps"
