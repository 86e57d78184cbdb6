"""Copies beside the training: on a stream of their own, in an order in which neither disturbs the other."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch

Copy = Callable[[list[torch.Tensor], list[torch.Tensor]], object]
"""Puts a copy on the stream that is the current one: ``(to, from)``."""


class Event(Protocol):
    """A place in a stream's work, as ``torch.cuda.Event`` is one."""

    def query(self) -> bool:
        """Whether the device has come by it."""
        ...

    def synchronize(self) -> None:
        """Let the host wait until it has."""
        ...

    def elapsed_time(self, end_event: Any) -> float:
        """Milliseconds of the device from here to another event."""
        ...


class Streams(Protocol):
    """What the order of copies is made of; injected, so that it can be tested without a device."""

    def side(self) -> AbstractContextManager[Any]:
        """Within it the side stream is the current one."""
        ...

    def record(self) -> Event:
        """An event after all that the current stream was given so far."""
        ...

    def wait(self, event: Event) -> None:
        """What the current stream is given from now on begins after the event; the host goes on."""
        ...


class SideCopy:
    """Copies tensors while training goes on, in this order, and never lets the host wait.

    ::

        copy      current stream: what a forward pass may change is copied before the next forward pass
                  side stream: after that, what only an optimizer step changes
        (forward and backward run beside it)
        settle    current stream: the step that follows begins when the copy is complete

    Args:
        streams: The device's streams.
        copy_: Puts a copy on the current stream.
    """

    def __init__(self, streams: Streams, copy_: Copy) -> None:
        self._streams = streams
        self._copy = copy_
        self._pending: tuple[Event, list[torch.Tensor]] | None = None
        self._waited: tuple[Event, Event] | None = None

    def copy(
        self, to: Sequence[torch.Tensor], live: Sequence[torch.Tensor], changing: Collection[int]
    ) -> Event:
        """Begin a copy; ``changing`` are the indices of what a forward pass may change."""
        self.settle()
        now = [i for i in range(len(live)) if i in changing]
        later = [i for i in range(len(live)) if i not in changing]
        self._copy([to[i] for i in now], [live[i] for i in now])
        # The side stream follows the training's: the last step's update, and whatever still read the buffer.
        ready = self._streams.record()
        with self._streams.side():
            self._streams.wait(ready)
            self._copy([to[i] for i in later], [live[i] for i in later])
            done = self._streams.record()
        # The tensors are kept until what comes is ordered after the copy: their memory must not serve others.
        self._pending = (done, [live[i] for i in later])
        return done

    def settle(self) -> None:
        """Order the copy before all that the current stream is given from now on; the host does not wait."""
        if self._pending is None:
            return
        done, _ = self._pending
        reached = self._streams.record()
        self._streams.wait(done)
        self._pending, self._waited = None, (reached, done)

    def waited(self) -> float | None:
        """Seconds that training stood still in the last ``settle``, told once; None while it is not known."""
        if self._waited is None or not all(event.query() for event in self._waited):
            return None
        reached, done = self._waited
        self._waited = None
        return max(0.0, reached.elapsed_time(done) / 1e3)


class CudaStreams:
    """The current stream of a CUDA device, and one beside it."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def side(self) -> AbstractContextManager[Any]:
        """Within it the side stream is the current one."""
        return torch.cuda.stream(self._side)

    def record(self) -> Event:
        """An event after all that the current stream was given so far."""
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        return event

    def wait(self, event: Event) -> None:
        """What the current stream is given from now on begins after the event."""
        torch.cuda.current_stream(self._device).wait_event(event)  # type: ignore[arg-type]
