"""``repeats``: whether a batch has just been there, as when a loader is stuck."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

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
        self._last: deque[bytes] = deque(maxlen=_REMEMBERED)
        self._plain = True  # so far batches were as most are: flat, and numpy could read what counts

    def look(self, batch: Any) -> float | None:
        """1 for a batch that has just been there, 0 for another one; None where that cannot be told."""
        if type(batch) is list:
            parts = batch
        else:
            parts = list(batch.values() if isinstance(batch, Mapping) else tensors_of(batch))
        if self._plain:
            try:
                now = _marks(parts, torch.Tensor.numpy)
            except (AttributeError, TypeError, RuntimeError):
                self._plain = False  # for good: an error at every tick would cost more than the questions
        if not self._plain:
            now = _marks(_on_host(parts), _read)
        known, first = now in self._last, not self._last
        self._last.append(now)
        return None if first or not now else float(known)


def _marks(tensors: Sequence[torch.Tensor], read: Callable[[torch.Tensor], Any]) -> bytes:
    """Elements of each tensor that counts, one after another: none where all are empty."""
    sizes = []
    most = 1
    for tensor in tensors:
        sizes.append(size := tensor.numel())
        if size > most:
            most = size
    marks = b""
    for tensor, size in zip(tensors, sizes, strict=True):
        if 2 * size >= most:
            values = read(tensor)
            # An odd stride, so that it falls into all columns of a picture.
            stride = values.size // _LOOKED_AT | 1
            marks += (values if stride == 1 else values.reshape(-1)[::stride]).tobytes()
    return marks


def _on_host(parts: Iterable[Any]) -> list[torch.Tensor]:
    """What of them, or within them, are tensors of the host."""
    found: list[torch.Tensor] = []
    for part in parts:
        # A generator for each of them would cost more than the rest.
        if type(part) is not torch.Tensor:
            found += [each for each in tensors_of(part) if each.is_cpu and each.layout is torch.strided]
        elif part.is_cpu and part.layout is torch.strided:
            found.append(part)
    return found


def _read(tensor: torch.Tensor) -> Any:
    """Its values for numpy; of a type that numpy does not know its bytes."""
    if tensor.dtype not in _NUMPY_KNOWS or tensor.requires_grad:
        tensor = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    return tensor.numpy()
