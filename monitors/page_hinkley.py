"""Page-Hinkley: a cumulative sum against the mean of all that came before."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .base import STALE_AFTER, above_zero, at_least
from .river_drift import RiverMonitor
from .scale import WARM_UP, make_scale

_SUMS = ("_sum_increase", "_sum_decrease", "_min_increase", "_max_decrease")


class PageHinkley(RiverMonitor):
    """River's PageHinkley, upwards, on the part of robust z that is above zero.

    It compares with the mean of the whole history, so on z itself the end of a fast fall, where z goes from
    below zero to zero, would look like a rise. The score is the sum that ``threshold`` is compared with; it
    begins anew with each alarm, so it does not tell how often another threshold would alarm.

    Args:
        signal: the signal's name.
        window: previous values that level and noise come from.
        warm_up: measurements before it judges.
        delta: noises of a rise that count as none.
        threshold: accumulated noises that alarm.
        log: judge the logarithm; None goes by the signal's name.
        stale_after: ticks without a measurement until the reading is STALE.

    Raises:
        ParameterError: a parameter is out of range.

    Source: D. V. Hinkley, Inference about the change-point from cumulative sum tests, Biometrika 58 (1971).

    >>> from random import Random
    >>> from midcourse import Sample
    >>> noise, page_hinkley = Random(0), PageHinkley("loss")
    >>> for tick in range(300):
    ...     loss = noise.gauss(2, 0.1) + 0.3 * (tick >= 280)
    ...     reading = page_hinkley.update(Sample(tick, tick, 0, {"loss": loss}))
    ...     if reading.bad:
    ...         break
    >>> tick, reading.onset
    (290, 274)
    """

    false_alarms_per_100k = 5.0
    step_noises = 3.0
    step_delay = 20
    lateness = 45

    def __init__(
        self,
        signal: str,
        *,
        window: int = 512,
        warm_up: int = WARM_UP,
        delta: float = 0.5,
        threshold: float = 20.0,
        log: bool | None = None,
        stale_after: int = STALE_AFTER,
    ) -> None:
        from river.drift import PageHinkley as RiverPageHinkley  # here: river takes a second to load

        at_least("delta", 0, delta)
        above_zero("threshold", threshold)
        super().__init__(signal, make_scale(signal, window, warm_up, log), threshold, stale_after)
        self._detector: Any = RiverPageHinkley(delta=delta, threshold=threshold, mode="up")

    def _drifts(self, z: float) -> tuple[float, bool]:
        detector = self._detector
        detector.update(max(z, 0.0))
        return detector._sum_increase - detector._min_increase, detector.drift_detected

    def _restart(self) -> None:
        self._detector = self._detector.clone()

    def state_dict(self) -> dict[str, Any]:
        """All of its state, river's sums included."""
        detector = self._detector
        sums = {name: str(float(getattr(detector, name))) for name in _SUMS}  # one begins at infinity
        mean = {"n": detector._x_mean.n, "_mean": detector._x_mean._mean}
        return {**super().state_dict(), "sums": sums, "mean": mean, "drift": detector.drift_detected}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state from ``state_dict``: later readings are identical to the source's."""
        super().load_state_dict(state)
        self._restart()
        detector = self._detector
        for name in _SUMS:
            setattr(detector, name, float(state["sums"][name]))
        detector._x_mean.n, detector._x_mean._mean = state["mean"]["n"], state["mean"]["_mean"]
        detector._drift_detected = state["drift"]
