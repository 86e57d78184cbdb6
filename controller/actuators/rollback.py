"""``rollback``: back to a snapshot, and one of three ways on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch

from ...policies.actions import Data
from ...policies.types import Decision
from .. import rng
from ..clock import Clock
from ..feed import Feed
from ..places import Place, Window
from ..ring import Moment, Snapshot
from ..run import Run
from ..sensing import in_force
from ..training_state import SmallState
from .effect import Effect
from .fate import fate_of, guilty_from
from .read_back import identical
from .target import find_target

log = logging.getLogger("midcourse")

PLACE_UNKNOWN = "the snapshot's place in the data is not known any more"

T = TypeVar("T")


def rollback(run: Run, decision: Decision, params: Mapping[str, Any]) -> Effect:
    """Restore a good snapshot; with ``data: skip`` or ``replay`` also schedule, step, randomness and data."""
    target = find_target(run, decision, params["to"])
    place = target.moment.place
    known = run.feed is not None and place is not None and run.feed.knows(place)
    data = Data(params["data"]) if run.rewinds is None and known else Data.FORWARD
    saved = Saved.of(run, rewinds=data is not Data.FORWARD)
    details: dict[str, Any] = {
        "target_tick": target.tick,
        "target_step": target.moment.step,
        "from_step": saved.moment.step,
        "steps_undone": saved.moment.step - target.moment.step,
        "undone_ticks": [target.tick + 1, run.clock.tick],
        "data": data.value,
        **fate_of(run, decision, place if known else None, data),
    }
    saved.or_put_back(run, lambda: go_back(run, decision, target, data))
    run.returned_to = None if data is Data.FORWARD else target.tick
    if regulated := in_force(run):
        details["regulated"] = regulated
    if data.value != params["data"]:
        details["asked"] = params["data"]
        details["because"] = run.rewinds or PLACE_UNKNOWN

    def commit() -> None:
        run.ring.release(saved.tensors)
        abandon_after(run, target, decision)
        if data is not Data.FORWARD:
            run.trail.back_to(target.tick)
        _forget_before_the_oldest(run)
        tell_loop(run, saved.moment.step)

    return Effect(details, undo=lambda: saved.put_back(run), commit=commit, facts=target.moment.facts)


def abandon_after(run: Run, target: Snapshot, decision: Decision) -> None:
    """What was kept after the target is of an abandoned course; the target stays until there is a verdict."""
    run.ring.drop_after(target, run.clock.tick)
    run.ring.pin(target.tick, decision.id)
    run.checkpoints.abandon_after(target.tick, run.clock.tick)


def tell_loop(run: Run, left: int) -> None:
    """Tell those who asked that the run was led from step ``left`` to where it stands now."""
    for told in run.on_rollback:
        try:
            told(left, run.clock.step)
        except Exception:  # the loop's own logger must not end its training
            log.exception("a callback given to on_rollback failed")


def moment_of(run: Run, feed: Feed | None, place: Place | None) -> Moment:
    """Where the run stands now; ``place`` is where the feed's next step takes its first batch from."""
    clock = run.clock
    return Moment(
        clock.tick,
        clock.step,
        clock.branch,
        place,
        rng.capture() if feed is None else feed.random_state(),
        run.detectors.state_dict(),
        run.detectors.facts(),
        feed.fingerprint() if feed is not None and place is feed.last else None,
    )


def go_back(run: Run, decision: Decision, target: Snapshot, data: Data) -> None:
    """Put the snapshot in place and read it back; unless the data goes forward, lead the feed back too."""
    moment = target.moment
    target.wait()
    run.state.restore(target.tensors, target.small, rewind=data is not Data.FORWARD)
    if not identical(run.state.tensors(), target.tensors):
        raise RuntimeError("the restored state differs from the snapshot")
    run.detectors.load_state_dict(moment.detectors)
    run.clock.branch += 1
    feed = run.feed
    if data is Data.FORWARD or feed is None or moment.place is None:
        return
    run.clock.step = moment.step
    if data is Data.SKIP:
        start = guilty_from(run, decision, moment.place)
        if start < feed.place.key:
            feed.left_out.append(Window(decision.id, start, feed.place.key))
    # The mixture's history goes first: opening the feed draws from it.
    if run.mix is not None:
        run.mix.rewind(moment.place, run.clock.tick + 1)
    # Under other weights a mixture gives another batch there.
    seen = moment.batch if run.mix is None else None
    feed.rewind(moment.place, moment.random_state, seen, pulled=moment.batch is not None)


def _forget_before_the_oldest(run: Run) -> None:
    """What was left out before the oldest snapshot's place is never passed again; a checkpoint's may be."""
    if run.checkpoints.entries:
        return
    places = [s.moment.place.key for s in run.ring.snapshots if s.moment.place is not None]
    if run.feed is not None and places:
        run.feed.forget_before(min(places))


@dataclass(slots=True)
class Saved:
    """The state of a run at a moment, so that a failing act can be taken back, or what a trial left kept.

    ``rewinds``: the act leads the feed back. One that does not must never touch it: a stream without state
    of its own cannot be opened anew.
    """

    rewinds: bool
    tensors: list[torch.Tensor]
    small: SmallState
    moment: Moment
    clock: Clock
    left_out: list[Window]
    missed: set[tuple[int, int]]
    history: Mapping[str, Any] | None
    trail: list[tuple[int, tuple[int, int]]]
    layers: list[dict[str, Any]]
    expected: list[str]

    @classmethod
    def of(cls, run: Run, *, rewinds: bool) -> Saved:
        """The state at present, copied into the ring's spare buffer."""
        return cls(
            rewinds,
            run.ring.copy(run.state.tensors()),
            run.state.small(),
            moment_of(run, run.feed, None if run.feed is None else run.feed.place),
            replace(run.clock),
            [] if run.feed is None else list(run.feed.left_out),
            set() if run.feed is None else set(run.feed.missed),
            None if run.mix is None else run.mix.state_dict(),
            run.trail.state_dict(),
            run.layers.state_dict(),
            run.expected.state_dict(),
        )

    def or_put_back(self, run: Run, part: Callable[[], T]) -> T:
        """Run a part; if it fails half-way, this state is in force again."""
        try:
            return part()
        except Exception:
            self.put_back(run)
            raise

    def put_back(self, run: Run) -> None:
        """Make this state the present one, and give its buffer back."""
        self.restore(run)
        run.ring.release(self.tensors)

    def restore(self, run: Run) -> None:
        """Make this state the present one; the tick, which never rewinds, goes on."""
        run.state.restore(self.tensors, self.small, rewind=True)
        run.detectors.load_state_dict(self.moment.detectors)
        run.expected.load_state_dict(self.expected)
        run.clock.step, run.clock.branch = self.clock.step, self.clock.branch
        self.put_back_course(run)
        if self.rewinds and run.feed is not None and self.moment.place is not None:
            run.feed.rewind(self.moment.place, self.moment.random_state, pulled=False)

    def put_back_course(self, run: Run) -> None:
        """Of this state only what lies outside snapshots: overrides as old as then, the data's history."""
        run.layers.load_state_dict(self.layers)
        run.layers.delay(run.clock.tick - self.clock.tick)
        if not self.rewinds:
            return
        if run.mix is not None and self.history is not None:
            run.mix.load_state_dict(self.history)
        if run.feed is not None:
            run.feed.left_out, run.feed.missed = list(self.left_out), set(self.missed)
        run.trail.load_state_dict(self.trail)
