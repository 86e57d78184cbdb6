"""Scarce: evidence that adds up to more than chance, as that next to nothing comes of a data source."""

from __future__ import annotations

from typing import ClassVar

from .base import STALE_AFTER, SignalMonitor
from .calm import LEAST_ROOM, Calm
from .changes import Way
from .cusum import Cusum
from .types import Health, Reading


class Scarce(SignalMonitor):
    """Finds a data source of which far less comes than is asked of it.

    Its signal, ``supply/source=NAME``, is the evidence of one step in nats: the logarithm of how much more
    likely the number of the source's examples is if all come than if three in ten do, by Poisson's law.
    S <- max(0, S + min(-evidence, clip)), alarm at S > threshold: by chance it does so in at most one of
    exp(threshold) ticks, however small the batches are. The onset is the first measurement after S was
    last 0.

    A source's loss rises where it is scarce, since it is forgotten: what helps then is the contrary of what
    helps against bad data.

    Args:
        signal: the signal's name.
        threshold: nats that alarm.
        clip: the most that one measurement can add, so that none alarms alone.
        stale_after: ticks without a measurement until the reading is STALE.

    Raises:
        ParameterError: a parameter is out of range.

    Source: a sequential probability ratio test that begins anew at 0: A. Wald, Sequential Analysis (1947);
    E. S. Page, Continuous inspection schemes, Biometrika 41 (1954).

    >>> from math import log
    >>> from random import Random
    >>> from midcourse import Sample
    >>> draw, scarce = Random(0), Scarce("supply/source=code")
    >>> for tick in range(400):
    ...     came = sum(draw.random() < (0.3 if tick < 300 else 0.02) for _ in range(16))
    ...     evidence = -0.7 * 0.3 * 16 - log(0.3) * came
    ...     reading = scarce.update(Sample(tick, tick, 0, {"supply/source=code": evidence}))
    ...     if reading.bad:
    ...         break
    >>> tick, reading.onset
    (304, 299)
    """

    looks = Way.DOWN
    false_alarms_per_100k = 0.1
    lateness = 2
    _state: ClassVar[tuple[str, ...]] = (*SignalMonitor._state, "_cusum")

    def __init__(
        self, signal: str, *, threshold: float = 16.0, clip: float = 8.0, stale_after: int = STALE_AFTER
    ) -> None:
        self._cusum = Cusum(0.0, threshold, clip)
        super().__init__(signal, stale_after)
        self.threshold = threshold

    def _take(self, tick: int, value: float) -> Reading:
        score = self._cusum.add(tick, -value)
        onset, threshold = self._cusum.onset, self.threshold
        if onset is None:
            return Reading(Health.OK, tick, value, score, threshold)
        reason = f"{self._signal}: {score:.3g} nats since tick {onset}, alarm at {threshold:g}"
        return Reading(Health.ALARM, tick, value, score, threshold, onset, reason=reason)

    def calm(self) -> Calm | None:
        """All that it can bear is so much evidence against the source."""
        room = self._cusum.room if self._at_ease else 0.0
        return None if room < LEAST_ROOM else Calm(below=0.0, fall=room * (1 - 1e-6))

    def _take_all(self, ticks: list[int], values: list[float]) -> Reading:
        score = self._cusum.add_all(ticks, [-value for value in values])
        return Reading(Health.OK, ticks[-1], values[-1], score, self.threshold)

    def _forget(self) -> None:
        self._cusum.reset()
