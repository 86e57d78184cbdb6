"""What river's drift detectors need before they can watch a training loss, and between two snapshots."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from .base import ScaledMonitor
from .changes import Way
from .cusum import Cusum
from .scale import RobustScale

_CALM = 8
_CLIP = 4.0


class RiverMonitor(ScaledMonitor):
    """A drift detector of river's, fed with robust z instead of the signal.

    The level that z is measured from follows the signal's fall (detrended), z is cut at +-4 (one batch is no
    drift) and nothing that is not finite comes through (one NaN blinds river's detectors for good). Where
    river forgets a drift with the next value, the alarm here lasts until 8 measurements in a row are at most
    one noise above the level. The onset is that of a CUSUM on the same z. Calibrated on losses: a gradient
    norm drifts in healthy runs too.

    Subclasses feed their detector in ``_drifts``.
    """

    looks = Way.UP
    _state: ClassVar[tuple[str, ...]] = (*ScaledMonitor._state, "_rise", "_onset", "_calm")

    def __init__(self, signal: str, scale: RobustScale, threshold: float, stale_after: int) -> None:
        super().__init__(signal, scale, threshold, stale_after)
        self._rise = Cusum(slack=0.5, threshold=20.0, clip=_CLIP)
        self._onset: int | None = None
        self._calm = 0

    @abstractmethod
    def _drifts(self, z: float) -> tuple[float, bool]:
        """Feed the detector; its score, and whether it has just found a rise."""

    @abstractmethod
    def _restart(self) -> None:
        """Give up all that the detector has seen."""

    def _judge(self, tick: int, z: float) -> tuple[float, int | None]:
        z = max(-_CLIP, min(z, _CLIP))
        self._rise.add(tick, z)
        score, found = self._drifts(z)
        self._calm = self._calm + 1 if z <= 1.0 else 0
        if found:
            self._onset = self._rise.since
            self._calm = 0
        elif self._calm >= _CALM:
            self._onset = None
        return score, self._onset

    def _forget(self) -> None:
        self._restart()
        self._rise.reset()
        self._onset = None
        self._calm = 0
