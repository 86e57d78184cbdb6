"""Spike: one measurement far outside of the noise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from .base import STALE_AFTER, ScaledMonitor, above_zero
from .calm import Leeway
from .changes import Way
from .differenced import DifferencedScale
from .scale import WARM_UP, make_scale
from .types import Tuned


class Spike(ScaledMonitor):
    """Finds a lone bad batch: alarms while the value is above ``threshold`` noises, and no longer.

    Healthy runs have such batches too, at up to 29 noises: a reason to look, never to roll back.

    Args:
        signal: the signal's name.
        window: previous values that level and noise come from.
        warm_up: measurements before it judges.
        threshold: noises above the level, where noise is also taken from one value to the next.
        log: judge the logarithm; None goes by the signal's name.
        stale_after: ticks without a measurement until the reading is STALE.

    Raises:
        ParameterError: a parameter is out of range.

    >>> from random import Random
    >>> from midcourse import Sample
    >>> noise, spike = Random(0), Spike("loss")
    >>> losses = [noise.gauss(2, 0.1) + 2 * (tick == 280) for tick in range(300)]
    >>> [tick for tick, loss in enumerate(losses) if spike.update(Sample(tick, tick, 0, {"loss": loss})).bad]
    [280]
    """

    looks = Way.UP
    tuned = Tuned(power=True)
    false_alarms_per_100k = 150.0
    step_noises = 15.0
    step_delay = 0
    _state: ClassVar[tuple[str, ...]] = (*ScaledMonitor._state, "_since")

    def __init__(
        self,
        signal: str,
        *,
        window: int = 128,
        warm_up: int = WARM_UP,
        threshold: float = 10.0,
        log: bool | None = None,
        stale_after: int = STALE_AFTER,
    ) -> None:
        above_zero("threshold", threshold)
        scale = make_scale(signal, window, warm_up, log, DifferencedScale)
        super().__init__(signal, scale, threshold, stale_after)
        self._since: int | None = None

    def _leeway(self) -> Leeway:
        return Leeway(high=self.threshold)

    def _judge_all(self, ticks: list[int], zs: Sequence[float]) -> float:
        return zs[-1]

    def _judge(self, tick: int, z: float) -> tuple[float, int | None]:
        if z <= self.threshold:
            self._since = None
        elif self._since is None:
            self._since = tick
        return z, self._since

    def _forget(self) -> None:
        self._since = None
