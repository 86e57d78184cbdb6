"""Outliers: measurements far outside of the noise, for as long as they come, judged before the step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from .base import STALE_AFTER, ScaledMonitor, above_zero, at_least
from .calm import Leeway
from .changes import Way
from .differenced import DifferencedScale
from .scale import WARM_UP, make_scale
from .types import ParameterError, Reading, Tuned


class Outliers(ScaledMonitor):
    """Finds batches that had better not be trained on: this measurement and others just before are far off.

    It is judged before ``optimizer.step()``, so that a rule can still skip the step. It alarms at the third
    of the last four measurements that is beyond ``threshold``: a lone bad batch, or two, a healthy run has
    too. The alarm lasts until four in a row are not; how many of the last four are beyond it is told as
    ``beyond``, which is 0 at the last measurement of the alarm only, and ``score`` is that of this one. Where
    the weights stay as they are meanwhile, the next batch tells what is to blame: good data ends the alarm,
    and if it lasts the weights are at fault. The onset is the first of the measurements that count.

    A gradient whose norm is a hundred times the usual can do harm alone: ``times: 1, of: 1`` finds it at
    once. Its noise may be small, so ask for the ``ratio`` to the level too.

    Args:
        signal: the signal's name; it must be measured before the optimizer's step, as loss and grad_norm are.
        window: previous values that level and noise come from.
        warm_up: measurements before it judges.
        threshold: noises above the level, where noise is also taken from one value to the next.
        times: so many of the last ``of`` measurements must be beyond it, this one among them.
        of: measurements that are looked at.
        log: judge the logarithm; None goes by the signal's name.
        stale_after: ticks without a measurement until the reading is STALE.

    Raises:
        ParameterError: a parameter is out of range.

    >>> from random import Random
    >>> from midcourse import Sample
    >>> noise, outliers = Random(0), Outliers("loss")
    >>> losses = [noise.gauss(2, 0.1) + 2 * (280 <= tick < 286) for tick in range(300)]
    >>> samples = [Sample(tick, tick, 0, {"loss": loss}) for tick, loss in enumerate(losses)]
    >>> readings = [outliers.update(sample) for sample in samples]
    >>> [(reading.tick, reading.onset) for reading in readings if reading.bad]
    [(282, 280), (283, 280), (284, 280), (285, 280), (286, 280), (287, 280), (288, 280), (289, 280)]
    >>> [reading.extra["beyond"] for reading in readings if reading.bad]
    [3.0, 4.0, 4.0, 4.0, 3.0, 2.0, 1.0, 0.0]
    """

    before_step = True
    extra = ("beyond",)
    looks = Way.UP
    tuned = Tuned(times=3, of=4, power=True)
    false_alarms_per_100k = 5.0
    step_noises = 15.0
    step_delay = 3
    lateness = 2
    _state: ClassVar[tuple[str, ...]] = (*ScaledMonitor._state, "_high", "_onset")

    def __init__(
        self,
        signal: str,
        *,
        window: int = 128,
        warm_up: int = WARM_UP,
        threshold: float = 10.0,
        times: int = 3,
        of: int = 4,
        log: bool | None = None,
        stale_after: int = STALE_AFTER,
    ) -> None:
        above_zero("threshold", threshold)
        at_least("times", 1, times)
        if of < times:
            raise ParameterError("of", f"of must be at least times = {times}, got {of}")
        super().__init__(
            signal, make_scale(signal, window, warm_up, log, DifferencedScale), threshold, stale_after
        )
        self.tuned = Tuned(times=times, of=of, power=True)
        self._times, self._of = times, of
        self._high: list[tuple[int, int]] = []  # measurements since each that counts, and its tick
        self._onset: int | None = None

    @property
    def on_edge(self) -> bool:
        """Whether the next measurement need only be beyond the threshold to alarm, as is not always so."""
        return self._times > 1 and (self._onset is not None or len(self._high) >= self._times - 1)

    def _take(self, tick: int, value: float) -> Reading:
        reading = super()._take(tick, value)
        reading.extra = {"beyond": float(len(self._high))}
        return reading

    def _leeway(self) -> Leeway | None:
        return None if self._high else Leeway(high=self.threshold)

    def _judge_all(self, ticks: list[int], zs: Sequence[float]) -> float:
        return zs[-1]

    def _take_all(self, ticks: list[int], values: list[float]) -> Reading:
        reading = super()._take_all(ticks, values)
        reading.extra = {"beyond": 0.0}
        return reading

    def _judge(self, tick: int, z: float) -> tuple[float, int | None]:
        last, of = self._high, self._of
        high = [(age + 1, at) for age, at in last if age + 1 < of]
        if z > self.threshold:
            high.append((0, tick))
        if self._onset is None and len(high) >= self._times:
            self._onset = high[0][1]
        elif self._onset is not None and not high and not last:
            self._onset = None
        self._high = high
        return z, self._onset

    def _forget(self) -> None:
        self._high, self._onset = [], None
