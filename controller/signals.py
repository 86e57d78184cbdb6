"""What a tick measures, gathered where the user's loop makes it, brought to the host in one piece.

Everything stays on its device until the optimizer's step begins: then one fixed vector of sums and
counts is packed, reduced over the processes (the tick's only collective) and read.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..monitors.types import SOURCE_PREFIX, SUPPLY_PREFIX
from .shards import whole
from .source_losses import SourceLosses

CONTROL = "control"
"""Slot of the vector by which rank 0 announces a command for the next batch request."""

SCARCE = 0.3
"""Of what is asked of a source so much comes where it is scarce: what evidence is gathered for."""

SQUARED = " squared"
"""Ends the names of slots for norms: where processes hold parts of a tensor, their squares add up."""


def hand_divisor(loss: torch.Tensor) -> float:
    """The number by which the loop itself divided the loss, read off the graph; 1 if none.

    Loops that count accumulation by hand write ``loss = loss / steps`` before ``backward``: the
    division by a Python number is then the graph's last node.
    """
    number = _whole_operand(loss.grad_fn, "DivBackward0")
    return number if number >= 2.0 else 1.0


def hand_factor(loss: torch.Tensor) -> float:
    """The product of the whole Python numbers by which the loop at last multiplied the loss; 1 if none.

    A loop that divides by all tokens of a window multiplies by Accelerate's divisor, and by the number of
    processes, to undo what ``backward`` and the gradients' mean will divide by.
    """
    node, factor = loss.grad_fn, 1.0
    while (number := _whole_operand(node, "MulBackward0")) >= 1.0:
        assert node is not None
        node, factor = node.next_functions[0][0], factor * number
    return factor


def _whole_operand(node: Any, name: str) -> float:
    """The whole Python number that a node of the graph computed with; 0 if it is no such node."""
    if node is None or node.name() != name:
        return 0.0
    operand = getattr(node, "_saved_other", None)
    # Python's numbers are kept as host tensors of these two types: reading one waits for no device.
    if not isinstance(operand, torch.Tensor) or operand.dtype not in (torch.int64, torch.float64):
        return 0.0
    if operand.ndim or operand.device.type != "cpu":
        return 0.0
    number = float(operand)
    return number if number.is_integer() else 0.0


def count_examples(batch: Any) -> int:
    """Length of the first tensor in a batch of any shape; 0 where there is none (text, objects)."""
    if isinstance(batch, torch.Tensor):
        return batch.shape[0] if batch.ndim else 0
    if not isinstance(batch, (list, tuple)):
        if not isinstance(batch, Mapping):
            return 0
        batch = batch.values()
    return next(filter(None, map(count_examples, batch)), 0)


@dataclass(slots=True)
class _Loss:
    total: torch.Tensor | float | None = None
    count: int = 0


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
        self._logged = list(dict.fromkeys(logged))
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
        self._loss = _Loss()
        self._divisors: list[float] = []
        self._grad_norm: torch.Tensor | float | None = None
        self._log: dict[str, tuple[torch.Tensor | float, int]] = {}

    def declare_sources(self, names: Sequence[str]) -> None:
        """Name the sources once the mixture is known."""
        self._sources = SourceLosses(names)
        self._lay_out()

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the data sources."""
        return self._sources.names

    @property
    def spread_norms(self) -> bool:
        """Whether ``param_norm`` and ``update_ratio`` come from all processes' shares, given to ``norms``."""
        return self._spread_norms

    @spread_norms.setter
    def spread_norms(self, spread: bool) -> None:
        self._spread_norms = spread
        self._lay_out()

    def _lay_out(self) -> None:
        sources = (SOURCE_PREFIX + name for name in self.sources)
        own = [CONTROL, "loss", *(name + SQUARED for name in self._norm_names())]
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
            self._logged = list(dict.fromkeys((*state["logged"], *self._logged)))
            self._lay_out()

    def _norm_names(self) -> list[str]:
        return ["grad_norm", "param_norm", "update_ratio"] if self._spread_norms else ["grad_norm"]

    def backward(self, loss: torch.Tensor, steps: int = 1, processes: int = 1) -> None:
        """Take the loss of one micro-batch, as ``accelerator.backward`` was given it.

        ``steps`` is the number by which Accelerate is about to divide it.
        """
        value = _number(loss if loss.ndim == 0 else loss.detach().mean())
        self._loss.total = value if self._loss.total is None else self._loss.total + value
        self._loss.count += 1
        self._divisors.append(hand_divisor(loss))
        self._steps = steps
        self._shares = steps > 1 and hand_factor(loss) == steps * processes
        self.micro_batches += 1

    def grad_norm(self, norm: torch.Tensor | float) -> None:
        """Take the gradient norm that the loop's own clipping computed, or this process's share of it."""
        self._grad_norm = _number(norm) if isinstance(norm, torch.Tensor) else norm

    def norms(self, shares: tuple[torch.Tensor, torch.Tensor] | None) -> None:
        """Take this process's shares of the norms of parameters and update, for the vector of this tick."""
        self._norms = shares

    @property
    def has_grad_norm(self) -> bool:
        """Whether the loop's clipping has given the norm of this tick's gradients."""
        return self._grad_norm is not None

    def log(self, signals: Mapping[str, torch.Tensor | float]) -> None:
        """Take scalars from the loop; several in one tick are averaged."""
        for name, value in signals.items():
            if name != "loss" and name not in self._logged:
                if self._fixed:
                    self.refused.add(name)
                    continue
                self._logged.append(name)
                self._lay_out()
            if isinstance(value, torch.Tensor) and value.numel() != 1:
                raise ValueError(f"log({name}=...): one number is wanted, got shape {tuple(value.shape)}")
            scalar = _number(value) if isinstance(value, torch.Tensor) else float(value)
            held, count = self._log.get(name, (0.0, 0))
            self._log[name] = (held + scalar, count + 1)

    def log_examples(self, losses: torch.Tensor, sources: torch.Tensor | Sequence[str]) -> None:
        """Add per-example losses [B] to their sources' sums; ``sources`` are numbers [B] or names."""
        self._sources.add(losses, sources)

    def host_vector(self, control: float = 0.0) -> list[float]:
        """The tick's sums of all names, then their counts, read where they lie in host memory."""
        sums, counts = self._scalars(control)
        source_sums, source_counts = self._sources.host()
        at = self._sources_at
        floats, numbers = list(map(float, sums)), list(map(float, counts))
        return [*floats[:at], *source_sums, *floats[at:], *numbers[:at], *source_counts, *numbers[at:]]

    def device_vector(self, device: torch.device, control: float = 0.0) -> torch.Tensor:
        """The same vector packed on the device, without waiting for it."""
        sums, counts = self._scalars(control)
        dtype = torch.float32 if device.type == "mps" else torch.float64
        at = self._sources_at
        packed_sums, packed_counts = _stack(sums, dtype, device), _stack(counts, dtype, device)
        source_sums, source_counts = self._sources.device(device, dtype)
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
        sums: list[torch.Tensor | float] = [control, loss]
        counts: list[torch.Tensor | float] = [1.0, loss_count]
        norm = self._grad_norm
        sums.append(0.0 if norm is None else _square(norm))
        counts.append(float(norm is not None))
        if self._spread_norms:
            parameters, update = (0.0, 0.0) if self._norms is None else map(_square, self._norms)
            # The mean of the ratio's slot is the sum of one's squares over the sum of the other's.
            sums += [parameters, update]
            counts += [float(self._norms is not None), parameters]
        for name in self._logged:
            total, count = self._log.get(name, (0.0, 0))
            sums.append(total / max(count, 1))
            counts.append(float(count > 0))
        return sums, counts

    def clear(self) -> None:
        """Begin the next tick."""
        self._loss = _Loss()
        self._divisors = []
        self._grad_norm = None
        self._sources.clear()
        self._log = {}
        self.micro_batches = 0
        self.examples = 0

    def _mean_loss(self) -> tuple[torch.Tensor | float, float]:
        if "loss" in self._log:
            total, count = self._log["loss"]
            return total / count, 1.0
        if self._loss.total is None:
            return 0.0, 0.0
        if self._shares:
            # Each micro-batch gave its share of the window's loss, times what Accelerate divides by.
            return self._loss.total / self._steps, 1.0
        divisor, count = self._divisors[0], self._loss.count
        if divisor > 1.0 and set(self._divisors) == {divisor}:
            if divisor == count:
                self._accumulation = divisor
            elif self._accumulation is None:
                # A mean over the batch, or a loop whose first window is short: the next tick tells which.
                self._accumulation = 1.0
                return 0.0, 0.0
        scale = divisor if divisor == self._accumulation else 1.0
        return self._loss.total * (scale / count), 1.0

    @property
    def doubt(self) -> str | None:
        """What cannot be known of this tick's loss, for the start report; None where all is clear."""
        if self._loss.count < 2 or self._steps > 1 or max(self._divisors) > 1.0 or "loss" in self._log:
            return None
        return (
            f"loss: {self._loss.count} micro-batches a step and no division by their number: taken as their "
            "mean; if each is its share of a sum over the step, controller.log(loss=...) with that sum"
        )


def unpack(
    names: Sequence[str], vector: Sequence[float], planned: Mapping[str, float] | None = None
) -> dict[str, float]:
    """Means of what was measured, by name; what no process measured is missing.

    ``planned`` are the sources' shares that were asked for: the evidence that as much came of each is then
    told too, as ``monitors.scarce`` reads it.
    """
    signals: dict[str, float] = {}
    for name, total, count in zip(names, vector, vector[len(names) :], strict=False):
        if not (count > 0 or count != count):
            continue
        if name.endswith(SQUARED):
            signals[name.removesuffix(SQUARED)] = math.sqrt(total / count)
        else:
            signals[name] = total / count
    if planned:
        signals |= _supplies(dict(zip(names, vector[len(names) :], strict=False)), planned)
    return signals


def _supplies(counts: Mapping[str, float], planned: Mapping[str, float]) -> dict[str, float]:
    """The logarithm of Poisson's likelihood ratio, for all of what was planned against ``SCARCE`` of it."""
    came = {name: counts.get(SOURCE_PREFIX + name, 0.0) for name in planned}
    whole = sum(came.values())
    return {
        SUPPLY_PREFIX + name: -(1 - SCARCE) * share * whole - math.log(SCARCE) * came[name]
        for name, share in planned.items()
        if share > 0 and whole > 0
    }


def _square(norm: torch.Tensor | float) -> torch.Tensor | float:
    # Twice the exponent: what is finite in single precision has to stay so.
    norm = norm.double() if isinstance(norm, torch.Tensor) and norm.device.type != "mps" else norm
    return norm * norm


def _number(scalar: torch.Tensor) -> torch.Tensor | float:
    # In host memory it is read at once: arithmetic on tensors of one number costs ten times as much.
    scalar = whole(scalar)
    return scalar.item() if scalar.is_cpu else scalar.detach()


def _stack(values: Sequence[torch.Tensor | float], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    # Host numbers are put together first: one transfer instead of one for each.
    host = torch.tensor([v if not isinstance(v, torch.Tensor) else 0.0 for v in values], dtype=dtype)
    packed = host.to(device, non_blocking=True)
    for i, value in enumerate(values):
        if isinstance(value, torch.Tensor):
            packed[i] = value.to(device=device, dtype=dtype, non_blocking=True)
    return packed
