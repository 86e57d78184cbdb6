"""What a threshold costs in delay: changes are put into healthy runs' own values, to be found."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...monitors.bank import MonitorBank, Readings
from ...monitors.registry import make_monitor
from ...monitors.scale import DIFFERENCE
from ...monitors.types import Health, MonitorSpec, Sample

WITHIN = 400
"""Samples within which a change must be found."""

RAMP = 100
"""Samples in which a ramp comes to its height."""


class Shape(Enum):
    """How a change comes: at once, or in ``RAMP`` samples."""

    STEP = "step"
    RAMP = "ramp"


@dataclass(slots=True)
class Spot:
    """A place in a healthy run: how its monitors stood, and what was measured after it."""

    state: Mapping[str, Any]
    readings: Readings
    after: list[Sample] = field(default_factory=list)

    def follow(self, sample: Sample) -> None:
        """Take a later sample of the run, as long as they are needed."""
        if len(self.after) < WITHIN:
            self.after.append(sample)


@dataclass(frozen=True, slots=True)
class Delays:
    """Of ``tried`` changes, the delays in samples of those that were found."""

    tried: int
    found: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        """As plain numbers; None is what nothing can be said of."""
        quantiles = np.quantile(self.found, (0.5, 0.9)).tolist() if self.found else (None, None)
        return {
            "tried": self.tried,
            "found": len(self.found),
            "delay_median": quantiles[0],
            "delay_p90": quantiles[1],
        }


def delays(spec: MonitorSpec, spots: Iterable[Spot], shape: Shape) -> Delays | None:
    """How soon a monitor finds the step that it declares to find, or a ramp as high; None if it has none.

    A change is as many noises high as the monitor declares. The noise is its own at that place, or that from
    one value to the next, if larger: some monitors tell the noise of a mean. Where it does not judge there,
    or alarms already, nothing is tried.
    """
    tried, found = 0, []
    for spot in spots:
        for instance, reading in sorted(spot.readings.get(spec.name, {}).items()):
            noises = _declared(spec, instance)
            if noises is None:
                return None
            steps = _steps(spot.after, _signal(spec, instance))
            if reading.health is Health.OK and isfinite(reading.noise) and len(steps):
                tried += 1
                noise = max(reading.noise, float(np.median(steps)) / DIFFERENCE)
                delay = _found_after(spec, spot, instance, noises * noise, shape)
                found += [] if delay is None else [delay]
                break  # one instance of a star for all
    return Delays(tried, tuple(found))


def _declared(spec: MonitorSpec, instance: str) -> float | None:
    noises: float | None = getattr(make_monitor(spec, _signal(spec, instance)), "step_noises", None)
    return noises


def _signal(spec: MonitorSpec, instance: str) -> str:
    return str(spec.params.get("signal", "")).replace("*", instance)


def _steps(samples: Sequence[Sample], signal: str) -> NDArray[Any]:
    """How far each value lies from the one before it."""
    values = np.array([value for each in samples if (value := each.signals.get(signal)) is not None])
    steps: NDArray[Any] = np.abs(np.diff(values[np.isfinite(values)]))
    return steps


def _found_after(spec: MonitorSpec, spot: Spot, instance: str, height: float, shape: Shape) -> int | None:
    bank = MonitorBank([spec])
    bank.load_state_dict(spot.state)
    for count, sample in enumerate(_changed(spot.after, _signal(spec, instance), height, shape)):
        bank.judge_step(sample)
        if bank.update(sample)[spec.name][instance].bad:
            return count
    return None


def _changed(samples: Sequence[Sample], signal: str, height: float, shape: Shape) -> Iterable[Sample]:
    for count, sample in enumerate(samples):
        value = sample.signals.get(signal)
        if value is None:
            yield sample
            continue
        share = 1.0 if shape is Shape.STEP else min(1.0, (count + 1) / RAMP)
        yield replace(sample, signals={**sample.signals, signal: value + share * height})
