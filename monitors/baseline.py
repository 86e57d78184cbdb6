"""Baseline: level and noise of a signal, for expressions. Never alarms."""

from __future__ import annotations

from collections.abc import Sequence
from math import nan

from .base import STALE_AFTER, ScaledMonitor
from .calm import ANYTHING, Leeway
from .scale import make_scale


class Baseline(ScaledMonitor):
    """Keeps what is normal for a signal: its score is z, how many noises it lies above its level.

    Args:
        signal: the signal's name.
        window: previous values that count. Short, so that the level says where the signal is by now.
        warm_up: measurements before the first level.
        log: judge the logarithm; None goes by the signal's name.
        stale_after: ticks without a measurement until the reading is STALE.

    Raises:
        ParameterError: a parameter is out of range.

    >>> from midcourse import Sample
    >>> baseline = Baseline("loss")
    >>> for tick, loss in enumerate([2.0, 2.1, 1.9, 2.0] * 10):
    ...     reading = baseline.update(Sample(tick, tick, 0, {"loss": loss}))
    >>> reading.health.value, reading.level
    ('ok', 2.0)
    """

    def __init__(
        self,
        signal: str,
        *,
        window: int = 64,
        warm_up: int = 16,
        log: bool | None = None,
        stale_after: int = STALE_AFTER,
    ) -> None:
        super().__init__(signal, make_scale(signal, window, warm_up, log), nan, stale_after)

    def _leeway(self) -> Leeway:
        return ANYTHING

    def _judge_all(self, ticks: list[int], zs: Sequence[float]) -> float:
        return zs[-1]

    def _judge(self, tick: int, z: float) -> tuple[float, int | None]:
        return z, None

    def _forget(self) -> None:
        """It gathers no evidence."""
