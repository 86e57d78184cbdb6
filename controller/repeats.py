"""``repeats``: whether a batch is the one before it once more, as a loader gives it that is stuck."""

from __future__ import annotations

from typing import Any
from zlib import crc32

import torch

from .fingerprint import tensors_of

REPEATS = "repeats"

_LOOKED_AT = 256
"""Elements of a tensor, all over it, that are compared: batches that agree in all of those are one."""


class Repeats:
    """Compares each batch with the one before it, where its tensors lie in host memory.

    Only the large tensors count, those of at least half as many elements as the largest: what a collation adds
    to a batch, the numbers of its examples, say, goes on where the data do not. On another device a look would
    wait for it, or cost a kernel a tensor: there nothing is measured.
    """

    def __init__(self) -> None:
        self._last: list[int] = []

    def look(self, batch: Any) -> float | None:
        """1 for the batch before once more, 0 for another one; None where that cannot be told."""
        tensors = [
            tensor for tensor in tensors_of(batch) if tensor.device.type == "cpu" and not tensor.is_sparse
        ]
        most = max((tensor.numel() for tensor in tensors), default=0)
        now = [crc32(_start(tensor)) for tensor in tensors if 2 * tensor.numel() >= most]
        last, self._last = self._last, now
        return float(now == last) if most and last else None


def _start(tensor: torch.Tensor) -> bytes:
    flat = tensor.reshape(-1)  # a column, say, is still a view with a stride
    spread = flat[:: flat.numel() // _LOOKED_AT | 1]  # odd, so that it falls into all columns of a picture
    return spread.contiguous().view(torch.uint8).numpy().tobytes()
