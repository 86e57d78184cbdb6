"""The loader's stand-in: what the user's loop iterates in place of the loader that Accelerate prepared.

In all else (attributes, length, ``isinstance``) it is that loader.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import wrapt

from .desk import Desk
from .feed import Feed


class WatchedLoader(wrapt.ObjectProxy[Any]):
    """A prepared loader whose iteration goes through a feed; in all else it is that loader.

    ``whole`` and ``skipped`` are given for what ``skip_first_batches`` made of a watched loader: it is
    served by the same feed, which knows where in the data it stands.
    """

    def __init__(self, loader: Any, desk: Desk, whole: WatchedLoader | None = None, skipped: int = 0) -> None:
        super().__init__(loader)
        self._self_feed: Feed = Feed(loader, desk) if whole is None else whole.feed
        self._self_skipped = skipped

    @property
    def feed(self) -> Feed:
        """The feed that serves this loader's batches."""
        return self._self_feed

    def __iter__(self) -> Iterator[Any]:
        return self._self_feed.serve(self._self_skipped)
