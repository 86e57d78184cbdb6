"""Frozen: the parameters do not move any more."""

from __future__ import annotations

from typing import ClassVar

from .base import STALE_AFTER, SignalMonitor, at_least
from .calm import Calm
from .scale import LEAST
from .types import Health, Reading


class Frozen(SignalMonitor):
    """Finds updates of exactly 0: a learning rate that is 0, parameters that the optimizer does not have.

    The loss says nothing of it for long. One update of 0 is none: a loss scaler may have skipped the step.
    Before the first update a run may stand still for longer: a warm-up begins at a learning rate of 0, and a
    loss scaler that begins at 2**16 is halved up to 16 times, skipping a step each time. Nothing is
    estimated, so there is no warm-up.

    Args:
        signal: the signal's name.
        zeros: measurements of exactly 0 in a row that alarm.
        zeros_at_start: the same, before the first that was not 0.
        stale_after: ticks without a measurement until the reading is STALE.

    Raises:
        ParameterError: a parameter is out of range.

    >>> from midcourse import Sample
    >>> frozen = Frozen()
    >>> for tick, ratio in enumerate([0.0, 0.002, 0.003, 0.0, 0.0]):
    ...     reading = frozen.update(Sample(tick, tick, 0, {"update_ratio": ratio}))
    >>> reading.health.value, reading.onset
    ('alarm', 3)
    """

    _state: ClassVar[tuple[str, ...]] = (*SignalMonitor._state, "_in_a_row", "_since", "_moved")

    def __init__(
        self,
        signal: str = "update_ratio",
        *,
        zeros: int = 2,
        zeros_at_start: int = 20,
        stale_after: int = STALE_AFTER,
    ) -> None:
        at_least("zeros", 1, zeros)
        at_least("zeros_at_start", 1, zeros_at_start)
        super().__init__(signal, stale_after)
        self._zeros = zeros
        self._zeros_at_start = zeros_at_start
        self._in_a_row = 0
        self._since = 0
        self._moved = False

    def _take(self, tick: int, value: float) -> Reading:
        if value != 0.0:
            self._in_a_row = 0
            self._moved = True
        else:
            self._since = self._since if self._in_a_row else tick
            self._in_a_row += 1
        count, most = float(self._in_a_row), float(self._zeros if self._moved else self._zeros_at_start)
        if count < most:
            return Reading(Health.OK, tick, value, count, most)
        reason = f"{self._signal} is exactly 0 since tick {self._since}: nothing is learnt"
        return Reading(Health.ALARM, tick, value, count, most, self._since, reason=reason)

    def calm(self) -> Calm | None:
        """Once it moves, nothing that is above 0."""
        return Calm(low=LEAST) if self._moved and not self._in_a_row and self._at_ease else None

    def _take_all(self, ticks: list[int], values: list[float]) -> Reading:
        return Reading(Health.OK, ticks[-1], values[-1], 0.0, float(self._zeros))

    def _forget(self) -> None:
        self._in_a_row = 0
