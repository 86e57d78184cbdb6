"""What a rollback restores: which tensors and which small states make up a training run."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch.optim.lr_scheduler import LRScheduler

from .shards import Layout, give_up_gathered, local


@runtime_checkable
class Stateful(Protocol):
    """Anything whose state can be kept and put back."""

    def state_dict(self) -> Any:
        """The state, as plain objects and tensors."""
        ...

    def load_state_dict(self, state: Any) -> Any:
        """Take the state over."""
        ...


@dataclass(frozen=True, slots=True)
class KeptApart:
    """Stands among the small states for a tensor, which is kept with the big ones."""

    layout: Layout


@dataclass(slots=True)
class SmallState:
    """What is no big tensor: copied as objects.

    ``always`` is restored by every rollback, ``schedule`` only by one that rewinds. ``shared`` is what the
    optimizer keeps under names of its own, not for a parameter; ``graded`` says which parameters had a
    gradient: cleared ones may be zeros, and an optimizer passes over None alone. ``buffers`` says of each
    module which it has and whether they hold a tensor: some are made when they are first needed.
    """

    optimizer: list[dict[str, Any]]
    always: dict[str, Any]
    schedule: dict[str, Any]
    groups: list[dict[str, Any]]
    accumulation: int
    shared: dict[Any, Any] = field(default_factory=dict)
    graded: list[bool] = field(default_factory=list)
    buffers: list[dict[str, bool]] = field(default_factory=list)


class TrainingState:
    """The parts of a run that a snapshot holds, and the way back into them.

    Args:
        accelerator: Whose models, scaler and accumulation counter these are.
        optimizer: The inner torch optimizer.
    """

    def __init__(self, accelerator: Any, optimizer: torch.optim.Optimizer) -> None:
        self._accelerator = accelerator
        self._optimizer = optimizer
        self._schedules: dict[str, Stateful] = {}
        self._registered: dict[str, Stateful] = {}

    def register(self, name: str, obj: Stateful) -> None:
        """Add an object with ``state_dict``; a learning-rate scheduler counts as schedule.

        Raises:
            TypeError: it has no ``state_dict`` and ``load_state_dict``.
        """
        if not isinstance(obj, Stateful):
            raise TypeError(f"register({name!r}): {type(obj).__name__} has no state_dict and load_state_dict")
        (self._schedules if isinstance(obj, LRScheduler) else self._registered)[name] = obj

    def add_schedule(self, scheduler: Any) -> None:
        """Add a scheduler that Accelerate prepared."""
        self._schedules[f"scheduler {len(self._schedules)}"] = scheduler.scheduler

    @property
    def registered(self) -> tuple[str, ...]:
        """Names of what the user registered."""
        return tuple(self._registered)

    @property
    def schedulers(self) -> list[Any]:
        """The schedulers that drive the optimizer, in the order in which they became known."""
        return list(self._schedules.values())

    @property
    def schedule_is_known(self) -> bool:
        """Whether every scheduler that drives the optimizer can be rewound."""
        prepared = [o for o in self._accelerator._optimizers if o.optimizer is self._optimizer]
        driven = any(hasattr(o.step, "_wrapped_by_lr_sched") for o in (self._optimizer, *prepared))
        return bool(self._schedules) or not driven

    def tensors(self) -> list[torch.Tensor]:
        """Parameters, buffers (non-persistent too) and optimizer moments, in a fixed order.

        Of what is spread over the processes these are the parts of this one: all have to ask alike.
        """
        for model in self._accelerator._models:
            give_up_gathered(model)
        return self.tensors_as_they_stand()

    def tensors_as_they_stand(self) -> list[torch.Tensor]:
        """The same for one process alone, to look at: it may find whole parameters where parts are kept."""
        return [
            *map(local, self._all_parameters()),
            *(local(b) for buffers in self._buffers() for b in buffers.values() if b is not None),
            *(local(v) for state in self._optimizer_states() for v in state.values() if _is_tensor(v)),
        ]

    def changing(self) -> range:
        """Which of ``tensors`` a forward pass may change, by index: buffers; the rest an optimizer's step."""
        first = len(self._all_parameters())
        held = sum(b is not None for buffers in self._buffers() for b in buffers.values())
        return range(first, first + held)

    def labels(self) -> list[str]:
        """A name for each of ``tensors``: the model's own, ``loose.N``, and ``optimizer.PARAMETER.KEY``."""
        models = [("model." * (n == 0) or f"model_{n}.", m) for n, m in enumerate(self._accelerator._models)]
        return [
            *(prefix + name for prefix, model in models for name, _ in model.named_parameters()),
            *(f"loose.{number}" for number, _ in enumerate(self._loose_parameters())),
            *(
                f"{prefix}{path}{'.' * bool(path)}{name}"
                for prefix, model in models
                for path, module in model.named_modules()
                for name, buffer in module._buffers.items()
                if buffer is not None
            ),
            *(
                f"optimizer.{number}.{key}"
                for number, state in enumerate(self._optimizer_states())
                for key, value in state.items()
                if _is_tensor(value)
            ),
        ]

    def small(self) -> SmallState:
        """Copies of all that is not among ``tensors``."""
        scaler = self._accelerator.scaler
        schedule, groups = self.schedule()
        return SmallState(
            optimizer=[
                {key: _without_tensor(value) for key, value in state.items()}
                for state in self._optimizer_states()
            ],
            always=copy.deepcopy(
                {name: obj.state_dict() for name, obj in self._registered.items()}
                | ({} if scaler is None else {_SCALER: scaler.state_dict()})
            ),
            schedule=schedule,
            groups=groups,
            accumulation=self._accelerator.step,
            shared=copy.deepcopy(self._shared_state()),
            graded=[p.grad is not None for p in self._all_parameters()],
            buffers=[{name: b is not None for name, b in buffers.items()} for buffers in self._buffers()],
        )

    def restore(self, tensors: list[torch.Tensor], small: SmallState, *, rewind: bool) -> None:
        """Put a captured state back in place; gradients are cleared.

        ``rewind`` also restores the schedule, the groups' hyperparameters and the accumulation counter.

        Raises:
            ValueError: the optimizer was given parameters since.
        """
        if len(self._parameters()) != len(small.optimizer):
            raise ValueError(
                f"the optimizer has {len(self._parameters())} parameters, the snapshot {len(small.optimizer)}"
            )
        kept = iter(tensors[len(self._all_parameters()) :])
        self._shape_buffers(small, kept)
        self._shape_optimizer_state(small, kept)
        with torch.no_grad():
            torch._foreach_copy_(self.tensors(), tensors)
        self._clear_gradients(small.graded)
        for name, state in small.always.items():
            target = self._accelerator.scaler if name == _SCALER else self._registered[name]
            target.load_state_dict(copy.deepcopy(state))
        if not rewind:
            return
        self.restore_schedule(small.schedule, small.groups)
        self._accelerator.step = small.accumulation

    def schedule_marks(self) -> tuple[Any, ...]:
        """How often each scheduler has stepped: tells whether epoch-end code steps one."""
        return tuple(getattr(obj, "last_epoch", None) for obj in self._schedules.values())

    def schedule(self) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Copies of the schedulers' states and of the groups' hyperparameters."""
        return (
            {name: copy.deepcopy(obj.state_dict()) for name, obj in self._schedules.items()},
            [_hyperparameters(group) for group in self._optimizer.param_groups],
        )

    def restore_schedule(self, states: Mapping[str, Any], groups: list[dict[str, Any]]) -> None:
        """Put back what ``schedule`` gave: a scheduler's own state does not hold the groups' rates."""
        for name, state in states.items():
            self._schedules[name].load_state_dict(copy.deepcopy(state))
        for group, kept in zip(self._optimizer.param_groups, groups, strict=True):
            for key, value in kept.items():
                if isinstance(group.get(key), torch.Tensor):
                    group[key].copy_(value)
                else:
                    group[key] = copy.deepcopy(value)

    def _parameters(self) -> list[torch.nn.Parameter]:
        return [p for group in self._optimizer.param_groups for p in group["params"]]

    def _loose_parameters(self) -> list[torch.nn.Parameter]:
        """What is trained without belonging to a prepared model: a loss's temperature, or all of a model."""
        modelled = {id(p) for model in self._accelerator._models for p in model.parameters()}
        return [p for p in self._parameters() if id(p) not in modelled]

    def _all_parameters(self) -> list[torch.nn.Parameter]:
        modelled = [p for model in self._accelerator._models for p in model.parameters()]
        return [*modelled, *self._loose_parameters()]

    def _buffers(self) -> list[dict[str, torch.Tensor | None]]:
        return [module._buffers for model in self._accelerator._models for module in model.modules()]

    def _shape_buffers(self, small: SmallState, kept: Iterator[torch.Tensor]) -> None:
        """Give the modules the captured buffers, in the captured shapes."""
        for live, captured in zip(self._buffers(), small.buffers, strict=True):
            old = dict(live)
            live.clear()
            for name, holds in captured.items():
                live[name] = _fitting(old.get(name), next(kept), self._accelerator.device) if holds else None

    def _clear_gradients(self, graded: list[bool]) -> None:
        for parameter, had in zip(self._all_parameters(), graded, strict=True):
            if not had:
                parameter.grad = None
            elif parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            else:
                parameter.grad = parameter.grad.detach().zero_()

    def _shared_state(self) -> dict[Any, Any]:
        state: Mapping[Any, Any] = self._optimizer.state
        return {key: value for key, value in state.items() if not isinstance(key, torch.Tensor)}

    def _optimizer_states(self) -> list[dict[str, Any]]:
        states: Mapping[Any, dict[str, Any]] = self._optimizer.state
        return [states.get(p, {}) for p in self._parameters()]

    def _shape_optimizer_state(self, small: SmallState, kept: Iterator[torch.Tensor]) -> None:
        """Give the optimizer's state the captured keys, so that tensors can be copied in place.

        Before the first step an optimizer has no state; one with odd state may add and drop keys.
        """
        for name in self._shared_state():
            del self._optimizer.state[name]
        self._optimizer.state.update(copy.deepcopy(small.shared))
        for parameter, shape in zip(self._parameters(), small.optimizer, strict=True):
            if not shape:
                self._optimizer.state.pop(parameter, None)
                continue
            state = self._optimizer.state[parameter]
            old = dict(state)
            state.clear()
            for key, value in shape.items():
                if not isinstance(value, KeptApart):
                    state[key] = copy.deepcopy(value)
                    continue
                source = next(kept)
                if Layout.of(old.get(key)) != value.layout:
                    old.pop(key, None)
                part = _fitting(old.get(key), source, _home(key, parameter, source))
                state[key] = part if part is old.get(key) else value.layout.lay_out(part, parameter)


_SCALER = "GradScaler"


def _hyperparameters(group: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: value.clone() if isinstance(value, torch.Tensor) else copy.deepcopy(value)
        for key, value in group.items()
        if key != "params"
    }


def _is_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor)


def _without_tensor(value: Any) -> Any:
    return KeptApart(Layout.of(value)) if _is_tensor(value) else copy.deepcopy(value)


def _fitting(live: Any, source: torch.Tensor, home: torch.device) -> torch.Tensor:
    """``live`` itself where the source can be copied into it bit for bit, else a copy of the source."""
    if isinstance(live, torch.Tensor):
        part = local(live)
        if (part.shape, part.dtype) == (source.shape, source.dtype):
            return live
    return source.to(home, copy=True)


def _home(key: str, parameter: torch.Tensor, source: torch.Tensor) -> torch.device:
    # Step counters live on the host unless the optimizer is capturable; moments live with their parameter.
    return source.device if key == "step" or source.ndim == 0 else parameter.device
