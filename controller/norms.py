"""``param_norm`` and ``update_ratio``, on a cadence that follows from what measuring them costs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch

from .shards import is_spread, local, norm_share

MAX_SHARE = 0.002
"""Share of training time that measuring the model may take."""

LONGEST = 100
"""Ticks between two measurements at most, so that a monitor warms up in a run of a few thousand."""

MEASURE = 4
"""Flag in the control slot: the update of this tick is to be measured by all processes."""


class Norms:
    """L2 norm of all trained parameters, and of one update relative to it.

    Measuring an update needs a copy of the parameters before the step, so it is not done at every
    tick: the cost is measured, and the cadence is what keeps it below ``MAX_SHARE`` of the run.

    Where the parameters are spread over the processes, each can measure its part only: all do at the ticks
    that rank 0 names, and their shares go with the next tick's vector, so that nothing more is exchanged.

    Args:
        parameters: The trained parameters.
        every: Ticks between measurements; None chooses from the cost.
        clock: Seconds; injected for tests.
    """

    def __init__(
        self,
        parameters: Sequence[torch.Tensor],
        every: int | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.spread = any(map(is_spread, parameters))
        self._parameters = list(parameters)
        self._every = every
        self._clock = clock
        self._before: list[torch.Tensor] | None = None
        self._began = 0.0
        self._due = 1
        self._asked = self._kept = False
        self._shares: tuple[torch.Tensor, torch.Tensor] | None = None
        self.cost = 0.0

    def state_dict(self) -> int:
        """The tick of the next measurement."""
        return self._due

    def load_state_dict(self, state: int) -> None:
        """Go on with another's cadence."""
        self._due = state

    def flags(self, tick: int) -> int:
        """What rank 0 puts into the control slot, for the tick that is being made."""
        return MEASURE if self.spread and tick >= self._due else 0

    def heed(self, flags: int) -> None:
        """Take the flags that came with a reduced vector."""
        self._asked = self._asked or bool(flags & MEASURE)

    def before_step(self, tick: int) -> None:
        """Keep the parameters if the update of this tick is to be measured."""
        self._kept = bool(self._parameters) and (self._asked if self.spread else tick >= self._due)
        if not self._kept:
            return
        self._asked = False
        self._began = self._clock()
        with torch.no_grad():
            if self._before is None:
                self._before = [torch.empty_like(p) for p in self._parameters]
            torch._foreach_copy_(self._locals(self._before), self._locals(self._parameters))
        self.cost = self._clock() - self._began

    def after_step(self, tick: int, step_seconds: float) -> dict[str, torch.Tensor]:
        """The two signals as scalars on the device, or nothing where this process does not know them."""
        if not self._kept or self._before is None:
            return {}
        self._kept = False
        began = self._clock()
        with torch.no_grad():
            norm = norm_share(self._parameters)
            torch._foreach_sub_(self._locals(self._before), self._locals(self._parameters))
            update = norm_share(self._before)
        self.cost += self._clock() - began
        self._due = tick + (self._every or cadence(self.cost, step_seconds))
        if self.spread:
            self._shares = (norm, update)
            return {}
        return {"param_norm": norm, "update_ratio": update / norm}

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
