"""What is known ahead of a run: how long it will be, how its learning rate will go, how others ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Protocol, runtime_checkable


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """One signal of a finished run, thinned.

    ``run`` is where it lies, as a monitor's ``references`` write it. ``steps``, rising, ``values`` and
    ``rates`` (learning rates in any unit; None: not measured) have ``[m]`` numbers each; ``length`` is the
    run's, in steps.
    """

    run: str
    signal: str
    lr: str
    length: int
    steps: tuple[float, ...]
    values: tuple[float, ...]
    rates: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """A run's plan. It is data, so that a journal that holds it gives the same readings when it is replayed.

    ``horizon`` is the number of steps of the whole run; ``schedule`` are corners (share of the run,
    lr / peak) joined by straight lines, without overrides. None is not known. ``finished`` are runs to
    compare with.
    """

    horizon: int | None = None
    schedule: tuple[tuple[float, float], ...] | None = None
    finished: tuple[FinishedRun, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """All of it, as what ``json.dumps`` accepts."""
        finished = [{entry.name: getattr(run, entry.name) for entry in fields(run)} for run in self.finished]
        return {"horizon": self.horizon, "schedule": self.schedule, "finished": finished}

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> Plan:
        """The inverse of ``to_json``."""
        corners = state["schedule"]
        schedule = None if corners is None else tuple((share, rate) for share, rate in corners)
        return cls(state["horizon"], schedule, tuple(map(_finished, state["finished"])))


def _finished(state: Mapping[str, Any]) -> FinishedRun:
    arrays = {
        name: None if state[name] is None else tuple(state[name]) for name in ("steps", "values", "rates")
    }
    return FinishedRun(**{**state, **arrays})


@runtime_checkable
class Planned(Protocol):
    """A monitor that goes by the run's plan. What it was told is no part of its state: it is told again."""

    def plan(self, plan: Plan) -> None:
        """Go by this plan from now on, where the monitor's own parameters say nothing else."""
        ...
