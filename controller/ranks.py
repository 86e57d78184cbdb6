"""Agreement between processes: one fixed vector a tick, objects only when something is done."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")

MAX_VECTOR_BYTES = 1024


class Ranks:
    """The processes of a run. With one process every method is a plain return.

    Args:
        world: Number of processes.
        rank: This one's number; rank 0 decides.
    """

    def __init__(self, world: int, rank: int) -> None:
        self.world = world
        self.rank = rank

    @property
    def main(self) -> bool:
        """Whether this is the process that decides, journals and exports."""
        return self.rank == 0

    def reduce(self, vector: torch.Tensor) -> torch.Tensor:
        """Sum of all processes' vectors (in place where there are several).

        Raises:
            ValueError: the vector exceeds 1 KiB: too many signals are declared for one exchange.
        """
        if self.world > 1:
            size = vector.numel() * vector.element_size()
            if size > MAX_VECTOR_BYTES:
                raise ValueError(
                    f"{vector.numel() // 2} signals take {size} bytes a tick; at most {MAX_VECTOR_BYTES} "
                    f"({MAX_VECTOR_BYTES // 16} signals) are exchanged: log fewer"
                )
            dist.all_reduce(vector)
        return vector

    def share(self, value: Any) -> Any:
        """Rank 0's object, on every rank."""
        if self.world == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def gather(self, value: Any) -> list[Any]:
        """Every rank's object, on every rank."""
        if self.world == 1:
            return [value]
        box: list[Any] = [None] * self.world
        dist.all_gather_object(box, value)
        return box

    def agree(self, names: Sequence[str]) -> None:
        """See that all ranks name the same signals: vectors of two layouts would be added up wrongly.

        Raises:
            ValueError: they do not.
        """
        layouts = self.gather(list(names))
        for rank, other in enumerate(layouts):
            if other != layouts[0]:
                differing = sorted(set(other) ^ set(layouts[0])) or "their order"
                raise ValueError(
                    f"process {rank} measures other signals than process 0: {differing}; "
                    "Controller(..., signals=[...], sources=[...]) must be alike on all"
                )

    def together(self, part: Callable[[], T]) -> T:
        """Run a part on every rank; where it fails on one, it fails on all.

        What a rank alone can fail in (a disk, say) must not end its act before an exchange in which the
        others wait for it.

        Raises:
            FailedElsewhere: it failed, but not here; where it failed here the error itself is raised.
        """
        try:
            result = part()
        except Exception as error:
            self.gather(f"{type(error).__name__}: {error}")
            raise
        failures = [f"on process {n}: {told}" for n, told in enumerate(self.gather(None)) if told is not None]
        if failures:
            raise FailedElsewhere("; ".join(failures))
        return result

    def ask_main(self, part: Callable[[], T]) -> T:
        """What rank 0 finds, on every rank; where it fails there, it fails on all.

        Raises:
            FailedElsewhere: it failed, but not here; on rank 0 the error itself is raised.
        """
        found: T = self.share(self.together(lambda: part() if self.main else None))
        return found

    def on_this_host(self) -> int:
        """How many of the processes share this machine's memory."""
        hosts = self.gather(socket.gethostname())
        return hosts.count(hosts[self.rank])


class FailedElsewhere(RuntimeError):
    """Another process failed in what all do together."""
