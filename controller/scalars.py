"""Single numbers of a tick, wherever they lie: read where that is free, else left on their device."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .shards import whole


def square(norm: torch.Tensor | float) -> torch.Tensor | float:
    """Of a norm."""
    # Twice the exponent: what is finite in single precision has to stay so.
    norm = norm.double() if isinstance(norm, torch.Tensor) and norm.device.type != "mps" else norm
    return norm * norm


def number(scalar: torch.Tensor) -> torch.Tensor | float:
    """A scalar as it is cheapest to compute with."""
    # In host memory it is read at once: arithmetic on tensors of one number costs ten times as much.
    if type(scalar) is not torch.Tensor:
        scalar = whole(scalar)
    return scalar.item() if scalar.is_cpu else scalar.detach()


def scalar(name: str, value: torch.Tensor | float) -> torch.Tensor | float:
    """What the loop logs under a name.

    Raises:
        ValueError: it is more than one number, or none.
    """
    if not isinstance(value, torch.Tensor):
        return float(value)
    if value.numel() != 1:
        raise ValueError(f"log({name}=...): one number is wanted, got shape {tuple(value.shape)}")
    return number(value)


def stack(values: Sequence[torch.Tensor | float], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Numbers from anywhere as a vector on a device, without waiting for it."""
    # Host numbers are put together first: one transfer instead of one for each.
    host = torch.tensor([v if not isinstance(v, torch.Tensor) else 0.0 for v in values], dtype=dtype)
    packed = host.to(device, non_blocking=True)
    for i, value in enumerate(values):
        if isinstance(value, torch.Tensor):
            packed[i] = value.to(device=device, dtype=dtype, non_blocking=True)
    return packed
