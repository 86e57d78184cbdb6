"""``repeats``: whether a batch is the one before it once more, as a loader gives it that is stuck."""

from __future__ import annotations

from typing import Any
from zlib import crc32

import torch

from .fingerprint import tensors_of

REPEATS = "repeats"

_LOOKED_AT = 256
"""Elements of a tensor, all over it, that are compared; beyond the first agreement all elements are."""


class Repeats:
    """Compares each batch with the one before it, where its tensors lie in host memory.

    Only the large tensors count, those of at least half as many elements as the largest: what a collation adds
    to a batch, the numbers of its examples, say, goes on where the data do not. On another device a look would
    wait for it, or cost a kernel a tensor: there nothing is measured.

    Batches that are almost all zeros may agree by chance wherever one looks. So once two have agreed, every
    later batch is read as a whole, which takes about a millisecond a megabyte: a false 1 there is once only.
    """

    def __init__(self) -> None:
        self._last: tuple[int, ...] = ()
        self._branch = 0
        self._closely = False

    def look(self, batch: Any, branch: int = 0) -> float | None:
        """1 for the batch before once more, 0 for another one; None where that cannot be told.

        After a rollback, on another ``branch``, the first one is not compared: it may well come again.
        """
        tensors = [tensor for tensor in tensors_of(batch) if _readable(tensor)]
        most = max((tensor.numel() for tensor in tensors), default=0)
        large = [tensor for tensor in tensors if 2 * tensor.numel() >= most]
        now = self._sums(large)
        last, self._last = self._last if branch == self._branch else (), now
        self._branch = branch
        if not (most and last):
            return None
        if now == last and not self._closely:
            self._closely = True
            self._last = self._sums(large)
        return float(now == last)

    def _sums(self, tensors: list[torch.Tensor]) -> tuple[int, ...]:
        return tuple(crc32(_bytes(tensor, all_of_it=self._closely)) for tensor in tensors)


def _readable(tensor: torch.Tensor) -> bool:
    return tensor.device.type == "cpu" and tensor.layout is torch.strided and not tensor.is_nested


def _bytes(tensor: torch.Tensor, *, all_of_it: bool) -> Any:
    flat = tensor.reshape(-1)
    if not all_of_it:
        flat = flat[:: max(1, flat.numel() // _LOOKED_AT)]
    return flat.contiguous().view(torch.uint8).numpy()
