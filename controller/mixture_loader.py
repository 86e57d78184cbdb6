"""How a mixture reaches a torch ``DataLoader``: dataset, sampler and collation.

The sampler runs in the main process and sends keys ``(source id, example id)``; the dataset looks
them up. Worker processes therefore share no state with it, and weights may change while they run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import Dataset, Sampler

if TYPE_CHECKING:
    from .mixture import Mixture

Key = tuple[int, int]
"""What the sampler hands out: source id, example id within that source."""

SOURCE_FIELD = "source"
"""The batch's field that holds the source ids."""

_DRAWN_AT_ONCE = 1024  # draws evaluated together: amortises numpy's overhead to under 1 us a draw


class MixtureDataset(Dataset[tuple[int, Any]]):
    """All sources behind one key ``(source id, example id)``; gives ``(source id, item)``.

    Its length is the mixture's epoch size, which is what Accelerate takes for the size of an epoch.
    """

    def __init__(self, sources: Sequence[Dataset[Any]], epoch_size: int) -> None:
        self.sources = tuple(sources)
        self.epoch_size = epoch_size

    def __getitem__(self, key: Key) -> tuple[int, Any]:
        source, example = key
        return source, self.sources[source][example]

    def __len__(self) -> int:
        return self.epoch_size


class MixtureSampler(Sampler[Key]):
    """Walks a mixture's stream epoch by epoch; epoch ``e`` is positions ``[e * L, (e + 1) * L)``.

    A pass that reaches its end moves on to the next epoch, so a loader used without ``set_epoch``
    never repeats one; Accelerate calls ``set_epoch`` by itself, and agrees. Weights that change
    during a pass hold from the position they were given for.
    """

    def __init__(self, mixture: Mixture) -> None:
        self.mixture = mixture
        self.epoch = 0
        self.position = 0
        self._seek: int | None = None

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next pass, unless a ``seek`` is pending."""
        self.epoch = epoch

    def seek(self, position: int) -> None:
        """Start the next pass at ``position`` and end it where that position's epoch ends.

        Holds for one pass. It outranks ``set_epoch``, because a prepared loader calls that at the
        start of every pass.
        """
        if position < 0:
            raise ValueError(f"position must be >= 0, got {position}")
        self._seek = position

    def __iter__(self) -> Iterator[Key]:
        length = self.mixture.epoch_size
        start = self.epoch * length if self._seek is None else self._seek
        self._seek = None
        self.position = start
        return self._walk(start, (start // length + 1) * length)

    def _walk(self, position: int, stop: int) -> Iterator[Key]:
        mixture = self.mixture
        while position < stop:
            version = mixture.version
            drawn = mixture.draw(position, min(position + _DRAWN_AT_ONCE, stop))
            for key in zip(*(ids.tolist() for ids in drawn), strict=True):
                position += 1
                self.position = position
                yield key
                if mixture.version != version:  # weights changed: what was drawn ahead is void
                    break
        self.epoch = stop // mixture.epoch_size

    def __len__(self) -> int:
        return self.mixture.epoch_size


class MixtureCollate:
    """Collates the items as the user wants and adds their source ids, int64 [B].

    A batch that is a mapping gets the field ``source``; a list or tuple gets the ids as its last
    element; anything else becomes the pair ``(batch, ids)``. Raises ``ValueError`` when a mapping
    has a field ``source`` already.
    """

    def __init__(self, collate_fn: Callable[[list[Any]], Any]) -> None:
        self.collate_fn = collate_fn

    def __call__(self, pairs: Sequence[tuple[int, Any]]) -> Any:
        ids = torch.tensor([source for source, _ in pairs], dtype=torch.int64)
        batch = self.collate_fn([item for _, item in pairs])
        if isinstance(batch, Mapping):
            if SOURCE_FIELD in batch:
                raise ValueError(
                    f"the items have a field {SOURCE_FIELD!r} of their own, which the mixture adds: rename it"
                )
            return {**batch, SOURCE_FIELD: ids}
        if isinstance(batch, list):
            return [*batch, ids]
        if isinstance(batch, tuple):
            return (*batch, ids)
        return batch, ids
