"""Forecast: where a loss will be at the end of the run, and whether it is still on the way there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import ceil, nan, sqrt
from typing import Any, ClassVar

import numpy as np

from .base import LARGEST, STALE_AFTER, SignalMonitor, above_zero, at_least
from .changes import Effect, Kind
from .forecasting.course import Floats
from .forecasting.forecast import Forecast, forecast
from .forecasting.history import History
from .forecasting.references import Reference
from .forecasting.schedules import Schedule, make_schedule
from .plan import Plan
from .scale import RobustScale
from .types import Health, ParameterError, Reading, Sample, Tuned

_WINDOW = 16  # measurements whose median is compared with the forecast
_FEWEST = 8
_CLIP = 4.0
_LEAST = 1e-30  # keeps the band of a signal that is always 0 above 0
_SHORTEST = 100  # steps of a run of which anything can be forecast
_POINTS = 64  # of the way to the end that is kept of a forecast
_USUAL = 0.5  # score at which a change that goes on to alarm is taken to begin
_NORMAL = 1.645  # noises that 19 of 20 values stay below
_MEDIAN = 1.25 / sqrt(_WINDOW)  # noise of the median of the window, in noises of a value


class ForecastMonitor(SignalMonitor):
    """Forecasts the final value, and finds a loss that leaves the way that was forecast for it.

    A curve is fitted to the run so far, anew every ``every`` steps: L0 + A S1^-alpha + kappa eta~ (S1: the
    cumulative learning rate, eta~: the recent one) if the schedule to come is known, else a power law of the
    step. If two of the ``references`` had the same schedule, it will end as far from them as it is now.
    Expressions read ``final`` with its 90 % interval ``low`` to ``high``, and ``expected_now``.

    The last 16 values are judged by the forecast before the newest, so that a slow change cannot hide in the
    curve that was fitted to it: ``level`` is what that one expects now, ``noise`` how far above it the median
    of the 16 lies in 1 of 20 cases, each compared with what was expected at its time, the score how many of
    those it lies above. While it alarms the
    forecast that it is judged by stays, for at most a tenth of the run. With a ``target``, it warns when even
    ``low`` is above that.

    It goes by training steps, which a rollback rewinds together with the schedule. It is silent until it
    knows how long the run will be, and for the first tenth of it. Only for signals that fall towards a value
    that is not negative.

    Args:
        signal: the signal's name.
        horizon: steps of the whole run, at least 100; None: as the run tells.
        lr: name of the learning rate's signal; only its course counts, not its unit.
        schedule: lr / peak over the run: ``constant``, ``linear`` or ``cosine`` (to zero), or corners
            ``[share of the run, lr / peak]`` such as ``[[0, 0], [0.02, 1], [0.7, 1], [1, 0]]``; None: as the
            run tells, if it can be read ahead.
        references: folders of finished runs of the same kind, from the working directory if not absolute.
        target: the value that should be reached; None for no warning.
        every: steps between fits. One takes about 1 ms: at 500, 2 us a tick.
        threshold: score that alarms; it clears at half of that.
        stale_after: ticks without a measurement until the reading is STALE.

    Raises:
        ParameterError: a parameter is out of range.

    >>> from random import Random
    >>> from midcourse import Sample
    >>> noise, outcome = Random(0), ForecastMonitor("loss", horizon=5000)
    >>> for tick in range(4000):
    ...     loss = 2 + 8 * (tick + 20) ** -0.5 + noise.gauss(0, 0.05) + 0.3 * (tick >= 2500)
    ...     reading = outcome.update(Sample(tick, tick, 0, {"loss": loss}))
    ...     if reading.bad:
    ...         break
    >>> tick, reading.onset, round(reading.extra["final"], 1)
    (2507, 2497, 2.1)
    """

    extra = ("final", "low", "high", "expected_now")
    tuned = Tuned()
    false_alarms_per_100k = 5.0
    step_noises = 4.0
    step_delay = 40
    lateness = 30
    _state: ClassVar[tuple[str, ...]] = (
        *(*SignalMonitor._state, "_history", "_scale", "_ticks", "_rate", "_count", "_first"),
        *("_due", "_off", "_told", "_way", "_next_way", "_alarm", "_since", "_out_of_reach"),
    )

    def __init__(
        self,
        signal: str,
        *,
        horizon: int | None = None,
        lr: str = "lr",
        schedule: str | Sequence[Sequence[float]] | None = None,
        references: Sequence[str] = (),
        target: float | None = None,
        every: int = 500,
        threshold: float = 3.0,
        stale_after: int = STALE_AFTER,
    ) -> None:
        if horizon is not None:
            at_least("horizon", _SHORTEST, horizon)
        at_least("every", 1, every)
        above_zero("threshold", threshold)
        if not isinstance(lr, str) or "*" in lr:
            raise ParameterError("lr", f"lr must be one name without a star, got {lr}")
        if target is not None and not -LARGEST < target < LARGEST:
            raise ParameterError("target", f"target must be a finite number, got {target}")
        if not isinstance(references, list | tuple) or not all(isinstance(run, str) for run in references):
            raise ParameterError("references", f"references must be a list of run folders, got {references}")
        super().__init__(signal, stale_after)
        self.signals = (signal, lr)
        self._lr, self._target, self._written = lr, target, frozenset(references)
        self._own_horizon = horizon
        self._own_schedule = None if schedule is None else make_schedule(schedule)
        self.plan(Plan())
        self._every, self.threshold = every, threshold
        self._ticks: list[int] = []  # of half a window: a change moves its median so many measurements later
        self._step = 0  # of the sample at hand
        self._rate: float | None = None  # the newest that was measured
        self._history = History()
        self._scale = _new_scale()
        self._count = 0  # of measurements, up to the fewest
        self._first: int | None = None  # step that was seen
        self._due = 0  # step of the next fit
        self._off: list[float] = []  # how far the newest values lay above what was expected at their time
        self._told: dict[str, float] = {}
        self._way: dict[str, Any] | None = None  # by which it is judged
        self._next_way: dict[str, Any] | None = None
        self._alarm: list[int] | None = None  # while it alarms: step of the alarm, tick of the onset
        self._since: int | None = None  # tick since which the score is not usual
        self._out_of_reach: int | None = None  # tick since which the target is

    def plan(self, plan: Plan) -> None:
        """Go by what the run tells, where its own parameters say nothing; the next fit does."""
        told = plan.horizon if plan.horizon is not None and plan.horizon >= _SHORTEST else None
        self._horizon = told if self._own_horizon is None else self._own_horizon
        self._schedule: Schedule | None = self._own_schedule
        if self._schedule is None and plan.schedule is not None:
            self._schedule = make_schedule(plan.schedule)
        self._references = tuple(
            Reference.of(run)
            for run in plan.finished
            if run.run in self._written and (run.signal, run.lr) == (self._signal, self._lr)
        )
        self.warm_up = _FEWEST if self._horizon is None else max(_FEWEST, ceil(self._horizon / 10))

    def update(self, sample: Sample) -> Reading:
        """Take one sample and say how its signal fares."""
        self._step = sample.step
        rate = sample.signals.get(self._lr)
        if rate is not None and 0 <= rate < LARGEST:
            self._rate = rate
        return super().update(sample)

    def _take(self, tick: int, value: float) -> Reading:
        step, scale, ticks = self._step, self._scale, self._ticks
        if len(ticks) >= _WINDOW // 2:
            del ticks[0]
        ticks.append(tick)
        z = scale.take(value)
        taken = value
        if z is not None and not -_CLIP < z < _CLIP:
            taken = scale.level + (_CLIP if z > 0 else -_CLIP) * scale.noise
        self._history.add(step, taken, nan if self._rate is None else self._rate)
        if self._first is None:
            self._first = step
        self._count += self._count <= _FEWEST
        horizon = self._horizon
        early = horizon is None or self._count <= _FEWEST or step - self._first < horizon / 10
        if self._way is None and early:
            return Reading(Health.WARMUP, tick, value)
        if horizon is not None and (self._way is None or step >= self._due):
            self._refit(step, horizon)
        return self._judged(tick, value)

    def _judged(self, tick: int, value: float) -> Reading:
        expected, above = _along(self._way, self._step)
        off = self._off
        if len(off) >= _WINDOW:
            del off[0]
        off.append(value - expected)
        middle = _median(off) if len(off) >= _FEWEST else nan
        score = middle / above  # NaN is no alarm
        extra = {**self._told, "expected_now": expected}
        if not score > _USUAL:
            self._since = None
        elif self._since is None:
            self._since = self._ticks[0]
        if self._alarm is None:
            if score > self.threshold:
                self._alarm = [self._step, self._ticks[0] if self._since is None else self._since]
        elif not score > self.threshold / 2:
            self._alarm = None
        health, onset, reason = self._health(tick, expected, above, middle)
        return Reading(health, tick, value, score, self.threshold, onset, expected, above, reason, extra)

    def _health(
        self, tick: int, expected: float, above: float, middle: float
    ) -> tuple[Health, int | None, str]:
        """With the onset and the reason."""
        if self._alarm is not None:
            usual = f"{expected:.4g} (up to {expected + above:.4g})"
            there = f"{self._signal} is at {expected + middle:.4g} where {usual} was forecast"
            return Health.ALARM, self._alarm[1], f"{there}, since tick {self._alarm[1]}"
        target, told = self._target, self._told
        if target is None or told["low"] <= target:
            self._out_of_reach = None
            return Health.OK, None, ""
        if self._out_of_reach is None:
            self._out_of_reach = tick
        ends = f"{self._signal} will end at {told['final']:.4g} ({told['low']:.4g} to {told['high']:.4g})"
        return Health.WARNING, self._out_of_reach, f"{ends}, above the target {target:.4g}"

    def _refit(self, step: int, horizon: int) -> None:
        told = self._forecast(horizon)
        self._told = {"final": told.final, "low": told.low, "high": told.high}
        way = self._way_of(told, step, horizon)
        stays = self._alarm is not None and step - self._alarm[0] < horizon / 10
        if not stays:
            self._way, self._next_way = self._next_way or way, way
        self._due = step + self._every

    def _forecast(self, horizon: int) -> Forecast:
        steps, values, rates = self._history.arrays()
        schedule, end = self._schedule, max(horizon, self._step)
        if schedule is None:
            return forecast(steps, values, horizon=end)

        def future(ahead: Floats) -> Floats:
            return schedule(np.minimum(ahead / horizon, 1.0))

        planned = future(steps)
        peak = 0.0 if rates is None or planned.max() <= 0 else rates.max() / planned.max()
        known = planned if rates is None or peak <= 0 else rates / peak
        references = self._references
        return forecast(steps, values, horizon=end, rates=known, future=future, references=references)

    def _way_of(self, told: Forecast, step: int, horizon: int) -> dict[str, Any]:
        """What is expected from a step to the end, and how far above it the median lies in 1 of 20 cases."""
        trend = told.trend
        points = np.linspace(step, max(horizon, step + self._every * 4), _POINTS + 1)
        expected, units = trend.ahead(points)
        _, reach = trend.reach(trend.method)
        noise = trend.curve.noise * sqrt(self._history.size) * _MEDIAN
        above = np.maximum(reach * units + _NORMAL * noise, _LEAST)
        width = float(points[1] - points[0])
        return {"step": step, "width": width, "expected": expected.tolist(), "above": above.tolist()}

    def _reject(self, tick: int, value: float) -> Reading:
        return replace(super()._reject(tick, value), extra=self._reading.extra)

    def _expect(self, effect: Effect) -> None:
        """From another level on it is another course; of the learning rate the curve itself knows."""
        if effect.kind is Kind.MOVES:
            self._forget()
            self._history, self._first, self._count = History(), None, 0
            self._told, self._way, self._next_way = {}, None, None
            self._out_of_reach = None

    def _forget(self) -> None:
        self._scale = _new_scale()
        self._since = self._alarm = None
        self._ticks, self._off = [], []


def _median(values: list[float]) -> float:
    ordered, n = sorted(values), len(values)
    return (ordered[(n - 1) // 2] + ordered[n // 2]) / 2


def _new_scale() -> RobustScale:
    return RobustScale(_WINDOW, _FEWEST, log=False)


def _along(way: Mapping[str, Any] | None, step: int) -> tuple[float, float]:
    """What is expected at a step, and how far above it is usual; beyond the last point as there."""
    assert way is not None
    place = (step - way["step"]) / way["width"]
    at = int(place)
    expected, above = way["expected"], way["above"]
    if at >= _POINTS or at < 0:
        return (expected[-1], above[-1]) if at > 0 else (expected[0], above[0])
    part = place - at
    low, wide = expected[at], above[at]
    return low + part * (expected[at + 1] - low), wide + part * (above[at + 1] - wide)
