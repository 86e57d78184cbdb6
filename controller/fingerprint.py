"""Whether the batch that a place gives again is the one that it gave before.

Random augmentation inside a data set, or data that changed between two processes, cannot be seen in advance;
but it shows at the first batch that is drawn again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

Fingerprint = tuple[tuple[tuple[int, ...], torch.Tensor], ...]
"""Shape and sum of each tensor of a batch; the sums stay on their device, so that nothing waits for them."""


def fingerprint(batch: Any) -> Fingerprint:
    """What a batch is known by: enough to tell augmented examples apart, and far cheaper than a copy."""
    return tuple((tuple(t.shape), _sum(t)) for t in tensors_of(batch))


def same(a: Fingerprint, b: Fingerprint) -> bool:
    """Whether two batches agree, as far as that can be told; waits for a device."""
    return len(a) == len(b) and all(
        shape == other_shape and torch.equal(total.cpu().view(torch.int64), other.cpu().view(torch.int64))
        for (shape, total), (other_shape, other) in zip(a, b, strict=True)
    )


def tensors_of(batch: Any) -> Iterator[torch.Tensor]:
    """All tensors of a batch of any shape, in their order."""
    if isinstance(batch, torch.Tensor):
        yield batch.detach()
    elif isinstance(batch, Mapping):
        for value in batch.values():
            yield from tensors_of(value)
    elif isinstance(batch, (list, tuple)):
        for value in batch:
            yield from tensors_of(value)


def _sum(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.is_sparse:
        tensor = tensor.coalesce().values()
    wide = torch.float32 if tensor.device.type == "mps" else torch.float64
    return (tensor.abs() if tensor.is_complex() else tensor).sum(dtype=wide).double()
