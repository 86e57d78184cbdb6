"""The loader's stand-in: serves the user's batches, knows where it is, and can go back.

The user's loop sees the loader that Accelerate prepared (attributes, length, ``isinstance``). The
stand-in asks the desk before each batch, which is where every act is applied, and reports each batch it
has pulled, which is where snapshots are taken. It can return to an earlier place in the same or in an
earlier pass, and leave windows of batches out, without the loop noticing anything.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import wrapt
from accelerate import skip_first_batches
from accelerate.data_loader import DataLoaderDispatcher

from . import rng
from .mixture import Mixture, find_mixture

PASSES = 64
"""Passes whose randomness is remembered: more than a ring of snapshots reaches over."""


@dataclass(frozen=True, slots=True)
class Place:
    """A place in the data: ``batch`` batches of pass ``epoch`` have been served.

    ``origin`` is the random state at the pass's start, from which its order is drawn again.
    """

    epoch: int
    batch: int
    origin: rng.RandomState

    @property
    def key(self) -> tuple[int, int]:
        """What orders places."""
        return (self.epoch, self.batch)


@dataclass(frozen=True, slots=True)
class Window:
    """Batches ``start`` to ``stop`` (excluded), as (pass, batch), that a decision leaves out."""

    decision: str
    start: tuple[int, int]
    stop: tuple[int, int]

    def holds(self, key: tuple[int, int]) -> bool:
        """Whether the batch is left out."""
        return self.start <= key < self.stop


class Desk(Protocol):
    """Whom a feed asks and tells; the controller is one."""

    def requested(self, feed: Feed) -> bool:
        """Before a batch is pulled: apply what is due. False ends the loop."""
        ...

    def pulled(self, feed: Feed, batch: Any) -> None:
        """After a batch was pulled and before the loop gets it."""
        ...

    def entered(self, feed: Feed) -> None:
        """The loop begins a pass."""
        ...

    def left(self, feed: Feed) -> None:
        """The loop's pass has come to its end; what follows is epoch-end code."""
        ...

    def crossed(self, feed: Feed, epoch: int) -> None:
        """A rewound pass has come to its end and ``epoch`` begins, without epoch-end code in between."""
        ...


class Feed:
    """The batches of one prepared loader, pass after pass.

    Args:
        loader: What ``accelerator.prepare`` (or ``skip_first_batches``) returned.
        desk: Asked before and told after every batch.
        base: The loader of which ``skip_first_batches`` made this one; None where it was prepared itself.
        skipped: Batches that it leaves out at the start of each pass.
    """

    def __init__(self, loader: Any, desk: Desk, base: Any = None, skipped: int = 0) -> None:
        self.loader = loader
        self._base = loader if base is None else base
        self._skipped = skipped
        self.mixture: Mixture | None = find_mixture(loader)
        self.left_out: list[Window] = []
        self._desk = desk
        self._source = loader
        self._generators = rng.generators_of(loader)
        self._batches: Iterator[Any] = iter(())
        self._place = self._last = Place(0, 0, rng.capture())
        self._origins: dict[int, rng.RandomState] = {}
        self._ends: dict[int, rng.RandomState] = {}
        self._goes_on_to: int | None = None
        self._after_pull: rng.RandomState | None = None
        self._serving = False

    @property
    def place(self) -> Place:
        """Where the next batch will come from."""
        return self._place

    @property
    def last(self) -> Place:
        """Where the batch that was pulled last came from."""
        return self._last

    @property
    def serving(self) -> bool:
        """Whether a loop is in the middle of a pass."""
        return self._serving

    @property
    def draws_per_batch(self) -> int:
        """Examples that all processes together take for one batch each."""
        return int(self._base.total_batch_size)

    @property
    def draw(self) -> int:
        """Position in the mixture's stream of the next batch's first example."""
        assert self.mixture is not None
        return self.draw_at(self._place)

    def draw_at(self, place: Place) -> int:
        """Position in the mixture's stream at which a place begins."""
        assert self.mixture is not None
        drawn = (self._skipped_batches() + place.batch) * self.draws_per_batch
        # The last batch of a pass may be smaller than the others.
        return place.epoch * self.mixture.epoch_size + min(drawn, self.mixture.epoch_size)

    def serve(self) -> Iterator[Any]:
        """One pass of the user's loop; after a rewind it may hold the end of an earlier pass too.

        A pass begun inside another (an evaluation on training data, say) is none of ours.
        """
        if self._serving:
            yield from self.loader
            return
        self._serving = True
        try:
            last = self._begin_pass()
            self._desk.entered(self)
            while self._desk.requested(self):
                batch = self._pull(last)
                if batch is _END:
                    self._ends[self._place.epoch] = self.random_state()
                    self._desk.left(self)
                    return
                self._desk.pulled(self, batch)
                yield batch
            self._close()
        finally:
            # A loop that breaks off leaves Accelerate's own iterator to the garbage collector; so do we.
            self._serving = False
            self._batches = iter(())

    def rewind(self, place: Place, random_state: rng.RandomState) -> None:
        """Make ``place`` the next batch, with the random state in force once it is pulled.

        Drawing the order anew consumes randomness, so the random state of the moment is restored
        only after the first batch has come.
        """
        if not self._serving and self._goes_on_to is None:
            self._goes_on_to = self._epoch_of_loader()
        rng.restore(place.origin, self._generators)
        self._open(place)
        self._after_pull = random_state

    def take_again(self, decision: str) -> None:
        """Leave nothing out any more for a decision that did not help: the data was not at fault."""
        self.left_out = [window for window in self.left_out if window.decision != decision]

    def refresh(self) -> None:
        """Draw what was prefetched again, so that new mixture weights reach the very next batch."""
        self.rewind(self._place, self.random_state())

    def random_state(self) -> rng.RandomState:
        """The random state of the moment, the loader's own generators included.

        After a rewind that is the state to come back to, not what drawing the order anew has left.
        """
        return self._after_pull or rng.capture(self._generators)

    def _pull(self, last: int) -> Any:
        while True:
            batch = next(self._batches, _END)
            if batch is _END:
                self._restore_random_state()
                self._finish_pass()
                if self._place.epoch >= last:
                    return _END
                self._cross(self._place.epoch + 1)
                continue
            key = self._place.key
            self._last = self._place
            self._place = Place(self._place.epoch, self._place.batch + 1, self._place.origin)
            if any(window.holds(key) for window in self.left_out):
                continue
            self._restore_random_state()
            return batch

    def _restore_random_state(self) -> None:
        """A rewind is complete once its first batch has come, or the pass has none left."""
        if self._after_pull is not None:
            rng.restore(self._after_pull, self._generators)
            self._after_pull = None

    def _begin_pass(self) -> int:
        """Open the pass that the loop asks for; returns its number, after which the loop's pass ends."""
        if self._goes_on_to is not None:
            # Rewound between two passes: what was rewound to comes first.
            last, self._goes_on_to = self._goes_on_to, None
            return last
        last = self._epoch_of_loader()
        origin = self.random_state()
        self._origins[last] = origin
        for states in (self._origins, self._ends):
            states.pop(last - PASSES, None)
        self._open(Place(last, 0, origin))
        return last

    def _cross(self, epoch: int) -> None:
        """From a rewound pass into the next one, with the randomness that it began with.

        Epoch-end code (an evaluation, say) may have drawn from it in between: where the rewound pass ended in
        the same state as it did the first time, so does what follows. Else the two were different passes.
        """
        origin = self.random_state()
        end = self._ends.get(epoch - 1)
        if epoch in self._origins and end is not None and origin.same_as(end):
            origin = self._origins[epoch]
            rng.restore(origin, self._generators)
        self._desk.crossed(self, epoch)
        self._open(Place(epoch, 0, origin))

    def _open(self, place: Place) -> None:
        self._close()
        self._place = place
        self._source = self.loader
        if hasattr(self.loader, "iteration"):
            self.loader.iteration = place.epoch
        if self.mixture is not None:
            self._seek(place)
        elif place.batch:
            self._source = skip_first_batches(self.loader, place.batch * self._base_batches())
        self._batches = iter(self._source)

    def _seek(self, place: Place) -> None:
        """Have the mixture's next pass begin at a place; at the end of one there is none to begin."""
        assert self.mixture is not None
        if self.draw_at(place) == (place.epoch + 1) * self.mixture.epoch_size:
            self._source = ()
        else:
            # What the loader itself skips comes on top.
            skipped = self._skipped_batches() * self.draws_per_batch
            self.mixture.sampler.seek(self.draw_at(place) - skipped)

    def _close(self) -> None:
        close = getattr(self._batches, "close", None)
        if close is not None:
            close()
        # An iterator dropped in mid-pass would stay Accelerate's active loader.
        if hasattr(self._source, "end"):
            self._source.end()
        self._batches = iter(())

    def _finish_pass(self) -> None:
        # A skipping copy counted its own pass, and one that was rewound to its end counted nothing.
        if self._place.batch and getattr(self.loader, "iteration", None) == self._place.epoch:
            self.loader.iteration = self._place.epoch + 1

    def _epoch_of_loader(self) -> int:
        return int(getattr(self.loader, "iteration", self._place.epoch))

    def _skipped_batches(self) -> int:
        return self._skipped // self._base_batches()

    def _base_batches(self) -> int:
        # A dispatcher counts the base loader's batches, of which each step takes one a process.
        if isinstance(self.loader, DataLoaderDispatcher) and not self.loader.split_batches:
            return int(self.loader.state.num_processes)
        return 1


_END = object()


class WatchedLoader(wrapt.ObjectProxy[Any]):
    """A prepared loader whose iteration goes through a feed; in all else it is that loader."""

    def __init__(self, loader: Any, desk: Desk, base: Any = None, skipped: int = 0) -> None:
        super().__init__(loader)
        self._self_feed = Feed(loader, desk, base, skipped)

    @property
    def feed(self) -> Feed:
        """The feed that serves this loader's batches."""
        feed: Feed = self._self_feed
        return feed

    def __iter__(self) -> Iterator[Any]:
        return self._self_feed.serve()
