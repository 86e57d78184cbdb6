"""The table of monitors: what a policy's ``type`` names."""

from __future__ import annotations

from .adwin import Adwin
from .baseline import Baseline
from .divergence import Divergence
from .e_detector import EDetector
from .forecast import ForecastMonitor
from .frozen import Frozen
from .guard import Guard
from .jump import Jump
from .outliers import Outliers
from .overshoot import Overshoot
from .page_hinkley import PageHinkley
from .scarce import Scarce
from .shift import Shift
from .spike import Spike
from .stalled import Stalled
from .stuck import Stuck
from .sustained_rise import SustainedRise
from .too_good import TooGood
from .types import Monitor, MonitorSpec, ParameterError

MONITORS: dict[str, type[Monitor]] = {
    "guard": Guard,
    "spike": Spike,
    "sustained_rise": SustainedRise,
    "divergence": Divergence,
    "outliers": Outliers,
    "e_detector": EDetector,
    "stalled": Stalled,
    "too_good": TooGood,
    "shift": Shift,
    "scarce": Scarce,
    "jump": Jump,
    "overshoot": Overshoot,
    "frozen": Frozen,
    "stuck": Stuck,
    "forecast": ForecastMonitor,
    "adwin": Adwin,
    "page_hinkley": PageHinkley,
    "baseline": Baseline,
}
"""Type in a policy -> class. ``conformance`` tests every one of them."""


def extra_numbers(kind: str | None) -> tuple[str, ...]:
    """The names of what only monitors of a type tell, beside what all do; for None, of all types together."""
    if kind is None:
        return tuple(dict.fromkeys(name for known in MONITORS for name in extra_numbers(known)))
    return tuple(getattr(MONITORS[kind], "extra", ()))


def make_monitor(spec: MonitorSpec, signal: str | None = None) -> Monitor:
    """A new monitor as a policy writes it.

    Args:
        spec: its type and parameters.
        signal: watched instead of ``spec.params["signal"]``, where that one has a star.

    Raises:
        ParameterError: there is no such type, or a parameter is out of range.

    >>> spec = MonitorSpec("source", "divergence", {"signal": "loss/source=*"})
    >>> make_monitor(spec, "loss/source=code").signals
    ('loss/source=code',)
    """
    if spec.type not in MONITORS:
        raise ParameterError("type", f"there is no monitor type '{spec.type}', only {', '.join(MONITORS)}")
    params = dict(spec.params) if signal is None else {**spec.params, "signal": signal}
    return MONITORS[spec.type](**params)
