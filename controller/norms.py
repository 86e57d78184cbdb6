"""``param_norm``, ``update_ratio`` and ``moment_lag``, on a cadence that follows from what they cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import torch

from .shards import is_spread, local, norm_share

MAX_SHARE = 0.002
"""Share of training time that measuring the model may take."""

LONGEST = 100
"""Ticks between two measurements at most, so that a monitor warms up in a run of a few thousand."""

_AVERAGED = frozenset({"exp_avg_sq", "step"})  # what Adam and its kin keep for a parameter

MEASURE = 4
"""Flag in the control slot: the update of this tick is to be measured by all processes."""


class Norms:
    """L2 norm of all trained parameters, of one update relative to it, and the lag of Adam's moments.

    Measuring an update needs a copy of the parameters before the step, so it is not done at every
    tick: the cost is measured, and the cadence is what keeps it below ``MAX_SHARE`` of the run.

    Where the parameters are spread over the processes, each can measure its part only: all do at the ticks
    that rank 0 names, and their shares go with the next tick's vector, so that nothing more is exchanged.
    The lag is the largest one of all tensors, which no mean of shares gives: there it is not measured.

    Args:
        parameters: The trained parameters.
        every: Ticks between measurements; None chooses from the cost.
        clock: Seconds; injected for tests.
        moments: Whose moments are held against the gradients; None: nobody's. It costs half as much as the
            other two norms together, or more, and they are then measured less often: too much for a signal
            that nobody reads.
    """

    def __init__(
        self,
        parameters: Sequence[torch.Tensor],
        every: int | None = None,
        clock: Callable[[], float] = time.perf_counter,
        moments: torch.optim.Optimizer | None = None,
    ) -> None:
        self.spread = any(map(is_spread, parameters))
        self._parameters = list(parameters)
        self._moments = None if self.spread else moments
        self._every = every
        self._clock = clock
        self._before: list[torch.Tensor] | None = None
        self._lag: torch.Tensor | None = None
        self._began = 0.0
        self.due = 1
        """Tick of the next measurement; where the parameters are spread it waits until rank 0 names it."""
        self._asked = False
        self.measuring = False
        """Whether the update of the tick that is being made is measured."""
        self._shares: tuple[torch.Tensor, torch.Tensor] | None = None
        self.cost = 0.0

    def state_dict(self) -> int:
        """The tick of the next measurement."""
        return self.due

    def load_state_dict(self, state: int) -> None:
        """Go on with another's cadence."""
        self.due = state

    def flags(self, tick: int) -> int:
        """What rank 0 puts into the control slot, for the tick that is being made."""
        return MEASURE if self.spread and tick >= self.due else 0

    def heed(self, flags: int) -> None:
        """Take the flags that came with a reduced vector."""
        self._asked = self._asked or bool(flags & MEASURE)

    def before_step(self, tick: int, *, closure: bool = False) -> None:
        """Keep the parameters if the update of this tick is to be measured.

        With a ``closure`` there are no gradients yet that the moments could be held against.
        """
        self.measuring = (self._asked if self.spread else tick >= self.due) and bool(self._parameters)
        if not self.measuring:
            return
        self._asked = False
        self._began = self._clock()
        with torch.no_grad():
            if self._before is None:
                self._before = [torch.empty_like(p) for p in self._parameters]
            torch._foreach_copy_(self._locals(self._before), self._locals(self._parameters))
            self._lag = None if closure or self._moments is None else moment_lag(self._moments)
        self.cost = self._clock() - self._began

    def after_step(self, tick: int, step_seconds: float) -> dict[str, torch.Tensor]:
        """The signals as scalars on the device, or nothing where this process does not know them."""
        if not self.measuring or self._before is None:
            return {}
        self.measuring = False
        began = self._clock()
        with torch.no_grad():
            norm = norm_share(self._parameters)
            torch._foreach_sub_(self._locals(self._before), self._locals(self._parameters))
            update = norm_share(self._before)
        self.cost += self._clock() - began
        self.due = tick + (self._every or cadence(self.cost, step_seconds))
        if self.spread:
            self._shares = (norm, update)
            return {}
        lag = {} if self._lag is None else {"moment_lag": self._lag}
        return {"param_norm": norm, "update_ratio": update / norm, **lag}

    def take_shares(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        """This process's shares of parameters and update, if it measured them since the last call."""
        shares, self._shares = self._shares, None
        return shares

    def _locals(self, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        return list(map(local, tensors)) if self.spread else tensors


def cadence(cost: float, step_seconds: float) -> int:
    """Ticks between two measurements of this cost in seconds, so that they take ``MAX_SHARE`` of the run."""
    if step_seconds <= 0.0:
        return LONGEST
    return min(LONGEST, max(1, round(cost / (MAX_SHARE * step_seconds))))


def gradient_norm(optimizer: torch.optim.Optimizer) -> torch.Tensor:
    """L2 norm of all gradients that an optimizer is about to use, sparse ones too, or our share of it."""
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    return norm_share([g.coalesce().values() if g.is_sparse else g for g in gradients])


def why_no_lag(optimizer: torch.optim.Optimizer, *, spread: bool) -> str | None:
    """Why ``moment_lag`` cannot be measured, as far as it is known at start; None if it can."""
    if spread:
        return "moment_lag: not measured, because the parameters are spread over the processes"
    if not any("betas" in group for group in optimizer.param_groups):
        return f"moment_lag: not measured, because {type(optimizer).__name__} keeps no second moment"
    return None


def moment_lag(optimizer: torch.optim.Optimizer) -> torch.Tensor | None:
    """How far Adam's second moment lags behind the gradients about to be used: a scalar on the device.

    The largest over all tensors of sqrt(sum g^2 / sum v), v with its bias corrected and as it was before this
    step. At 1 the moment is up to date; well above 1 the gradients have grown faster than it remembers.

    None where no tensor has both: before the first step, and for optimizers that keep no ``exp_avg_sq`` and
    ``step`` for a parameter. Sparse and complex tensors are left out, and those whose gradients were all
    zero so far, which have nothing to lag behind.

    Source: the RMS of M. Wortsman et al., Stable and low-precision training for large-scale vision-language
    models (2023), there of each entry's ratio; the ratio of sums needs no copy of the gradients.
    """
    gradients: list[torch.Tensor] = []
    moments: list[torch.Tensor] = []
    unbiased = []
    for group in optimizer.param_groups:
        steps = []
        for p in group["params"] if "betas" in group else ():
            state = optimizer.state.get(p, {})
            if p.grad is None or p.grad.is_sparse or p.is_complex() or not _AVERAGED.issubset(state):
                continue
            gradients.append(p.grad)
            moments.append(state["exp_avg_sq"])
            steps.append(state["step"])
        if steps:
            unbiased.append(1.0 - group["betas"][1] ** _together(steps))
    if not gradients:
        return None
    # Sums in single precision at least: in half of it they overflow.
    precision = reduce(torch.promote_types, (t.dtype for t in gradients + moments), torch.float32)
    norms = _together(torch._foreach_norm(gradients, 2, dtype=precision))
    if moments[0].is_cpu:  # where a norm of order 1 takes three to five times as long
        sums = _together([moment.sum(dtype=precision) for moment in moments])
    else:
        sums = _together(torch._foreach_norm(moments, 1, dtype=precision))
    mean_square = sums / torch.cat([part.to(sums.device, non_blocking=True) for part in unbiased])
    lag = torch.where(sums == 0.0, 0.0, norms / mean_square.sqrt()).max()
    # A fused step takes gradients that are still multiplied by this, unless the loop's clipping undid it.
    scale = getattr(optimizer, "grad_scale", None)
    return lag if scale is None else lag / scale.to(lag.device)


def _together(numbers: Sequence[Any]) -> torch.Tensor:
    """Scalars as one vector, on the first one's device; an optimizer may count its steps in plain numbers."""
    if not isinstance(numbers[0], torch.Tensor):
        return torch.tensor(numbers, dtype=torch.float32)
    device = numbers[0].device
    if any(number.device != device for number in numbers):
        numbers = [number.to(device, non_blocking=True) for number in numbers]
    return torch.stack(list(numbers)).float()
