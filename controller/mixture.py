"""A mixture of named data sources whose weights can change while a run goes on.

The stream of (source, example) is a pure function of seed, position and weight history, so any
position can be sought at once, replayed, or drawn again under other weights.

How: between two changes of weights the stream is cut into blocks of 16384 positions. A block holds
each source exactly as often as its weight says, in an order that a keyed permutation gives. How often
a source was drawn before any position is then arithmetic, not a walk, and the k-th draw of a source
is element ``k mod n`` of a permutation of its n examples keyed by ``k div n``: every example once in
each of the source's epochs, whatever the weights did meanwhile.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, default_collate

from .mixture_loader import MixtureCollate, MixtureDataset, MixtureSampler
from .permutation import key_of, permute, subkeys

Ints = NDArray[np.int64]

BLOCK = 1 << 14
"""Positions in a block. Weights are rounded to 1 / BLOCK; a block costs a millisecond, once."""


@dataclass(frozen=True, slots=True)
class _Segment:
    """A stretch of the stream under constant weights, from ``start`` to the next segment.

    ``quota`` [sources] is how often each source comes in a block; ``before`` [sources] how often
    each was drawn before ``start``.
    """

    start: int
    weights: dict[str, float]
    quota: Ints
    before: Ints


class Mixture:
    """Named map-style datasets as one stream of examples, with weights that may change.

    ``sources`` maps names to datasets with ``__len__`` and ``__getitem__``. ``weights`` are relative
    (they need not sum to one); 0 means *never drawn*; by default each source weighs as much as it is
    long, as if all were concatenated. ``seed`` fixes the whole stream. ``epoch_size`` is how many
    draws a pass of the loader makes, by default as many as there are examples.

    Raises ``ValueError`` for no or empty sources and for weights that name no source, are negative
    or not finite, or are all zero.

    >>> mixture = Mixture({"a": [1, 2, 3], "b": [4, 5]}, {"a": 1, "b": 0})
    >>> mixture.draw(0, 4)[0].tolist()
    [0, 0, 0, 0]
    """

    def __init__(
        self,
        sources: Mapping[str, Dataset[Any]],
        weights: Mapping[str, float] | None = None,
        *,
        seed: int = 0,
        epoch_size: int | None = None,
    ) -> None:
        sizes: dict[str, int] = {name: len(source) for name, source in sources.items()}  # type: ignore[arg-type]
        if not sizes:
            raise ValueError("a mixture needs at least one source")
        if empty := [name for name, size in sizes.items() if size == 0]:
            raise ValueError(f"sources without examples: {', '.join(empty)}")
        if epoch_size is not None and epoch_size < 1:
            raise ValueError(f"epoch_size must be >= 1, got {epoch_size}")
        self.names = tuple(sizes)
        self.seed = seed
        self.epoch_size = sum(sizes.values()) if epoch_size is None else epoch_size
        self.version = 0
        self._sizes = tuple(sizes.values())
        self._keys = tuple(key_of(seed, name) for name in self.names)
        base = dict.fromkeys(self.names, 0.0) if weights is not None else sizes
        self._segments: list[_Segment] = []
        self._append(0, self._merged(base, weights or {}))
        self._block_sources = lru_cache(maxsize=4)(self._arrange)
        self.dataset = MixtureDataset(tuple(sources.values()), self.epoch_size)
        self.sampler = MixtureSampler(self)

    def loader(
        self,
        batch_size: int,
        *,
        num_workers: int = 0,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        drop_last: bool = True,
        **kwargs: Any,
    ) -> DataLoader[Any]:
        """An ordinary ``DataLoader`` over the stream, with the source ids in every batch.

        ``collate_fn`` sees the sources' own items; `MixtureCollate` says where the ids go. The last
        partial batch is dropped by default, so that a batch's position is a multiple of its size.
        Further arguments go to ``DataLoader``. All loaders of a mixture share its one sampler.
        """
        return DataLoader(
            self.dataset,
            batch_size=batch_size,
            sampler=self.sampler,
            num_workers=num_workers,
            collate_fn=MixtureCollate(collate_fn or default_collate),
            drop_last=drop_last,
            **kwargs,
        )

    @property
    def base_weights(self) -> dict[str, float]:
        """The weights that the stream starts with."""
        return dict(self._segments[0].weights)

    @property
    def history(self) -> tuple[tuple[int, dict[str, float]], ...]:
        """All weights with the draw position from which each holds, in order."""
        return tuple((segment.start, dict(segment.weights)) for segment in self._segments)

    def weights_at(self, position: int) -> dict[str, float]:
        """The weights under which ``position`` is drawn."""
        return dict(self._segments[self._segment_index(position)].weights)

    def set_weights(self, weights: Mapping[str, float], at: int) -> None:
        """Let ``weights`` hold from position ``at`` on; sources not named keep theirs.

        ``at`` must not lie before the last change (`truncate` first): what was trained on would
        change its meaning. A change at the very same position replaces that one.
        """
        last = self._segments[-1]
        if at < last.start:
            raise ValueError(
                f"weights are set from position {last.start} on; truncate first to set them at {at}"
            )
        merged = self._merged(last.weights, weights)
        if merged == last.weights:
            return
        if at == last.start:
            self._segments.pop()
        self._append(at, merged)

    def truncate(self, position: int) -> None:
        """Forget every change of weights after ``position``; one that holds from it on stays."""
        keep = self._segment_index(position) + 1
        if keep < len(self._segments):
            del self._segments[keep:]
            self.version += 1

    def draw(self, start: int, stop: int) -> tuple[Ints, Ints]:
        """Source ids and example ids of positions ``[start, stop)``, each int64 [stop - start]."""
        sources = np.empty(stop - start, dtype=np.int64)
        ordinals = np.empty(stop - start, dtype=np.int64)
        for segment, block, low, high in self._pieces(start, stop):
            first = segment.start + block * BLOCK
            drawn, ranks = self._block_sources(first, segment.quota.tobytes())
            here = slice(first + low - start, first + high - start)
            sources[here] = drawn[low:high]
            ordinals[here] = (segment.before + block * segment.quota)[drawn[low:high]] + ranks[low:high]
        return sources, self._examples(sources, ordinals)

    def state_dict(self) -> dict[str, Any]:
        """Weight history and what the stream depends on besides, as JSON."""
        return {
            "seed": self.seed,
            "sizes": dict(zip(self.names, self._sizes, strict=True)),
            "history": [[at, weights] for at, weights in self.history],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a weight history; raises ``ValueError`` if seed or sources are not the same."""
        own = self.state_dict()
        for part in ("seed", "sizes"):
            if state[part] != own[part]:
                raise ValueError(f"the state's {part} {state[part]} are not this mixture's {own[part]}")
        self._segments.clear()
        for at, weights in state["history"]:
            self._append(at, self._merged({}, weights))

    def _merged(self, old: Mapping[str, float], new: Mapping[str, float]) -> dict[str, float]:
        if unknown := sorted(new.keys() - set(self.names)):
            raise ValueError(f"no source named {', '.join(unknown)}; the sources are {', '.join(self.names)}")
        merged = {name: float(new.get(name, old.get(name, 0.0))) for name in self.names}
        if wrong := {name: value for name, value in merged.items() if not (isfinite(value) and value >= 0)}:
            raise ValueError(f"weights must be finite and >= 0, got {wrong}")
        if not any(merged.values()):
            raise ValueError("all weights are 0: nothing is left to draw from")
        return merged

    def _append(self, at: int, weights: dict[str, float]) -> None:
        before = self._counts(at) if self._segments else np.zeros(len(self.names), dtype=np.int64)
        quota = _apportion(np.array([weights[name] for name in self.names]))
        self._segments.append(_Segment(at, weights, quota, before))
        self.version += 1

    def _segment_index(self, position: int) -> int:
        return max(0, bisect_right(self._segments, position, key=lambda segment: segment.start) - 1)

    def _counts(self, position: int) -> Ints:
        """How often each source is drawn before ``position``, which the last segment holds."""
        segment = self._segments[-1]
        block, offset = divmod(position - segment.start, BLOCK)
        drawn, _ = self._block_sources(segment.start + block * BLOCK, segment.quota.tobytes())
        return segment.before + block * segment.quota + np.bincount(drawn[:offset], minlength=len(self.names))

    def _pieces(self, start: int, stop: int) -> Iterator[tuple[_Segment, int, int, int]]:
        """Cut ``[start, stop)`` at changes of weights and at blocks: segment, block, bounds within."""
        index = self._segment_index(start)
        while start < stop:
            segment = self._segments[index]
            ends_at = self._segments[index + 1].start if index + 1 < len(self._segments) else stop
            block, low = divmod(start - segment.start, BLOCK)
            high = min(BLOCK, low + min(stop, ends_at) - start)
            yield segment, block, low, high
            start += high - low
            index += start == ends_at

    def _arrange(self, first: int, quota_bytes: bytes) -> tuple[Ints, Ints]:
        """Source of each position of the block that begins at ``first``, and its rank there.

        The rank counts earlier positions of the same source within the block. The order depends on
        the seed and ``first`` only: slightly different weights give a slightly different block.
        """
        quota = np.frombuffer(quota_bytes, dtype=np.int64)
        shuffled = permute(np.arange(BLOCK), BLOCK, subkeys(key_of(self.seed), np.array([first])))
        ends = np.cumsum(quota)
        sources = np.searchsorted(ends, shuffled, side="right").astype(np.int64)
        by_source = np.argsort(sources, kind="stable")
        ranks = np.empty_like(by_source)
        ranks[by_source] = np.arange(BLOCK) - (ends - quota)[sources[by_source]]
        return sources, ranks

    def _examples(self, sources: Ints, ordinals: Ints) -> Ints:
        examples = np.empty_like(ordinals)
        for source in np.unique(sources):
            here = sources == source
            size = self._sizes[source]
            epochs, within = np.divmod(ordinals[here], size)
            examples[here] = permute(within, size, subkeys(self._keys[source], epochs))
        return examples


def _apportion(weights: NDArray[np.float64]) -> Ints:
    """Share a block's positions by weight (largest remainders); every weight above 0 gets at least one."""
    scaled = weights / weights.max()  # weights near the largest float would overflow their sum
    shares = scaled / scaled.sum() * BLOCK
    quota = np.where(weights > 0, np.maximum(np.floor(shares), 1), 0).astype(np.int64)
    missing = int(BLOCK - quota.sum())
    if missing < 0:  # the guaranteed ones came on top: the largest source gives them
        quota[np.argmax(quota)] += missing
    else:
        quota[np.argsort(quota - shares, kind="stable")[:missing]] += 1
    return quota


def find_mixture(loader: Any) -> Mixture | None:
    """The mixture behind a loader, plain or prepared by Accelerate; None if there is none.

    Preparing wraps the batch sampler, once or more, but keeps the sampler object itself.
    """
    layer = loader
    while layer is not None:
        sampler = getattr(layer, "sampler", None)
        if isinstance(sampler, MixtureSampler):
            return sampler.mixture
        layer = getattr(layer, "batch_sampler", None)
    return None
