"""The learning rate's course, read ahead: copies of the loop's schedulers are stepped to the run's end.

Nothing that the loop has is touched, or shared with the copies where it could change: a scheduler that
computes with a model, a generator or the loss cannot be read ahead, and that is said.
"""

from __future__ import annotations

import builtins
import copy
import dis
import functools
import heapq
import types
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np
import torch
from accelerate.optimizer import AcceleratedOptimizer
from numpy.typing import NDArray
from torch.optim.lr_scheduler import ReduceLROnPlateau

from . import rng

Rates = NDArray[np.float64]

MOST_STEPS = 2_000_000
"""Of all schedulers together: one takes 4 to 14 us, so a run is held up for half a minute at most."""

MOST_CORNERS = 200
CLOSE = 1e-3  # of the peak: how near the corners come to the schedule, if that many suffice

_MOST_OBJECTS = 10_000  # that a scheduler may compute with
_MOST_NUMBERS = 10_000  # in an array of them


class Unforeseeable(Exception):
    """The schedule cannot be read ahead; says why."""


class StandIn:
    """What the copies see in place of the optimizer: its groups, without parameters."""

    def __init__(self) -> None:
        self.param_groups: list[dict[str, Any]] = []
        self.defaults: dict[str, Any] = {}
        self._opt_called = True  # a scheduler warns where no step was made before its own

    def step(self) -> None:
        """Nothing is updated."""

    step._wrapped_by_lr_sched = True  # type: ignore[attr-defined]  # else schedulers warn


@dataclass(slots=True)
class Pace:
    """How often a scheduler is stepped: ``by`` times after every ``period`` steps; None: not known yet.

    ``taken`` is how often it had been at ``since``.
    """

    since: int
    taken: int
    by: int
    period: int | None = 1

    def at(self, step: int) -> int:
        """How often it has been stepped before this step is made."""
        assert self.period is not None
        return self.taken + self.by * ((step - self.since) // self.period)


def taken(scheduler: Any) -> int:
    """How often a scheduler has been stepped. Raises Unforeseeable if it does not tell."""
    count = getattr(scheduler, "last_epoch", None)
    if count is None and getattr(scheduler, "_schedulers", None):  # torch's ChainedScheduler counts nothing
        return taken(scheduler._schedulers[0])
    if not isinstance(count, int):
        raise Unforeseeable(f"{type(scheduler).__name__} does not tell how often it was stepped")
    return count


@dataclass(slots=True)
class Copies:
    """The schedulers of a run, set apart at the step that begins now."""

    optimizer: StandIn
    schedulers: list[Any]

    @classmethod
    def of(cls, optimizer: Any, schedulers: Sequence[Any]) -> Copies:
        """Copies of an inner optimizer's rates and of what drives them.

        Raises:
            Unforeseeable: a scheduler goes by more than its own numbers.
        """
        for scheduler in schedulers:
            if isinstance(scheduler, ReduceLROnPlateau):
                raise Unforeseeable(f"{type(scheduler).__name__} goes by what is measured")
        try:
            return cls._copied(optimizer, schedulers)
        except Unforeseeable:
            raise
        except Exception as error:
            raise Unforeseeable(f"it cannot be copied: {type(error).__name__}: {error}") from error

    @classmethod
    def _copied(cls, optimizer: Any, schedulers: Sequence[Any]) -> Copies:
        copier, stand_in = _Copier(), StandIn()
        copier.replace(optimizer, stand_in)
        stand_in.param_groups = [
            {name: copier.copy(value) for name, value in group.items() if name != "params"}
            for group in optimizer.param_groups
        ]
        stand_in.defaults = copier.copy(dict(getattr(optimizer, "defaults", {})))
        return cls(stand_in, [copier.copy(scheduler) for scheduler in schedulers])

    def ahead(self, paces: Sequence[Pace], first: int, horizon: int) -> Rates:
        """The first group's rate at each of the steps ``first`` to ``horizon``; may be asked again.

        Raises:
            Unforeseeable: a scheduler fails on the way, or it is too long.
        """
        if sum(max(0, pace.at(horizon) - pace.taken) for pace in paces) > MOST_STEPS:
            raise Unforeseeable("there are too many steps to come to read it ahead")
        before = rng.capture()
        try:
            return self._stepped(paces, first, horizon)
        except Unforeseeable:
            raise
        except Exception as error:
            raise Unforeseeable(
                f"it fails when it is stepped ahead: {type(error).__name__}: {error}"
            ) from error
        finally:
            rng.restore(before)

    def _stepped(self, paces: Sequence[Pace], first: int, horizon: int) -> Rates:
        again = Copies.of(self.optimizer, self.schedulers)
        counts = [taken(scheduler) for scheduler in again.schedulers]
        group = again.optimizer.param_groups[0]
        rates = np.empty(horizon - first + 1)
        for index, step in enumerate(range(first, horizon + 1)):
            for place, (scheduler, pace) in enumerate(zip(again.schedulers, paces, strict=True)):
                while counts[place] < pace.at(step):
                    counts[place] += 1
                    if not _is_over(scheduler):
                        scheduler.step()
            rates[index] = group["lr"]
        if not np.isfinite(rates).all() or rates.min() < 0:
            raise Unforeseeable("it gives rates that are none")
        return rates


def _is_over(scheduler: Any) -> bool:
    """Accelerate leaves a scheduler that knows its end alone beyond it."""
    total = getattr(scheduler, "total_steps", None)
    return total is not None and scheduler._step_count > total


def corners(rates: Rates, first: int, horizon: int) -> tuple[tuple[float, float], ...] | None:
    """The few points (share of the run, lr / peak) between which straight lines follow the rates.

    The worst place becomes a corner until all are within a thousandth of the peak, or there are 200.

    >>> corners(np.array([0.1, 0.2, 0.2, 0.2, 0.1]), 1, 5)
    ((0.2, 0.5), (0.4, 1.0), (0.8, 1.0), (1.0, 0.5))
    """
    peak = float(rates.max())
    if peak <= 0:
        return None
    heights, last = rates / peak, len(rates) - 1
    kept, stretches = {0, last}, [_worst(heights, 0, last)]
    while stretches and len(kept) < MOST_CORNERS:
        badness, left, worst, right = heapq.heappop(stretches)
        if -badness <= CLOSE:
            break
        kept.add(worst)
        for start, end in ((left, worst), (worst, right)):
            heapq.heappush(stretches, _worst(heights, start, end))
    return tuple((float((first + place) / horizon), float(heights[place])) for place in sorted(kept))


def _worst(heights: Rates, left: int, right: int) -> tuple[float, int, int, int]:
    """Where between two points the straight line is farthest off: (-distance, left, place, right)."""
    line = np.linspace(heights[left], heights[right], right - left + 1)
    off = np.abs(heights[left : right + 1] - line)
    worst = int(off.argmax())
    return -float(off[worst]), left, left + worst, right


_SHARED = (
    *(type(None), bool, int, float, complex, str, bytes, Enum, type, range, np.generic, np.ufunc),
    *(types.ModuleType, types.BuiltinFunctionType, torch.dtype, torch.device),
)
"""What cannot change, or is no one's in particular."""


@dataclass(slots=True)
class _Copier:
    """Copies plain values, and objects made of them, so that nothing is shared that could change."""

    _made: dict[int, tuple[Any, Any]] = field(default_factory=dict)  # with the original, whose id it is

    def replace(self, value: Any, by: Any) -> Any:
        """Let this stand for a value wherever it occurs."""
        self._made[id(value)] = (value, by)
        return by

    def copy(self, value: Any) -> Any:
        """A copy. Raises Unforeseeable for what is not plain."""
        if isinstance(value, _SHARED):
            return value
        if id(value) in self._made:
            return self._made[id(value)][1]
        if len(self._made) > _MOST_OBJECTS:
            raise Unforeseeable("a scheduler computes with very many objects")
        if isinstance(value, AcceleratedOptimizer) and id(value.optimizer) in self._made:
            return self._made[id(value.optimizer)][1]
        if isinstance(value, dict | list | deque):
            return self._container(value)
        if isinstance(value, tuple | set | frozenset):
            items = map(self.copy, value)
            return self.replace(
                value, type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
            )
        if isinstance(value, torch.Tensor | np.ndarray):
            return self._array(value)
        if isinstance(value, types.FunctionType | types.MethodType | functools.partial):
            return self._function(value)
        return self._object(value)

    def _container(self, value: Any) -> Any:
        made = self.replace(value, copy.copy(value))
        for place in list(value) if isinstance(value, dict) else range(len(value)):
            made[place] = self.copy(value[place])
        return made

    def _array(self, value: Any) -> Any:
        if np.prod(value.shape) > _MOST_NUMBERS:
            raise Unforeseeable("a scheduler computes with large arrays")
        return self.replace(
            value, value.detach().clone() if isinstance(value, torch.Tensor) else value.copy()
        )

    def _function(self, value: Any) -> Any:
        if isinstance(value, types.MethodType):
            return types.MethodType(value.__func__, self.copy(value.__self__))
        if isinstance(value, functools.partial):
            keywords = {name: self.copy(item) for name, item in value.keywords.items()}
            return functools.partial(self.copy(value.func), *map(self.copy, value.args), **keywords)
        cells, around = tuple(types.CellType() for _ in value.__closure__ or ()), value.__globals__
        seen: dict[str, Any] = {"__builtins__": around.get("__builtins__", builtins)}
        made = types.FunctionType(value.__code__, seen, value.__name__, None, cells or None)
        self.replace(value, made)
        seen |= {name: self.copy(around[name]) for name in _globals_of(value.__code__) if name in around}
        for cell, own in zip(cells, value.__closure__ or (), strict=True):
            cell.cell_contents = self.copy(own.cell_contents)
        made.__defaults__, made.__kwdefaults__ = (
            self.copy(value.__defaults__),
            self.copy(value.__kwdefaults__),
        )
        made.__dict__.update({name: self.copy(item) for name, item in vars(value).items()})
        return made

    def _object(self, value: Any) -> Any:
        kind: Any = type(value)
        own_way = any(
            {"__reduce__", "__reduce_ex__", "__slots__"} & vars(base).keys() for base in kind.__mro__[:-1]
        )
        heavy = isinstance(value, torch.nn.Module | torch.optim.Optimizer)
        if heavy or not hasattr(value, "__dict__") or (own_way and kind is not types.SimpleNamespace):
            raise Unforeseeable(f"a scheduler computes with an object of type {kind.__name__}")
        made = self.replace(value, kind.__new__(kind))
        made.__dict__.update({name: self.copy(item) for name, item in vars(value).items()})
        return made


def _globals_of(code: types.CodeType) -> set[str]:
    """The names that code looks up in its module, with the code inside it."""
    inner = (const for const in code.co_consts if isinstance(const, types.CodeType))
    own = {str(line.argval) for line in dis.get_instructions(code) if line.opname == "LOAD_GLOBAL"}
    return own.union(*map(_globals_of, inner))
