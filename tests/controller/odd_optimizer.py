"""An optimizer whose state is unlike that of torch's own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch


class Odd(torch.optim.Optimizer):
    """State that comes and goes, is no tensor, changes its shape, or belongs to no parameter."""

    def __init__(self, parameters: Iterable[Any], lr: float = 0.1) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": 0.9})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        shared: Any = self.state
        shared["made"] = shared.get("made", 0) + 1
        shared["level"] = shared.get("level", torch.zeros(())) * 0.9 + shared["made"] * 1e-3
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                state["count"] = state.get("count", 0) + 1
                state["trace"] = [*state.get("trace", []), p.detach().clone()][-2:]
                means = torch.cat([state.get("means", torch.zeros(0)), p.grad.mean().reshape(1)])
                state["means"] = means[-(state["count"] % 4 + 1) :]
                if state["count"] % 2:
                    state["slow"] = p.detach() * 0.5
                else:
                    state.pop("slow", None)
                pull = state.get("slow", 0) + group["momentum"] * 0.1 * state["trace"][0]
                p.data -= group["lr"] * (p.grad + pull + state["means"].sum() + shared["level"])
