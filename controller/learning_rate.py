"""The effective learning rate: the user's schedule times the live overrides, for one update only.

Writing ``param_groups["lr"]`` is undone by half of torch's schedulers and compounds under the other
half, so the rate is changed when ``optimizer.step()`` begins and put back when it ends.
"""

from __future__ import annotations

from typing import Any

import torch

from .overrides import Layers

TARGET = "lr"


class LearningRate:
    """Applies the ``lr`` layers around an optimizer's step.

    Args:
        optimizer: The inner torch optimizer; a group's ``lr`` may be a float or a tensor.
        layers: The live overrides.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, layers: Layers) -> None:
        self._optimizer = optimizer
        self._layers = layers
        self._own: list[float | torch.Tensor] | None = None
        self.overridden = False
        """Whether other rates are in place of the user's own at the moment."""
        self.effective = float("nan")
        self.regulated = 1.0
        """A regulator's factor on the user's own rate: the lowest layer, below the overrides."""
        self.multiplier = 1.0
        """Effective over scheduled rate of the last update; 1 where nothing overrides it."""

    def scheduled(self) -> list[float]:
        """The user's own rate of each group, as the schedule left it."""
        if self._own is not None:
            return [float(rate) for rate in self._own]
        return [float(group["lr"]) for group in self._optimizer.param_groups]

    def apply(self, tick: int) -> None:
        """Put the effective rates in place for the step that begins now."""
        if self.overridden:
            self.release()
        groups = self._optimizer.param_groups
        if self.regulated == 1.0 and not (self._layers.live and self._layers.touches(TARGET)):
            self.effective = float(groups[0]["lr"])
            self.multiplier = 1.0
            return
        rates = self.rates(tick)
        self._own, self.overridden = [_keep(group["lr"]) for group in groups], True
        for group, rate in zip(groups, rates, strict=True):
            _write(group, rate)
        self.effective = float(groups[0]["lr"])
        scheduled = float(self._own[0])
        self.multiplier = self.effective / scheduled if scheduled else 1.0

    def release(self) -> None:
        """Put the user's own rates back; does nothing when none is replaced."""
        if self._own is None:
            return
        for group, rate in zip(self._optimizer.param_groups, self._own, strict=True):
            _write(group, rate)
        self._own, self.overridden = None, False

    def rates(self, tick: int) -> list[float]:
        """Effective rate of each group: the scheduled one times the factors in force, a regulator's first.

        A set rate is the largest group's; the others keep their ratio to it.
        """
        scheduled = self.scheduled()
        top = max(scheduled)
        shares = [rate / top if top > 0.0 else 1.0 for rate in scheduled]
        return [
            self._layers.value(TARGET, rate * self.regulated, tick, share)
            for rate, share in zip(scheduled, shares, strict=True)
        ]


def _keep(rate: Any) -> float | torch.Tensor:
    return rate.clone() if isinstance(rate, torch.Tensor) else float(rate)


def _write(group: dict[str, Any], rate: float | torch.Tensor) -> None:
    # A tensor rate is shared with captured graphs: it has to change in place.
    if isinstance(group["lr"], torch.Tensor):
        if isinstance(rate, torch.Tensor):
            group["lr"].copy_(rate)
        else:
            group["lr"].fill_(rate)
    else:
        group["lr"] = rate
