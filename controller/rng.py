"""Every random state that a training step may draw from, captured and put back."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True, slots=True)
class RandomState:
    """The states of Python's, numpy's, torch's and every device's global generator, and of some own ones."""

    python: Any
    numpy: Any
    torch_cpu: torch.Tensor
    devices: tuple[torch.Tensor, ...]
    generators: tuple[torch.Tensor, ...]

    def same_as(self, other: RandomState) -> bool:
        """Whether everything drawn from here on would be the same."""
        mine = (self.torch_cpu, *self.devices, *self.generators)
        others = (other.torch_cpu, *other.devices, *other.generators)
        return (
            self.python == other.python
            and all(np.array_equal(a, b) for a, b in zip(self.numpy, other.numpy, strict=True))
            and len(mine) == len(others)
            and all(torch.equal(a, b) for a, b in zip(mine, others, strict=True))
        )


def capture(generators: tuple[torch.Generator, ...] = ()) -> RandomState:
    """Take the states as they are now; ``generators`` are a loader's own."""
    devices: list[torch.Tensor] = []
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        devices = torch.cuda.get_rng_state_all()
    return RandomState(
        python=random.getstate(),
        numpy=np.random.get_state(),
        torch_cpu=torch.get_rng_state(),
        devices=tuple(devices),
        generators=tuple(generator.get_state() for generator in generators),
    )


def restore(state: RandomState, generators: tuple[torch.Generator, ...] | None = ()) -> None:
    """Put the states back; ``generators`` in the order in which they were captured, or None to leave them."""
    random.setstate(state.python)
    np.random.set_state(state.numpy)
    torch.set_rng_state(state.torch_cpu)
    if state.devices:
        torch.cuda.set_rng_state_all(list(state.devices))
    if generators is None:
        return
    for generator, own in zip(generators, state.generators, strict=True):
        generator.set_state(own)


def generators_of(loader: Any) -> tuple[torch.Generator, ...]:
    """The generators that a loader has of its own: for its order, its workers' seeds, and its processes."""
    owners, layer = [loader], loader
    while layer is not None:
        owners.append(getattr(layer, "sampler", None))
        layer = getattr(layer, "batch_sampler", None)
    found = [getattr(loader, "synchronized_generator", None)]
    found += [getattr(owner, "generator", None) for owner in owners]
    return tuple({id(own): own for own in found if isinstance(own, torch.Generator)}.values())
