"""What others use to watch a training run, from their formulas and constants, in our own words.

Each takes one sample and says whether it alarms, acts or throws away at this one. ``loss`` and ``grad_norm``
are handed over as they were measured, NaN included: what a peer does with that is its own affair.

The three of river are its own classes on the raw loss, with their defaults.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from math import isfinite, nan, sqrt
from typing import Any, Protocol

from river.drift import ADWIN, KSWIN
from river.drift import PageHinkley as RiverPageHinkley


class Peer(Protocol):
    """Takes the signals of one sample; says whether it does something about it."""

    def alarms(self, loss: float, grad_norm: float | None) -> bool:
        """Whether it raises its hand at this sample."""
        ...


class River:
    """A drift detector of river, on the raw loss."""

    def __init__(self, detector: Any) -> None:
        self._detector = detector

    def alarms(self, loss: float, grad_norm: float | None) -> bool:
        """Whether it has found a drift with this value."""
        self._detector.update(loss)
        return bool(self._detector.drift_detected)


class _Window:
    """Mean and standard deviation of the last values, which NaN spoils until it has left."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._values: deque[float] = deque()
        self._sum = self._squares = 0.0

    def __len__(self) -> int:
        return len(self._values)

    def push(self, value: float) -> None:
        values = self._values
        values.append(value)
        gone = values.popleft() if len(values) > self._size else 0.0
        self._sum += value - gone
        self._squares += value * value - gone * gone
        # Sums that are corrected for ever lose their digits to whatever large value has passed through.
        if gone > 1e3 * abs(value) or not isfinite(self._squares):
            self._sum, self._squares = sum(values), sum(each * each for each in values)

    @property
    def mean(self) -> float:
        return self._sum / len(self._values) if self._values else nan

    @property
    def deviation(self) -> float:
        count = len(self._values)
        variance = (self._squares - self._sum * self._sum / count) / (count - 1)
        return sqrt(variance) if variance > 0 else (0.0 if variance <= 0 else nan)


class SkipStep:
    """OLMo-core's SkipStepOptimizer: no step whose loss or gradient norm is 6 deviations above the mean.

    Over the last 128 steps, from the 64th on. What was skipped enters the baseline like everything else.
    """

    def __init__(self, window: int = 128, sigmas: float = 6.0) -> None:
        self._least = window // 2
        self._sigmas = sigmas
        self._losses = _Window(window)
        self._norms = _Window(window)

    def alarms(self, loss: float, grad_norm: float | None) -> bool:
        """Whether the step would be skipped."""
        skip = self._high(self._losses, loss)
        if grad_norm is not None:
            skip = self._high(self._norms, grad_norm) or skip
        return skip

    def _high(self, window: _Window, value: float) -> bool:
        judged = len(window) >= self._least
        high = judged and not value - window.mean <= self._sigmas * window.deviation  # NaN is never below
        window.push(value)
        return high


class ZClip:
    """ZClip: a gradient norm more than 2.5 deviations above its moving mean is clipped.

    Mean and variance are moving averages (0.97) that begin with the first 25 values, and are fed the clipped
    value, ``taken``. Where no gradient norm was recorded, it is given the loss.
    """

    def __init__(self, alpha: float = 0.97, threshold: float = 2.5, warm_up: int = 25) -> None:
        self._alpha = alpha
        self._threshold = threshold
        self._warm_up = warm_up
        self._first: list[float] = []
        self._mean = self._variance = nan
        self.taken = nan

    def alarms(self, loss: float, grad_norm: float | None) -> bool:
        """Whether this gradient would be clipped."""
        value = self.taken = loss if grad_norm is None else grad_norm
        first = self._first
        if len(first) < self._warm_up:
            first.append(value)
            if len(first) == self._warm_up:
                self._mean = sum(first) / len(first)
                self._variance = sum((each - self._mean) ** 2 for each in first) / len(first)
            return False
        deviation = sqrt(self._variance) + 1e-6
        z = (value - self._mean) / deviation
        clipped = z > self._threshold
        if clipped:
            value = self.taken = self._mean + self._threshold * deviation * self._threshold / z
        change = value - self._mean
        self._mean += (1 - self._alpha) * change
        self._variance = self._alpha * self._variance + (1 - self._alpha) * (value - self._mean) ** 2
        return clipped


class KillLossSpike:
    """llm-foundry's callback: the run ends at a loss of twice the mean, more than 5 steps in a row.

    The mean is that of the last 100 steps, or of 5 % of the run where that is more.
    """

    def __init__(self, steps: int = 0, multiplier: float = 2.0, patience: int = 5) -> None:
        self._size = max(100, steps // 20)
        self._window = _Window(self._size)
        self._multiplier = multiplier
        self._patience = patience
        self._high = 0

    def alarms(self, loss: float, grad_norm: float | None) -> bool:
        """Whether the run would be ended."""
        full = len(self._window) == self._size
        self._high = self._high + 1 if full and loss >= self._multiplier * self._window.mean else 0
        self._window.push(loss)
        return self._high >= self._patience


class SpikeDetection:
    """Lightning's callback: a loss that differs from the mean of the last 10 by twice that mean.

    A loss below the last one is no spike, and a spike does not enter the mean; what is not finite is one.
    """

    def __init__(self, window: int = 10, tolerance: float = 2.0) -> None:
        self._window = _Window(window)
        self._tolerance = tolerance
        self._last = nan

    def alarms(self, loss: float, grad_norm: float | None) -> bool:
        """Whether the batch is written down as a spike."""
        mean, last = self._window.mean, self._last
        if not isfinite(loss):
            return True
        if len(self._window) and not loss < last and abs(loss - mean) >= self._tolerance * abs(mean):
            return True
        self._window.push(loss)
        self._last = loss
        return False


class TenTimes:
    """Megatron-LM's check: more than 10 times the largest of the first 100 values."""

    def __init__(self, samples: int = 100, factor: float = 10.0) -> None:
        self._left = samples
        self._factor = factor
        self._largest = 0.0

    def alarms(self, loss: float, grad_norm: float | None) -> bool:
        """Whether the value is unexpectedly large."""
        if not isfinite(loss):
            return True
        if self._left:
            self._left -= 1
            self._largest = max(self._largest, abs(loss))
            return False
        return abs(loss) > self._factor * self._largest


PEERS: dict[str, Callable[[int], Peer]] = {
    "ADWIN, raw": lambda steps: River(ADWIN()),  # type: ignore[no-untyped-call]
    "PageHinkley, raw": lambda steps: River(RiverPageHinkley()),
    "KSWIN, raw": lambda steps: River(KSWIN(seed=0)),
    "OLMo SkipStep": lambda steps: SkipStep(),
    "ZClip": lambda steps: ZClip(),
    "KillLossSpike": KillLossSpike,
    "Lightning SpikeDetection": lambda steps: SpikeDetection(),
    "Megatron 10x": lambda steps: TenTimes(),
}
"""Each peer by name; made for a run of so many steps, which one of them asks for."""
