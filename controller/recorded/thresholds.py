"""The thresholds of a policy's monitors: which they have, and others in their place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import ceil, floor, isfinite, log10

from ...monitors.registry import MONITORS, make_monitor
from ...monitors.types import MonitorSpec, ParameterError, Tuned
from ...policies.model import Policy

_HALVINGS = 30


def tuned_of(spec: MonitorSpec) -> Tuned | None:
    """What a monitor is calibrated by; None if by nothing."""
    kind: Tuned | None = getattr(MONITORS[spec.type], "tuned", None)
    return kind


def threshold_of(spec: MonitorSpec) -> float:
    """The threshold that a monitor has, written or not. Raises ParameterError."""
    made = make_monitor(spec, str(spec.params.get("signal", "")).replace("*", "any"))
    return float(getattr(made, "threshold"))  # noqa: B009 - no part of the protocol


def with_thresholds(policy: Policy, thresholds: Mapping[str, float]) -> Policy:
    """The policy with other thresholds for the monitors that are named."""
    monitors = (
        _with(spec, thresholds[spec.name]) if spec.name in thresholds else spec for spec in policy.monitors
    )
    return replace(policy, monitors=tuple(monitors))


def least_from(spec: MonitorSpec, threshold: float) -> float:
    """The least threshold from this one on that the monitor takes, given that it takes its own."""
    low, high = threshold, threshold_of(spec)
    if _takes(_with(spec, low)):
        return low
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if _takes(_with(spec, middle)) else (middle, high)
    return rounded_up(1.001 * high)


def rounded_up(number: float) -> float:
    """A number with three digits, no smaller.

    >>> rounded_up(5.2812), rounded_up(15230.0), rounded_up(6.0)
    (5.29, 15300.0, 6.0)
    """
    if not (number > 0 and isfinite(number)):
        return number
    unit = 10.0 ** (floor(log10(number)) - 2)
    return float(f"{ceil(round(number / unit, 6)) * unit:.3g}")


def _with(spec: MonitorSpec, threshold: float) -> MonitorSpec:
    tuned = tuned_of(spec)
    assert tuned is not None
    return replace(spec, params={**spec.params, tuned.parameter: threshold})


def _takes(spec: MonitorSpec) -> bool:
    try:
        threshold_of(spec)
    except ParameterError:
        return False
    return True
