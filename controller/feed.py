"""The feed: serves a loader's batches, knows where in the data it is, and can go back.

It asks the desk before each batch, which is where every act is applied, and reports each batch that it has
pulled, which is where snapshots are taken. It can return to an earlier place in the same or in an earlier
pass, and leave windows of batches out, without the loop noticing anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from accelerate import skip_first_batches
from accelerate.data_loader import DataLoaderDispatcher

from . import rng, streams
from .desk import Desk
from .fingerprint import Fingerprint, fingerprint, same
from .mixture import Mixture, find_mixture
from .places import PASSES, Pass, Place, Window


class Feed:
    """The batches of one prepared loader, pass after pass.

    Args:
        loader: What ``accelerator.prepare`` (or ``skip_first_batches``) returned.
        desk: Asked before and told after every batch.
    """

    def __init__(self, loader: Any, desk: Desk) -> None:
        self.loader = loader
        self.mixture: Mixture | None = find_mixture(loader)
        self.left_out: list[Window] = []
        self.missed: set[tuple[int, int]] = set()
        self._desk = desk
        self._source = loader
        self._generators = rng.generators_of(loader)
        self._batches: Iterator[Any] = iter(())
        self._opened = Place(0, 0, rng.capture(), 0)
        self._last: Place | None = self._opened
        self.key = self._opened.key
        """What orders the place of the next batch among all places."""
        self._passes: dict[int, Pass] = {}
        self._next = 0
        self._first_of_epoch: int | None = None
        self._served_before = 0
        self._rewound = False
        self._after_pull: rng.RandomState | None = None
        self._own_too = True
        self._batch: Any = None
        self._seen: tuple[tuple[int, int], Fingerprint] | None = None
        self._serving = False

    @property
    def place(self) -> Place:
        """Where the next batch will come from."""
        return _at(self._opened, self.key)

    @property
    def last(self) -> Place:
        """Where the batch that was pulled last came from: the same object until the next one is."""
        if self._last is None:  # none was asked for since
            self._last = _at(self._opened, (self.key[0], self.key[1] - 1))
        return self._last

    def fingerprint(self) -> Fingerprint:
        """What the batch that was pulled last is known by."""
        return fingerprint(self._batch)

    @property
    def serving(self) -> bool:
        """Whether a loop is in the middle of a pass."""
        return self._serving

    @property
    def draws_per_batch(self) -> int:
        """Examples that all processes together take for one batch each."""
        return int(self.loader.total_batch_size)

    @property
    def draw(self) -> int:
        """Position in the mixture's stream of the next batch's first example."""
        assert self.mixture is not None
        return self.draw_at(self.place)

    def draw_at(self, place: Place) -> int:
        """Position in the mixture's stream at which a place begins."""
        assert self.mixture is not None
        drawn = place.batch * self.draws_per_batch
        # The last batch of a pass may be smaller than the others.
        return place.iteration * self.mixture.epoch_size + min(drawn, self.mixture.epoch_size)

    def knows(self, place: Place) -> bool:
        """Whether the place is one of this feed's own."""
        known = self._passes.get(place.epoch)
        return known is not None and known.first.origin.same_as(place.origin)

    def state_dict(self) -> dict[str, Any]:
        """What a new process needs besides a place: how the passes went, and which one the loop is in.

        ``before`` is how many passes the loop has made already in the epoch that it will begin anew.
        """
        number = self._next - self._serving
        return {
            "passes": {epoch: replace(known) for epoch, known in self._passes.items()},
            "next": number,
            "before": 0 if self._first_of_epoch is None else number - self._first_of_epoch,
            "left_out": list(self.left_out),
            "missed": set(self.missed),
        }

    def resume(
        self,
        state: Mapping[str, Any],
        place: Place,
        random_state: rng.RandomState,
        seen: Fingerprint | None,
    ) -> None:
        """Go on as the feed of a process that has ended: the loop's next pass begins at ``place``."""
        self._passes, self._next = dict(state["passes"]), state["next"]
        self._served_before = state["before"]
        self.left_out, self.missed = list(state["left_out"]), set(state["missed"])
        self.rewind(place, random_state, seen, pulled=seen is not None)

    def epoch_begins(self) -> None:
        """The loop's counter goes on to an epoch: one may have several passes, or none."""
        self._first_of_epoch = self._next - self._served_before

    def serve(self, skipped: int = 0) -> Iterator[Any]:
        """One pass of the user's loop from batch ``skipped`` on; after a rewind, an earlier one's end too.

        A pass begun inside another (an evaluation on training data, say) is none of ours.
        """
        if self._serving:
            yield from skip_first_batches(self.loader, skipped) if skipped else self.loader
            return
        if self._served_before:
            yield from self._serve_before()
            return
        self._serving = True
        batch: Any = None
        try:
            last = self._begin_pass(skipped)
            self._desk.entered(self)
            while self._desk.requested(self) is not False:
                batch = self._pull(last)
                if batch is _END:
                    self._desk.left(self)
                    return
                self._desk.pulled(self, batch)
                yield batch
            self._close()
        finally:
            # A loop that breaks off leaves Accelerate's own iterator to the garbage collector; so do we.
            known = self._passes[self.key[0]]
            known.end = self.random_state()
            known.broken_off = None if batch is _END else self.key[1]
            self._serving = False
            self._batches = iter(())

    def _serve_before(self) -> Iterator[Any]:
        """A pass that a resumed loop makes again before the one that goes on: it has been trained on.

        Where the loop broke it off (to look at a batch, say) there are batches for it to do that again.
        """
        known = self._passes.get(self._next - self._served_before)
        self._served_before -= 1
        if known is not None and known.broken_off is not None:
            yield from self.loader

    def rewind(
        self,
        place: Place,
        random_state: rng.RandomState,
        seen: Fingerprint | None = None,
        *,
        pulled: bool,
    ) -> None:
        """Make ``place`` the next batch, with the random state in force once it is pulled.

        ``seen`` is what the batch there was known by; the desk is told if it is another one now. ``pulled``
        says that the random state is of after its batch came. One of before does not hold what a sampler
        draws as it comes to its end, so the loader's own generators are then left as that batch makes them.

        Drawing the order anew consumes randomness: the random state of the moment is in force at once, and
        again after the first batch has come.
        """
        self._rewound = not self._serving
        self._open(place)
        rng.restore(random_state, self._generators)
        self._after_pull = random_state
        self._own_too = pulled
        self._seen = None if seen is None else (place.key, seen)

    def take_again(self, decision: str) -> None:
        """Leave nothing out any more for a decision that did not help: the data was not at fault."""
        self.left_out = [window for window in self.left_out if window.decision != decision]

    def forget_before(self, key: tuple[int, int]) -> None:
        """Nothing goes back beyond ``key`` any more: what was left out before it is of no interest."""
        self.left_out = [window for window in self.left_out if window.stop > key]
        self.missed = {missed for missed in self.missed if missed >= key}

    def refresh(self) -> None:
        """Draw what was prefetched again, so that new mixture weights reach the very next batch."""
        if not self._passes:
            return
        pulled = self._after_pull is not None and self._own_too
        self.rewind(self.place, self.random_state(), pulled=pulled)

    def random_state(self) -> rng.RandomState:
        """The random state of the moment, the loader's own generators included.

        After a rewind that is the state to come back to, not what drawing the order anew has left.
        """
        return self._after_pull or rng.capture(self._generators)

    def _pull(self, last: int) -> Any:
        if self._after_pull is not None:
            self._return_to_start(self._opened)
        while True:
            epoch, number = key = self.key
            known = self._passes[epoch]
            batch = _END if number == known.broken_off else next(self._batches, _END)
            if batch is _END:
                self._restore_random_state()
                self._finish_pass(known)
                if epoch >= last:
                    return _END
                self._cross(epoch + 1)
                continue
            self.key, self._last = (epoch, number + 1), None
            if self.left_out and any(window.holds(key) for window in self.left_out):
                self.missed.add(key)
                continue
            self.missed.discard(key)
            if self._after_pull is not None:
                self._restore_random_state()
            self._batch = batch
            if self._seen is not None:
                self._compare(key)
            return batch

    def _compare(self, key: tuple[int, int]) -> None:
        """Tell the desk if the first batch after a rewind is not what it was."""
        assert self._seen is not None
        (expected, seen), self._seen = self._seen, None
        if key == expected and not same(seen, fingerprint(self._batch)):
            self._desk.changed(self)

    def _restore_random_state(self) -> None:
        """A rewind is complete once its first batch has come, or the pass has none left."""
        if self._after_pull is not None:
            rng.restore(self._after_pull, self._generators if self._own_too else None)
            self._after_pull = None

    def _return_to_start(self, place: Place) -> None:
        """What the order of a place's pass is drawn from, as it was when the pass began."""
        rng.restore(place.origin, self._generators)
        streams.restore(self.loader, place.stream)

    def _begin_pass(self, skipped: int) -> int:
        """Open the pass that the loop asks for; returns its number, after which the loop's pass ends."""
        last = self._next
        self._next += 1
        self._passes.pop(last - PASSES, None)
        if self._rewound:
            # Rewound between two passes: what was rewound to comes first.
            self._rewound = False
        else:
            batch = skipped // self._base_batches()
            self._begin(self._new_place(last, batch))
        return last

    def _new_place(self, epoch: int, batch: int = 0) -> Place:
        return Place(epoch, batch, self.random_state(), self._iteration(), streams.capture(self.loader))

    def _begin(self, first: Place) -> None:
        self._passes.setdefault(first.epoch, Pass(first)).first = first
        self._open(first)

    def _cross(self, epoch: int) -> None:
        """From a rewound pass into the next one, with the randomness that it began with.

        Epoch-end code (an evaluation, say) may have drawn from it in between: where the rewound pass ended in
        the same state as it did the first time, so does what follows. Else the two were different passes.
        """
        known, end = self._passes.get(epoch), self._passes[epoch - 1].end
        first = self._new_place(epoch)
        if known is not None:
            as_before = end is not None and first.origin.same_as(end)
            first = known.first if as_before else replace(known.first, origin=first.origin)
            self._return_to_start(first)
        self._desk.crossed(self, epoch)
        self._begin(first)

    def _open(self, place: Place) -> None:
        self._close()
        self._last = self.last
        self._opened, self.key = place, place.key
        self._source = self.loader
        if hasattr(self.loader, "iteration"):
            self.loader.iteration = place.iteration
        if self.mixture is not None:
            if self.draw_at(place) == (place.iteration + 1) * self.mixture.epoch_size:
                self._source = ()  # to seek to a pass's end would begin the next one
            else:
                # Also to a pass's start: a seek of a place that was given up again may be waiting.
                self.mixture.sampler.seek(self.draw_at(place))
        elif place.batch:
            self._source = skip_first_batches(self.loader, place.batch * self._base_batches())
        self._batches = _begun_when_asked(self._source)

    def _close(self) -> None:
        close = getattr(self._batches, "close", None)
        if close is not None:
            close()
        # An iterator dropped in mid-pass would stay Accelerate's active loader.
        if hasattr(self._source, "end"):
            self._source.end()
        self._batches = iter(())

    def _finish_pass(self, known: Pass) -> None:
        # A skipping copy counted its own pass; the loader itself must count it too, if it did at first.
        skipped_by_loop = known.first.batch > 0
        counted = known.broken_off is None and not skipped_by_loop
        if hasattr(self.loader, "iteration") and not (counted and self._source is self.loader):
            self.loader.iteration = known.first.iteration + counted

    def _iteration(self) -> int:
        return int(getattr(self.loader, "iteration", self._next))

    def _base_batches(self) -> int:
        # A dispatcher counts the base loader's batches, of which each step takes one a process; of an
        # iterable data set's it counts the steps.
        dispatched = isinstance(self.loader, DataLoaderDispatcher) and not self.loader.split_batches
        if dispatched and streams.stream_of(self.loader) is None:
            return int(self.loader.state.num_processes)
        return 1


_END = object()


def _at(opened: Place, key: tuple[int, int]) -> Place:
    """A place in a pass that was opened there. It is made only where somebody asks, not for every batch."""
    return opened if opened.batch == key[1] else replace(opened, batch=key[1])


def _begun_when_asked(source: Any) -> Iterator[Any]:
    # Not before: an order is drawn with the randomness that is in force when iteration begins.
    yield from source
