"""The words that every room shares about measuring: Sample, Health, Reading, Monitor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from math import inf, isfinite, nan
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from .changes import Change

BUILTIN_SIGNALS = (
    "loss",
    "grad_norm",
    "lr",
    "update_ratio",
    "param_norm",
    "moment_lag",
    "step_time",
    "samples_per_second",
    "repeats",
)
"""Signals that every wrapped run measures by itself, besides ``loss/source=NAME``.

``moment_lag`` and ``repeats`` only where the policy reads them."""

SOURCE_PREFIX = "loss/source="
"""Prefix of the per-source losses."""

SUPPLY_PREFIX = "supply/source="
"""Prefix of the evidence that as much comes of a source as is asked of it, where the policy reads that."""


class Health(Enum):
    """What a monitor says of the last measurement. ALARM and NONFINITE are *bad*."""

    WARMUP = "warmup"
    OK = "ok"
    WARNING = "warning"
    ALARM = "alarm"
    NONFINITE = "nonfinite"
    STALE = "stale"
    ERROR = "error"


@dataclass(slots=True)
class Sample:
    """What was measured at one tick.

    ``tick`` counts optimizer steps and never rewinds; ``step`` rewinds when data is rewound;
    ``branch`` goes up with every rollback. A key missing from ``signals`` means *not measured*;
    NaN is a measurement. Not frozen: one is made every tick.
    """

    step: int
    tick: int
    branch: int
    signals: dict[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class Reading:
    """What one monitor says of its signal. Not frozen: dozens are made every tick.

    ``tick`` is the tick of the newest measurement it speaks of (-1 before the first), so a consumer sees
    whether it is new. ``onset`` is the tick at which the change began, set while bad or warning. ``level``
    and ``noise`` are the robust location and scale of the healthy signal, in its own units. ``reason`` is
    written only when the health is not OK. ``extra`` are numbers that only some types of monitor tell, under
    the names that the class declares as its ``extra``.
    """

    health: Health
    tick: int = -1
    value: float = nan
    score: float = nan
    threshold: float = nan
    onset: int | None = None
    level: float = nan
    noise: float = nan
    reason: str = ""
    extra: Mapping[str, float] | None = None

    @property
    def bad(self) -> bool:
        """ALARM or NONFINITE: what a rule fires on by default."""
        return self.health is Health.ALARM or self.health is Health.NONFINITE

    def to_json(self) -> dict[str, Any]:
        """All of it, as strict JSON: a number that is not finite is a word."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        values["health"] = self.health.value
        extra = values.pop("extra")
        plain = {name: _plain(value) for name, value in values.items()}
        if extra is not None:
            plain["extra"] = {name: _plain(value) for name, value in extra.items()}
        return plain

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> Reading:
        """The inverse of ``to_json``."""
        numbers = {name: float(state[name]) for name in ("value", "score", "threshold", "level", "noise")}
        told = state.get("extra")
        extra = None if told is None else {name: float(value) for name, value in told.items()}
        return cls(**{**state, **numbers, "health": Health(state["health"]), "extra": extra})


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, float) and not isfinite(value) else value


class ParameterError(ValueError):
    """A parameter of a monitor or an action has a value it cannot have; names the parameter."""

    def __init__(self, parameter: str, message: str) -> None:
        super().__init__(message)
        self.parameter = parameter


@dataclass(frozen=True, slots=True)
class Tuned:
    """The parameter that says how easily a monitor alarms: the larger it is, the more seldom.

    An alarm begins where the score is beyond it at ``times`` of the last ``of`` measurements. Until the first
    alarm the score does not depend on it, but for stopping at ``stops`` times its value. ``power`` says that
    large scores become rare as a power of themselves, and not exponentially.
    """

    parameter: str = "threshold"
    times: int = 1
    of: int = 1
    stops: float = inf
    power: bool = False


@dataclass(frozen=True, slots=True)
class MonitorSpec:
    """A monitor as a policy writes it: its name there, its type in the table, its parameters."""

    name: str
    type: str
    params: Mapping[str, Any] = field(default_factory=dict)


@runtime_checkable
class Monitor(Protocol):
    """A streaming detector: one sample in, one reading out, state as JSON.

    ``signals`` are the names it reads; ``before_step`` says that it is judged before
    ``optimizer.step()``; ``lateness`` is the measured 90th percentile, in ticks, by which its
    onset comes after the true one.
    """

    signals: tuple[str, ...]
    before_step: bool
    lateness: int

    def update(self, sample: Sample) -> Reading:
        """Take one sample and say how its signal fares. Never raises on any float."""
        ...

    def expect(self, change: Change) -> None:
        """With the next sample something is different that was meant to change: that is no alarm."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """All of its state, as what ``json.dumps`` accepts."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state from ``state_dict``: later readings are identical to the source's."""
        ...
