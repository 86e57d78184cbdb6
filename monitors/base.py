"""What all monitors of one signal share: screening, staleness, and an alarm that latches with its onset."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace
from math import nan
from typing import Any, ClassVar

from .calm import ANYTHING, FEWEST, LOOK_EVERY, Calm, Leeway
from .changes import Change, Effect, Way
from .own_code import copy_code
from .scale import RobustScale
from .types import Health, ParameterError, Reading, Sample, Tuned

LARGEST = 1e100
"""Beyond it a value counts as not finite: its square would overflow, and no signal means anything there."""

STALE_AFTER = 1000
"""Ticks without a measurement until a reading is STALE. Longer than the cadence of a usual evaluation."""

_STALE_AFTER_MISSED = 3
"""Measurements that a signal must have missed, by its own cadence, before its reading is STALE."""

_LONG = 3 * LOOK_EVERY  # ticks: what waits has not been missing for longer
_OFTEN = 4  # ticks from one measurement to the next: rarer ones can as well be judged as they come

_DOUBT = 64
"""Measurements after which a change that was meant explains nothing any more: see ``changes.Effect``."""


def at_least(parameter: str, least: float, value: float) -> None:
    """Raise ``ParameterError`` if a parameter is too small, or no number."""
    if not least <= value < LARGEST:
        raise ParameterError(parameter, f"{parameter} must be at least {least}, got {value}")


def above_zero(parameter: str, value: float) -> None:
    """Raise ``ParameterError`` if a parameter is not positive, or no number."""
    if not 0 < value < LARGEST:
        raise ParameterError(parameter, f"{parameter} must be above 0, got {value}")


class BaseMonitor:
    """A monitor that remembers its last reading, and says when it is STALE.

    Subclasses list the attributes that hold the rest of their state in ``_state``, name the numbers that only
    they tell in ``extra``, and declare how well they work as ``conformance.Declared`` says. ``lateness`` was
    measured on steps of 1.5 to 15 noises and on ramps of 2 to 16 noises in 50 to 400 measurements.

    ``tuned`` names the parameter that its score is compared with, and ``threshold`` is the value of that.
    ``looks`` is the way of the changes that it alarms on; one that was meant to go that way is doubted.
    ``cadence`` are the ticks between two measurements: the smaller of the last two gaps, so that one gap is
    none. A signal that is measured seldom is STALE only after as many ticks as three measurements take.
    """

    before_step: bool = False
    extra: ClassVar[tuple[str, ...]] = ()
    tuned: Tuned | None = None
    threshold: float = nan
    lateness: int = 0
    false_alarms_per_100k: float = 0.0
    looks: Way = Way.EITHER
    step_noises: float | None = None
    step_delay: int = 0
    warm_up: int = 0
    _state: ClassVar[tuple[str, ...]] = ("_gap", "cadence")

    def __init_subclass__(cls) -> None:
        copy_code(cls, "update", "_take")

    def __init__(self, signals: tuple[str, ...], stale_after: int) -> None:
        at_least("stale_after", 1, stale_after)
        self.signals = signals
        self.cadence = 1
        self._gap = 0  # the last one, in ticks; 0 before it
        self._stale_after = stale_after
        self._reading = Reading(Health.WARMUP)

    def _came(self, tick: int, last: int) -> bool:
        """Something was measured again: learn the cadence; returns whether it had been missing for long."""
        gap = tick - last
        if gap == self._gap == self.cadence or last < 0:  # as ever
            return False
        before, self._gap = self._gap or gap, gap
        late = gap > self._patience
        self.cadence = gap if gap < before else before
        return late

    @property
    def _patience(self) -> int:
        return max(self._stale_after, _STALE_AFTER_MISSED * self.cadence)

    def expect(self, change: Change) -> None:
        """From the next sample on something is different that was meant to change: that is no alarm."""

    def _miss(self, tick: int) -> Reading:
        """Keep the last reading where nothing was measured, until it is too old."""
        reading = self._reading
        if 0 <= reading.tick < tick - self._patience and reading.health is not Health.STALE:
            reason = f"{', '.join(self.signals)} last measured at tick {reading.tick}"
            self._reading = replace(reading, health=Health.STALE, onset=None, reason=reason)
        return self._reading

    def state_dict(self) -> dict[str, Any]:
        """All of its state, as what ``json.dumps`` accepts; it stays as it is when the monitor goes on."""
        state: dict[str, Any] = {"reading": self._reading.to_json()}
        for name in self._state:
            part = getattr(self, name)
            state[name.lstrip("_")] = part.state_dict() if hasattr(part, "state_dict") else copy(part)
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state from ``state_dict``: later readings are identical to the source's."""
        self._reading = Reading.from_json(state["reading"])
        for name in self._state:
            saved = state[name.lstrip("_")]
            part = getattr(self, name)
            if hasattr(part, "load_state_dict"):
                part.load_state_dict(saved)
            else:
                setattr(self, name, copy(saved))


class SignalMonitor(BaseMonitor, ABC):
    """A monitor of one signal, which it screens before anything else.

    A missing value keeps the last reading, until it is STALE after ``stale_after`` ticks, or three
    measurements by its own cadence; the next one then starts without the evidence gathered before the gap,
    which says nothing of the present.
    A value that is not finite gives NONFINITE and touches no statistics. Subclasses judge the rest.
    """

    _state: ClassVar[tuple[str, ...]] = (*BaseMonitor._state, "_nonfinite_since")

    def __init__(self, signal: str, stale_after: int) -> None:
        if not isinstance(signal, str) or "*" in signal:
            raise ParameterError("signal", f"signal must be one name without a star, got {signal}")
        super().__init__((signal,), stale_after)
        self._signal = signal
        self._nonfinite_since: int | None = None

    def update(self, sample: Sample) -> Reading:
        """Take one sample and say how its signal fares."""
        tick = sample.tick
        value = sample.signals.get(self._signal)
        if value is None:
            return self._miss(tick)
        if -LARGEST < value < LARGEST:  # false for NaN
            last = self._reading.tick
            as_ever = tick - last == self._gap == self.cadence
            if not as_ever and self._came(tick, last):
                self._forget()
            self._nonfinite_since = None
            reading = self._take(tick, value)
        else:
            reading = self._reject(tick, value)
        self._reading = reading
        return reading

    def settle(self, ticks: list[int], values: list[float]) -> Reading:
        """Take what ``calm`` has let pass; those that have no ``calm`` are not asked."""
        last = self._reading.tick
        if not self._gap == self.cadence == 1 or ticks[-1] - last > len(ticks):
            for tick in ticks:
                self._came(tick, last)
                last = tick
        self._reading = reading = self._take_all(ticks, values)
        return reading

    @property
    def _patient(self) -> bool:
        """Whether it can be that measurements are kept: not if they are rare, or it is STALE very soon."""
        return self.cadence <= _OFTEN and self._stale_after >= _LONG

    @property
    def _at_ease(self) -> bool:
        """Whether it is OK, and patient."""
        return self._reading.health is Health.OK and self._patient

    def expect(self, change: Change) -> None:
        """From the next sample on something is different that was meant to change: that is no alarm."""
        effect = change.effect_on(self._signal)
        if effect is not None:
            self._expect(effect)

    def _expect(self, effect: Effect) -> None:
        """Its own signal is about to change. What was seen before stays evidence: it has other reasons."""

    @abstractmethod
    def _take(self, tick: int, value: float) -> Reading:
        """Judge a finite measurement."""

    def _take_all(self, ticks: list[int], values: list[float]) -> Reading:
        """Take finite measurements one after the other."""
        for tick, value in zip(ticks, values, strict=True):
            reading = self._take(tick, value)
        return reading

    @abstractmethod
    def _forget(self) -> None:
        """Drop the evidence gathered before a gap; what is normal stays known."""

    def _reject(self, tick: int, value: float) -> Reading:
        if self._nonfinite_since is None:
            self._nonfinite_since = tick
        last = self._reading
        reason = f"{self._signal} is {value}"
        since = self._nonfinite_since
        return Reading(Health.NONFINITE, tick, value, nan, nan, since, last.level, last.noise, reason)


class ScaledMonitor(SignalMonitor):
    """A monitor that judges by robust z: how many noises a value lies above its level.

    Subclasses turn a z into a score and an onset in ``_judge``; an onset is an alarm. ``threshold`` is
    what the score is compared with.
    """

    _state: ClassVar[tuple[str, ...]] = (*SignalMonitor._state, "_scale", "_doubt", "_doubtful")

    def __init__(self, signal: str, scale: RobustScale, threshold: float, stale_after: int) -> None:
        super().__init__(signal, stale_after)
        self.warm_up = scale.warm_up
        self._scale = scale
        self.threshold = threshold
        self._doubt = 0  # measurements that are still judged with doubt, and with how much
        self._doubtful = 0.0

    def share_scale(self, other: ScaledMonitor) -> bool:
        """Go on with the scale of another monitor, if it has learnt the same from the same signal.

        Each value is then taken in once; the state of each monitor stays complete.
        """
        if self._signal != other._signal or not self._scale.same_as(other._scale):
            return False
        self._scale = other._scale
        return True

    def _expect(self, effect: Effect) -> None:
        if effect.doubt and effect.way.meets(self.looks):
            self._doubt, self._doubtful = _DOUBT, effect.doubt
        self._scale.expect(effect)

    @abstractmethod
    def _judge(self, tick: int, z: float) -> tuple[float, int | None]:
        """The score of a measurement, and while it alarms the tick at which the change began."""

    def calm(self) -> Calm | None:
        """What may be measured next without its health changing from OK; None: nothing."""
        leeway = self._leeway() if self._at_ease and not self._doubt else None
        if leeway is None or leeway is ANYTHING:
            return None if leeway is None else Calm()
        scale = self._scale
        count = scale.block
        if count < FEWEST:
            return None
        if scale.told is None or scale.told[0] != scale.tick:  # else to a monitor that shares the scale
            scale.told = scale.tick, scale.bounds(count)
        bounds = scale.told[1]
        return None if bounds is None else leeway.within(bounds, count, scale.log)

    def _leeway(self) -> Leeway | None:
        """What z it can bear at each of the next ``calm.BLOCK`` measurements and not alarm; None: unknown.

        Who overrides how a z is judged overrides this too: the conformance suite finds who forgot.
        """
        return None

    def _judge_all(self, ticks: list[int], zs: Sequence[float]) -> float:
        """``_judge`` one after the other where none alarms; returns the last score."""
        for tick, z in zip(ticks, zs, strict=True):
            score, _ = self._judge(tick, z)
        return score

    def _take_all(self, ticks: list[int], values: list[float]) -> Reading:
        scale, tick = self._scale, ticks[-1]
        if scale.tick != tick:  # else a monitor that shares the scale has given it the values
            scale.zs = zs = scale.take_all(values)
            scale.z = zs[-1]
            scale.tick = tick
        score = self._judge_all(ticks, scale.zs)
        return Reading(Health.OK, tick, values[-1], score, self.threshold, None, scale.level, scale.noise)

    def _take(self, tick: int, value: float) -> Reading:
        scale = self._scale
        if scale.tick != tick:  # else a monitor that shares the scale has given it the value
            scale.z = scale.take(value)
            scale.tick = tick
        z = scale.z
        if z is None:
            return Reading(Health.WARMUP, tick, value)
        if self._doubt:
            z /= 1 + self._doubtful * self._doubt / _DOUBT
            self._doubt -= 1
        score, onset = self._judge(tick, z)
        level, noise, threshold = scale.level, scale.noise, self.threshold
        if onset is None:
            return Reading(Health.OK, tick, value, score, threshold, None, level, noise)
        reason = (
            f"{self._signal} {value:.4g} against a level of {level:.4g} with noise {noise:.2g}, "
            f"since tick {onset}: score {score:.3g}, alarm at {threshold:g}"
        )
        return Reading(Health.ALARM, tick, value, score, threshold, onset, level, noise, reason)
