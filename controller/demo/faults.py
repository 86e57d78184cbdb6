"""What goes wrong in the demo's world. Nothing here is known to the controller.

Both faults are properties of the world, not of a run. The storage of one source breaks for a stretch
of *reads* and is whole again afterwards, whatever the trainer does meanwhile: text that is re-read after
a rollback is healthy or not by when it is read, and waiting is what cures it. Without a controller
nothing is read twice, so there the stretch of reads is that stretch of the data stream. The schedule
is wrong from a *schedule step* on, for good: rewinding the schedule leads into the same wrong rate again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import cos, pi

from torch import Tensor
from torch.utils.data import Dataset

from .corpus import Corpus, Windows

Item = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Faults:
    """A source that delivers binaries for a while, and a warm restart that nobody wanted.

    Args:
        source: The source whose storage breaks.
        broken_from, broken_until: The batches' worth of reads during which it delivers binaries.
        restart_at: Schedule step at which the learning rate is raised.
        restart_factor: The raised rate in units of the schedule's peak; it falls again along a cosine.
    """

    source: str
    broken_from: int
    broken_until: int
    restart_at: int
    restart_factor: float


class Storage:
    """Where the sources are read from: counts the reads, and breaks for some of them.

    The count lives in the training process, so the loader must not use workers.
    """

    def __init__(self, corpus: Corpus, faults: Faults | None, batch_size: int) -> None:
        self.reads = 0
        self._binaries = corpus.binaries
        self._source = faults.source if faults else None
        self._broken = range(
            faults.broken_from * batch_size if faults else 0,
            faults.broken_until * batch_size if faults else 0,
        )
        self.shelves: Mapping[str, Dataset[Item]] = {
            name: _Shelf(self, name, windows) for name, windows in corpus.train.items()
        }

    def read(self, name: str, healthy: Windows, index: int) -> Item:
        """The item that this source delivers now."""
        self.reads += 1
        if name == self._source and self.reads - 1 in self._broken:
            return self._binaries[index % len(self._binaries)]
        return healthy[index]


class _Shelf(Dataset[Item]):
    def __init__(self, storage: Storage, name: str, windows: Windows) -> None:
        self.storage, self.name, self.windows = storage, name, windows

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> Item:
        return self.storage.read(self.name, self.windows, index)


def schedule(steps: int, warmup: int, faults: Faults | None) -> Callable[[int], float]:
    """Learning-rate multiplier by schedule step: linear warm-up, then a cosine to a twentieth."""

    def multiplier(step: int) -> float:
        if faults and step >= faults.restart_at:
            progress = (step - faults.restart_at) / (steps - faults.restart_at)
            return faults.restart_factor * 0.5 * (1 + cos(pi * min(progress, 1.0)))
        warm = min(1.0, (step + 1) / warmup)
        return warm * (0.05 + 0.95 * 0.5 * (1 + cos(pi * min(step / steps, 1.0))))

    return multiplier
