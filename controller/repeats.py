"""``repeats``: whether a batch has just been there, as when a loader is stuck."""

from __future__ import annotations

from collections import deque
from typing import Any
from zlib import crc32

import torch

from .fingerprint import tensors_of

REPEATS = "repeats"

_REMEMBERED = 8  # batches

_LOOKED_AT = 256
"""Elements of a tensor, all over it, that are compared: batches that agree in all of those are one."""


class Repeats:
    """Compares each batch with the eight before it, where its tensors lie in host memory.

    Only the large tensors count, those of at least half as many elements as the largest: what a collation
    adds to a batch, the numbers of its examples, say, goes on where the data do not. On another device a look
    would wait for it, or cost a kernel a tensor: there nothing is measured.
    """

    def __init__(self) -> None:
        self._last: deque[list[int]] = deque(maxlen=_REMEMBERED)

    def look(self, batch: Any) -> float | None:
        """1 for a batch that has just been there, 0 for another one; None where that cannot be told."""
        tensors = [
            tensor for tensor in tensors_of(batch) if tensor.device.type == "cpu" and not tensor.is_sparse
        ]
        most = max((tensor.numel() for tensor in tensors), default=0)
        now = [crc32(_start(tensor)) for tensor in tensors if 2 * tensor.numel() >= most]
        known, first = now in self._last, not self._last
        self._last.append(now)
        return None if first or not most else float(known)


def _start(tensor: torch.Tensor) -> bytes:
    flat = tensor.reshape(-1)  # a column, say, is still a view with a stride
    spread = flat[:: flat.numel() // _LOOKED_AT | 1]  # odd, so that it falls into all columns of a picture
    return spread.contiguous().view(torch.uint8).numpy().tobytes()
