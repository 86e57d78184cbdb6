"""ADWIN: a window that shrinks when its newer part has another mean than the older one."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Mapping
from typing import Any

from .base import STALE_AFTER, above_zero, at_least
from .river_drift import RiverMonitor
from .scale import WARM_UP, make_scale
from .types import ParameterError


class Adwin(RiverMonitor):
    """River's ADWIN on robust z, and only where the mean has risen above the level.

    ADWIN finds changes of either direction, the end of a fast fall among them; here a change counts if the
    mean of what is left of its window is higher than before, and ``rise`` noises above the level. The score
    is that mean.

    Args:
        signal: the signal's name.
        window: previous values that level and noise come from.
        warm_up: measurements before it judges.
        delta: ADWIN's confidence: the probability of a false alarm where the values are independent.
        rise: noises that the new mean must be above the level.
        log: judge the logarithm; None goes by the signal's name.
        stale_after: ticks without a measurement until the reading is STALE.

    Raises:
        ParameterError: a parameter is out of range.

    Source: A. Bifet, R. Gavalda, Learning from time-changing data with adaptive windowing, SDM 2007.

    >>> from random import Random
    >>> from midcourse import Sample
    >>> noise, adwin = Random(0), Adwin("loss")
    >>> for tick in range(400):
    ...     reading = adwin.update(Sample(tick, tick, 0, {"loss": noise.gauss(2, 0.1) + 0.3 * (tick >= 280)}))
    ...     if reading.bad:
    ...         break
    >>> tick, reading.onset
    (319, 274)
    """

    false_alarms_per_100k = 5.0
    step_noises = 3.0
    step_delay = 80

    lateness = 45

    def __init__(
        self,
        signal: str,
        *,
        window: int = 512,
        warm_up: int = WARM_UP,
        delta: float = 0.002,
        rise: float = 0.5,
        log: bool | None = None,
        stale_after: int = STALE_AFTER,
    ) -> None:
        from river.drift import ADWIN  # here: river takes a second to load, and a policy may not name it

        above_zero("delta", delta)
        if delta >= 1:
            raise ParameterError("delta", f"delta must be below 1, got {delta}")
        at_least("rise", 0, rise)
        super().__init__(signal, make_scale(signal, window, warm_up, log), rise, stale_after)
        self._detector: Any = ADWIN(delta=delta)  # type: ignore[no-untyped-call]

    def _drifts(self, z: float) -> tuple[float, bool]:
        detector = self._detector
        before = detector.estimation
        detector.update(z)
        mean = detector.estimation
        found = detector.drift_detected
        # River would forget the whole window with the next value. ADWIN itself goes on with the newer part,
        # and needs to: a first cut often leaves too much of the old values to tell where the mean has gone.
        detector._drift_detected = False
        return mean, found and mean > before and mean > self.threshold

    def _restart(self) -> None:
        self._detector = self._detector.clone()

    def state_dict(self) -> dict[str, Any]:
        """All of its state; river's histogram as the bytes that it is pickled as, without a pickle around."""
        helper = b64encode(self._detector._helper.__getstate__()).decode()
        return {**super().state_dict(), "detector": helper}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state from ``state_dict``: later readings are identical to the source's."""
        super().load_state_dict(state)
        self._restart()
        self._detector._helper.__setstate__(b64decode(state["detector"]))
