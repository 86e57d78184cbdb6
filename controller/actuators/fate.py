"""What a rollback makes of the batches between its snapshot's place and the present one."""

from __future__ import annotations

from collections.abc import Iterable

from ...policies.actions import Data
from ...policies.types import Decision
from ..places import Place
from ..run import Run

Key = tuple[int, int]
"""A batch: (pass, number within it)."""

Range = list[list[int]]
"""``[first, stop]`` as keys, without ``stop``, in the order of passes and of batches within them."""


def fate_of(run: Run, decision: Decision, place: Place | None, data: Data) -> dict[str, list[Range] | None]:
    """The ranges of batches by what becomes of them, for the journal; asked before anything is changed.

    ``never_trained``: left out of the stream from now on, as guilty. ``trained_twice``: they were trained on
    and come again. ``undone``: they were trained on, the weights know nothing of it any more, and they do
    not come again; None where ``place``, the snapshot's, is not known.
    """
    feed = run.feed
    fate: dict[str, list[Range] | None] = {"never_trained": [], "trained_twice": [], "undone": []}
    if feed is None or place is None:
        return fate | {"undone": None}
    first, here = place.key, feed.place.key
    if data is Data.FORWARD:
        return fate | {"undone": ranges(first, here, feed.missed)}
    guilty = guilty_from(run, decision, place) if data is Data.SKIP else here
    return fate | {
        "never_trained": ranges(guilty, here),
        "trained_twice": ranges(first, min(guilty, here), feed.missed),
    }


def guilty_from(run: Run, decision: Decision, place: Place) -> Key:
    """The first batch that is left out: the one of the change's onset, or of ``place`` if that is later."""
    onset = decision.onset if decision.onset is not None else decision.tick
    first = run.trail.before(onset)
    return place.key if first is None else max(first, place.key)


def ranges(start: Key, stop: Key, without: Iterable[Key] = ()) -> list[Range]:
    """The batches from ``start`` on and before ``stop``, cut where some are missing.

    >>> ranges((0, 5), (1, 2), [(0, 7), (0, 8)])
    [[[0, 5], [0, 7]], [[0, 9], [1, 2]]]
    """
    found: list[Range] = []
    for key in sorted(key for key in without if start <= key < stop):
        if start < key:
            found.append([list(start), list(key)])
        start = (key[0], key[1] + 1)
    return [*found, [list(start), list(stop)]] if start < stop else found
