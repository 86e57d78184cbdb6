"""Per-source losses of one tick: sums and counts, gathered where the per-example losses lie."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

Both = tuple[list[float], list[float]]
"""Sums and counts, by source."""

MANY = 256
"""Examples from which on numpy adds them up faster than a loop, in a run whose caches are cold."""


class SourceLosses:
    """Adds per-example losses up by their sources.

    In host memory they are added up at once, as plain numbers: between the operations of a training step
    that takes a quarter of what arrays would, up to some 200 examples. On a device they stay there until
    the tick's vector is packed, so that nothing waits for them.

    Args:
        names: The sources; a source's number is its index.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._number = {name: number for number, name in enumerate(self.names)}
        self._nothing = ([0.0] * len(self.names),) * 2
        self.clear()

    def clear(self) -> None:
        """Begin the next tick."""
        self._host = self._nothing
        self._device: torch.Tensor | None = None

    def add(self, losses: torch.Tensor, sources: torch.Tensor | Sequence[str]) -> None:
        """Take losses [B] and their sources [B], as numbers or names.

        Raises:
            ValueError: the two do not match in length, a name is unknown, or a number is none of a source.
        """
        numbers = sources if self.names and type(sources) is torch.Tensor else self._numbers(sources)
        count = losses.numel()
        if numbers.numel() != count:
            raise ValueError(f"log_examples: {count} losses but {numbers.numel()} sources; give one each")
        if losses.ndim != 1 or numbers.ndim != 1:
            losses, numbers = losses.flatten(), numbers.flatten()
        if not (losses.is_cpu and numbers.is_cpu):
            self._add_on_device(losses.detach(), numbers.to(losses.device))
            return
        if count < MANY:
            sums: list[float] = [0.0] * len(self.names)
            counts: list[float] = [0] * len(self.names)
            places = numbers.tolist()
            try:
                for place, loss in zip(places, losses.tolist(), strict=True):
                    counts[place] += 1
                    sums[place] += loss
            except (IndexError, TypeError):
                raise self._no_source(places) from None
            if places and min(places) < 0:  # which Python's lists take for a place counted from their end
                raise self._no_source(places)
        else:
            sums, counts = self._many_added(losses, numbers)
        if self._host is not self._nothing:
            sums, counts = _plus(self._host[0], sums), _plus(self._host[1], counts)
        self._host = sums, counts

    def host(self) -> Both:
        """Sums and counts by source, read where they lie in host memory."""
        if self._device is None:
            return self._host
        (sums, counts), there = self._host, self._device.tolist()
        return _plus(sums, there[0]), _plus(counts, there[1])

    def device(self, device: torch.device, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """The same as two tensors [sources] on a device, without waiting for it."""
        both = torch.tensor(self._host, dtype=dtype).to(device, non_blocking=True)
        if self._device is not None:
            both = both + self._device.to(device=device, dtype=dtype)
        return both[0], both[1]

    def _many_added(self, losses: torch.Tensor, numbers: torch.Tensor) -> Both:
        """Sums and counts by numpy, which takes a while to begin with."""
        sources = len(self.names)
        low, high = numbers.min().item(), numbers.max().item()
        if not 0 <= low <= high < sources or numbers.is_floating_point():
            raise self._no_source([int(low), int(high)])
        counts = np.bincount(numbers.numpy(), minlength=sources)
        sums = np.bincount(numbers.numpy(), losses.detach().double().numpy(), sources)
        return sums.tolist(), counts.tolist()

    def _no_source(self, numbers: list[int]) -> ValueError:
        return ValueError(
            f"log_examples: sources are numbered 0 to {len(self.names) - 1}, "
            f"got {min(numbers)} to {max(numbers)}"
        )

    def _add_on_device(self, losses: torch.Tensor, numbers: torch.Tensor) -> None:
        if losses.dtype in (torch.float16, torch.bfloat16):
            losses = losses.float()  # sums and counts in half precision stop growing after some hundred
        if self._device is None:
            self._device = torch.zeros(2, len(self.names), dtype=losses.dtype, device=losses.device)
        self._device.index_add_(1, numbers.long(), torch.stack((losses, torch.ones_like(losses))))

    def _numbers(self, sources: torch.Tensor | Sequence[str]) -> torch.Tensor:
        if isinstance(sources, torch.Tensor):
            if not self.names:
                raise ValueError(
                    "log_examples: numbered sources need names: a Mixture, or Controller(..., sources=[...])"
                )
            return sources
        unknown = sorted(set(sources) - self._number.keys())
        if unknown:
            raise ValueError(f"log_examples: unknown sources {unknown}; known: {list(self.names)}")
        return torch.tensor([self._number[name] for name in sources], dtype=torch.int64)


def _plus(a: list[float], b: list[float]) -> list[float]:
    return [x + y for x, y in zip(a, b, strict=True)]
