"""From device to host without waiting: what is sent at one tick is read at the next."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..monitors.types import Sample
from .signals import unpack
from .supply import Supply


@dataclass(slots=True)
class _Parcel:
    sample: Sample
    names: tuple[str, ...]
    extras: tuple[str, ...]
    values: torch.Tensor
    arrived: Any
    supply: Supply | None


class Transport:
    """Carries packed vectors to the host; a parcel is opened one tick later, when it has long arrived.

    Args:
        device: Where the vectors are packed.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._parcels: deque[_Parcel] = deque()

    def send(
        self,
        sample: Sample,
        names: Sequence[str],
        vector: torch.Tensor,
        extras: Mapping[str, torch.Tensor],
        supply: Supply | None = None,
    ) -> None:
        """Start the copy of a reduced vector, and of scalars measured after it, for this sample.

        ``supply`` is what was asked of the sources at its tick, where that is of interest.
        """
        scalars = [value.reshape(1).to(vector.dtype) for value in extras.values()]
        packed = torch.cat([vector, *scalars])
        on_cuda = packed.device.type == "cuda"
        values = torch.empty(packed.shape, dtype=packed.dtype, pin_memory=on_cuda)
        values.copy_(packed, non_blocking=True)
        arrived = None
        if on_cuda:
            arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            arrived.record()
        self._parcels.append(_Parcel(sample, tuple(names), tuple(extras), values, arrived, supply))

    def receive(self, *, all_of_them: bool = False) -> list[Sample]:
        """Samples that are complete now: all but the newest, or every one at the end of a run."""
        ready = []
        while len(self._parcels) > (0 if all_of_them else 1):
            ready.append(_open(self._parcels.popleft()))
        return ready


def _open(parcel: _Parcel) -> Sample:
    if parcel.arrived is not None:
        parcel.arrived.synchronize()
    values = parcel.values.tolist()
    count = len(parcel.names)
    cut = 2 * count
    parcel.sample.signals.update(unpack(parcel.names, values[:count], values[count:cut], parcel.supply))
    parcel.sample.signals.update(zip(parcel.extras, values[cut:], strict=True))
    return parcel.sample
