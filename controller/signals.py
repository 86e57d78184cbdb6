"""What a tick measures, gathered where the user's loop makes it, brought to the host in one piece.

Everything stays on its device until the optimizer's step begins: then one fixed vector of sums and
counts is packed, reduced over the processes (the tick's only collective) and read.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from math import sqrt
from typing import Any

import torch

from ..monitors.types import SOURCE_PREFIX
from .hand_scaling import DIVISION, hand_divisor, hand_factor
from .scalars import number, scalar, square, stack
from .source_losses import SourceLosses
from .supply import Supply

log = logging.getLogger("midcourse")

CONTROL = "control"
"""Slot of the vector by which rank 0 announces a command for the next batch request."""

SQUARED = " squared"
"""Ends the names of slots for norms: where processes hold parts of a tensor, their squares add up."""

_NORMS = ("grad_norm", "param_norm", "update_ratio")
_SQUARES = {name + SQUARED: name for name in _NORMS}
_NONE_YET = (0.0, 0)

UNNAMED = "with several processes signals are named up front: Controller(..., signals=%s)"


def count_examples(batch: Any) -> int:
    """Length of the first tensor in a batch of any shape; 0 where there is none (text, objects)."""
    if type(batch) is not list:  # as most are
        if isinstance(batch, torch.Tensor):
            return batch.shape[0] if batch.ndim else 0
        if isinstance(batch, Mapping):
            batch = batch.values()
        elif not isinstance(batch, (list, tuple)):
            return 0
    for part in batch:
        # Mostly the first part is a tensor with examples in it.
        shape = part.shape if type(part) is torch.Tensor else (count_examples(part),)
        if shape and shape[0]:
            return int(shape[0])
    return 0


class Recorder:
    """Gathers one tick's measurements.

    Args:
        sources: Names of the data sources, for ``loss/source=NAME``; a source's number is its index.
        logged: Names that the loop will give to ``log``; others may follow where there is one process.
        fixed: Take no other names: processes that exchange a vector must agree on its layout.
    """

    def __init__(
        self, sources: Sequence[str] = (), logged: Iterable[str] = (), *, fixed: bool = False
    ) -> None:
        self._logged = dict.fromkeys(logged)
        self._spread_norms = False
        self.declare_sources(sources)
        self.micro_batches = 0
        self.examples = 0
        self.refused: set[str] = set()
        self._norms: tuple[torch.Tensor, torch.Tensor] | None = None
        self._fixed = fixed
        self._accumulation: float | None = None  # the division by hand that proved to be accumulation
        self._shares = False
        self.tells_supply = False
        """Whether it is wanted too whether as much comes of each source as is asked of it."""
        self._steps = 1
        self._loss: torch.Tensor | float | None = None  # sum over the micro-batches
        self._divisors: list[float] = []
        self.norm: torch.Tensor | float | None = None
        """Norm of this tick's gradients, once the loop's clipping has given it."""
        self._log: dict[str, tuple[torch.Tensor | float, int]] = {}

    def declare_sources(self, names: Sequence[str]) -> None:
        """Name the sources once the mixture is known."""
        self.by_source = SourceLosses(names)
        """Takes per-example losses."""
        self._lay_out()

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the data sources."""
        return self.by_source.names

    @property
    def spread_norms(self) -> bool:
        """Whether ``param_norm`` and ``update_ratio`` come from all processes' shares, given to ``norms``."""
        return self._spread_norms

    @spread_norms.setter
    def spread_norms(self, spread: bool) -> None:
        self._spread_norms = spread
        self._lay_out()

    def _lay_out(self) -> None:
        self._source_names = sources = [SOURCE_PREFIX + name for name in self.sources]
        self._supply: Supply | None = None
        norms = _NORMS if self._spread_norms else _NORMS[:1]
        own = [CONTROL, "loss", *(name + SQUARED for name in norms)]
        self._sources_at = len(own)
        self.names = [*own, *sources, *self._logged]
        """Layout of the vector: each name stands for a sum and a count."""

    def state_dict(self) -> dict[str, Any]:
        """What was learnt of the loop between two ticks: how it accumulates, and the names that it logs."""
        return {"accumulation": self._accumulation, "logged": list(self._logged)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what another recorder has learnt."""
        self._accumulation = state["accumulation"]
        if not self._fixed:
            self._logged = dict.fromkeys((*state["logged"], *self._logged))
            self._lay_out()

    def backward(self, loss: torch.Tensor, steps: int = 1, processes: int = 1) -> None:
        """Take the loss of one micro-batch, as ``accelerator.backward`` was given it.

        ``steps`` is the number by which Accelerate is about to divide it.
        """
        plain = type(loss) is torch.Tensor and loss.is_cpu and not loss.ndim
        value = loss.item() if plain else number(loss.detach().mean() if loss.ndim else loss)
        self._loss = value if self._loss is None else self._loss + value
        last = loss.grad_fn
        divided = last is not None and last.name() == DIVISION
        self._divisors.append(hand_divisor(loss) if divided else 1.0)
        self._steps = steps
        self._shares = steps > 1 and hand_factor(loss) == steps * processes
        self.micro_batches += 1

    def grad_norm(self, norm: torch.Tensor | float | None) -> None:
        """Take the gradient norm that the loop's own clipping computed, or this process's share of it."""
        if type(norm) is torch.Tensor and norm.is_cpu:
            self.norm = norm.item()
        elif norm is not None:
            self.norm = number(norm) if isinstance(norm, torch.Tensor) else norm

    def norms(self, shares: tuple[torch.Tensor, torch.Tensor] | None) -> None:
        """Take this process's shares of the norms of parameters and update, for the vector of this tick."""
        self._norms = shares

    def log(self, signals: Mapping[str, torch.Tensor | float]) -> None:
        """Take scalars from the loop; several in one tick are averaged."""
        for name, value in signals.items():
            if name not in self._logged and name != "loss" and not self._admits(name):
                continue
            taken = value if type(value) is float else scalar(name, value)
            held, count = self._log.get(name, _NONE_YET)
            self._log[name] = (held + taken, count + 1)

    def _admits(self, name: str) -> bool:
        """Whether a name that is new gets a slot."""
        if self._fixed:
            if name not in self.refused:
                self.refused.add(name)
                log.error(UNNAMED, sorted(self.refused))
            return False
        self._logged[name] = None
        self._lay_out()
        return True

    def supply(self, planned: Mapping[str, float]) -> Supply:
        """What is asked of the sources while these shares of them are planned."""
        if self._supply is None or self._supply.planned is not planned:
            self._supply = Supply(self.sources, planned, self._sources_at)
        return self._supply

    def measured(self, planned: Mapping[str, float] | None = None) -> dict[str, float]:
        """The tick's signals where one process has all of them: what ``unpack`` would read off its vector.

        ``planned`` are the sources' shares that were asked for, where their supply is told.
        """
        signals: dict[str, float] = {}
        loss, known = self._mean_loss()
        if known:
            signals["loss"] = float(loss)
        norm = self.norm
        if norm is not None:
            signals["grad_norm"] = sqrt(norm * norm if type(norm) is float else square(norm))
        sums, counts = self.by_source.host()
        for name, total, count in zip(self._source_names, sums, counts, strict=True):
            if count:
                signals[name] = total / count
        if self._log:
            for name in self._logged:
                if name in self._log:
                    logged, times = self._log[name]
                    signals[name] = float(logged / times)
        if planned is not None:
            self.supply(planned).tell(signals, counts)
        return signals

    def on_host(self, control: float = 0.0) -> tuple[list[float], list[float]]:
        """The tick's sums of all names, and their counts, read where they lie in host memory."""
        scalars, scalar_counts = self._scalars(control)
        sums, counts = list(map(float, scalars)), list(map(float, scalar_counts))
        at = self._sources_at
        sums[at:at], counts[at:at] = self.by_source.host()
        return sums, counts

    def device_vector(self, device: torch.device, control: float = 0.0) -> torch.Tensor:
        """Sums and counts as one vector, packed on the device without waiting for it."""
        sums, counts = self._scalars(control)
        dtype = torch.float32 if device.type == "mps" else torch.float64
        at = self._sources_at
        packed_sums, packed_counts = stack(sums, dtype, device), stack(counts, dtype, device)
        source_sums, source_counts = self.by_source.device(device, dtype)
        return torch.cat(
            [
                packed_sums[:at],
                source_sums,
                packed_sums[at:],
                packed_counts[:at],
                source_counts,
                packed_counts[at:],
            ]
        )

    def _scalars(self, control: float) -> tuple[list[torch.Tensor | float], list[torch.Tensor | float]]:
        loss, loss_count = self._mean_loss()
        norm = self.norm
        sums: list[torch.Tensor | float]
        counts: list[torch.Tensor | float]
        if norm is None:
            sums, counts = [control, loss, 0.0], [1.0, loss_count, 0.0]
        else:
            squared = norm * norm if type(norm) is float else square(norm)
            sums, counts = [control, loss, squared], [1.0, loss_count, 1.0]
        if self._spread_norms:
            parameters, update = (0.0, 0.0) if self._norms is None else map(square, self._norms)
            # The mean of the ratio's slot is the sum of one's squares over the sum of the other's.
            sums += [parameters, update]
            counts += [float(self._norms is not None), parameters]
        for name in self._logged:
            total, count = self._log.get(name, _NONE_YET)
            sums.append(total / count if count else 0.0)
            counts.append(1.0 if count else 0.0)
        return sums, counts

    def clear(self) -> None:
        """Begin the next tick."""
        self._loss = self.norm = None
        self._divisors = []
        self.by_source.clear()
        self._log = {}
        self.micro_batches = self.examples = 0

    def _mean_loss(self) -> tuple[torch.Tensor | float, float]:
        if "loss" in self._log:
            total, count = self._log["loss"]
            return total / count, 1.0
        if self._loss is None:
            return 0.0, 0.0
        if self._shares:
            # Each micro-batch gave its share of the window's loss, times what Accelerate divides by.
            return self._loss / self._steps, 1.0
        divisor, count = self._divisors[0], self.micro_batches
        if divisor > 1.0 and set(self._divisors) == {divisor}:
            if divisor == count:
                self._accumulation = divisor
            elif self._accumulation is None:
                # A mean over the batch, or a loop whose first window is short: the next tick tells which.
                self._accumulation = 1.0
                return 0.0, 0.0
        scale = divisor if divisor == self._accumulation else 1.0
        return self._loss * (scale / count), 1.0

    @property
    def doubt(self) -> str | None:
        """What cannot be known of this tick's loss, for the start report; None where all is clear."""
        if self.micro_batches < 2 or self._steps > 1 or max(self._divisors) > 1.0 or "loss" in self._log:
            return None
        return (
            f"loss: {self.micro_batches} micro-batches a step and no division by their number: taken as "
            "their mean; if each is its share of a sum over the step, controller.log(loss=...) with that sum"
        )


def unpack(
    names: Sequence[str],
    sums: Sequence[float],
    counts: Sequence[float],
    supply: Supply | None = None,
) -> dict[str, float]:
    """Means of what was measured, by name, and the sources' supply; what no process measured is missing."""
    signals: dict[str, float] = {}
    for name, total, count in zip(names, sums, counts, strict=True):
        if count > 0 or count != count:
            if name in _SQUARES:
                signals[_SQUARES[name]] = sqrt(total / count)
            else:
                signals[name] = total / count
    if supply is not None:
        supply.tell(signals, counts[supply.slots])
    return signals
