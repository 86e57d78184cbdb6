"""``repeats``: whether a batch has just been there, as when a loader is stuck."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any
from zlib import crc32

import torch

from .fingerprint import tensors_of

REPEATS = "repeats"

_REMEMBERED = 8  # batches

_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
_NUMPY_KNOWS = frozenset((torch.bool, *_INTEGERS, torch.float16, torch.float32, torch.float64))

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
        found: list[torch.Tensor] = []
        most = 0
        # By its values where it is as flat as most are: a generator for each would cost more than the rest.
        flat = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, list) else None
        for tensor in tensors_of(batch) if flat is None else flat:
            if type(tensor) is not torch.Tensor:
                found += [each for each in tensors_of(tensor) if each.is_cpu and each.layout is torch.strided]
            elif tensor.is_cpu and tensor.layout is torch.strided:
                found.append(tensor)
        for tensor in found:
            most = max(most, tensor.numel())
        now = []
        for tensor in found:
            if most and 2 * tensor.numel() >= most:
                if tensor.dtype not in _NUMPY_KNOWS or tensor.requires_grad:
                    tensor = tensor.detach().contiguous().view(torch.uint8)
                values = tensor.numpy()
                # An odd stride, so that it falls into all columns of a picture.
                now.append(crc32(values.reshape(-1)[:: values.size // _LOOKED_AT | 1].tobytes()))
        known, first = now in self._last, not self._last
        self._last.append(now)
        return None if first or not most else float(known)
