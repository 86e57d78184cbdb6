"""The memory that snapshots lie in: made once, its pages touched, then used again and again."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

import psutil
import torch

from ..policies.model import Store
from .side_copy import CudaStreams, Event, SideCopy

MEMORY_SHARE = 0.8
"""Share of the free memory that the ring may take; beyond it the run would risk the out-of-memory killer."""

Buffer = list[torch.Tensor]

Shapes = list[tuple[torch.Size, torch.dtype]]


class NoMemory(Exception):
    """There is no memory for another buffer; the message says why."""


class Buffers:
    """Makes buffers, keeps spare ones, and copies into them.

    Args:
        device: Where training runs.
        store: Where the buffers lie: in host memory, pinned for a CUDA device, or beside each tensor.
        available: Free bytes where they lie.
        side: Copies beside the training; None where copies are made in its course.
    """

    def __init__(
        self, device: torch.device, store: Store, available: Callable[[], int], side: SideCopy | None
    ) -> None:
        self.spare: list[Buffer] = []
        self._lent: dict[int, Shapes] = {}
        self._shapes: Shapes = []
        self._on_device = store is Store.DEVICE
        self._pinned = device.type == "cuda" and not self._on_device
        self._available = available
        self._side = side
        self.beside = side is not None
        """Whether copies are made beside the training, which then has to wait for them at times."""

    def lend(self, tensors: Sequence[torch.Tensor]) -> Buffer:
        """A buffer for a copy of these: a spare one, or a new one.

        Raises:
            NoMemory: none is spare, and none can be made.
        """
        self._expect(tensors)
        buffer = self.spare.pop() if self.spare else self._make(tensors, 1)
        self._lent[id(buffer)] = self._shapes
        return buffer

    def copy(self, buffer: Buffer, tensors: Sequence[torch.Tensor]) -> None:
        """Copy such that all later work on the current stream comes after it and after earlier copies."""
        self.settle()
        copy_into(buffer, list(tensors), non_blocking=self._pinned)

    def copy_beside(
        self,
        buffer: Buffer,
        tensors: Sequence[torch.Tensor],
        changing: Callable[[], Collection[int]] | None,
    ) -> Event | None:
        """Copy such that training need not wait before the next ``settle``; returns when it is complete.

        ``changing`` gives the indices of what may change before then; None: all of it. Where there is no
        side stream the copy is made in training's course, and None is returned.
        """
        if self._side is None:
            self.copy(buffer, tensors)
            return None
        return self._side.copy(buffer, tensors, range(len(tensors)) if changing is None else changing())

    def settle(self) -> None:
        """What training does from now on comes after the copies."""
        if self._side is not None:
            self._side.settle()

    def waited(self) -> float:
        """Seconds that training waited for a copy, as far as they are known and were not told before."""
        return (self._side.waited() or 0.0) if self._side is not None else 0.0

    def release(self, buffer: Buffer, most: int) -> None:
        """Take a buffer back: it serves again if its shapes are still wanted and fewer than ``most`` do."""
        shapes = self._lent.pop(id(buffer))
        in_use = sum(lent is self._shapes for lent in self._lent.values())
        if shapes is self._shapes and in_use + len(self.spare) < most:
            self.spare.append(buffer)

    def reserve(self, tensors: Sequence[torch.Tensor], number: int, sharers: int) -> None:
        """Make spare buffers of these shapes until there are so many.

        Raises:
            NoMemory: there is no memory for so many; those that could be made are there.
        """
        self._expect(tensors)
        while len(self.spare) < number:
            self.spare.append(self._make(tensors, sharers))

    def bytes_of(self, tensors: Iterable[torch.Tensor]) -> int:
        """Memory that a buffer for these takes; torch rounds what it pins up to powers of two."""
        sizes = (t.numel() * t.element_size() for t in tensors)
        return sum(1 << (size - 1).bit_length() if self._pinned and size else size for size in sizes)

    def fitting(self, size: int, sharers: int) -> int:
        """How many buffers of this size free memory holds."""
        return int(MEMORY_SHARE * self._available() / sharers / size)

    def _expect(self, tensors: Sequence[torch.Tensor]) -> None:
        """Buffers of other shapes are of no more use: an optimizer has no moments before its first step."""
        if (shapes := shapes_of(tensors)) != self._shapes:
            self._shapes, self.spare = shapes, []

    def _make(self, tensors: Sequence[torch.Tensor], sharers: int) -> Buffer:
        size = self.bytes_of(tensors)
        if size and not self.fitting(size, sharers):
            raise NoMemory(f"{size / 2**20:.0f} MiB do not fit in free memory")
        try:
            # Zeros, so that pages are touched: it costs many times a copy, and is not to come with one.
            return [
                torch.zeros_like(t, device=None if self._on_device else "cpu", pin_memory=self._pinned)
                for t in tensors
            ]
        except (MemoryError, RuntimeError) as error:  # torch's own out-of-memory errors are RuntimeErrors
            raise NoMemory(str(error).partition("\n")[0]) from error


def buffers_for(device: torch.device, store: Store, available: Callable[[], int] | None = None) -> Buffers:
    """The buffers of a run on this device."""
    beside = device.type == "cuda" and store is Store.HOST
    return Buffers(
        device,
        store,
        available or (lambda: free_memory(device, store)),
        SideCopy(CudaStreams(device), copy_into) if beside else None,
    )


def free_memory(device: torch.device, store: Store) -> int:
    """Free bytes where snapshots are to lie: the device's own memory, or the host's."""
    if store is Store.DEVICE and device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return int(psutil.virtual_memory().available)


def copy_into(to: list[torch.Tensor], live: list[torch.Tensor], non_blocking: bool = True) -> None:
    """Put a copy on the current stream."""
    if to:
        with torch.no_grad():
            torch._foreach_copy_(to, live, non_blocking=non_blocking)


def shapes_of(tensors: Sequence[torch.Tensor]) -> Shapes:
    """What a buffer must agree in to be of use for these tensors."""
    return [(t.shape, t.dtype) for t in tensors]
