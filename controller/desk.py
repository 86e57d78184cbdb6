"""Whom a feed asks before each batch, and tells after it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from .feed import Feed


class Desk(Protocol):
    """Whom a feed asks and tells; the controller is one."""

    def requested(self, feed: Feed) -> bool | None:
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

    def changed(self, feed: Feed) -> None:
        """The first batch that was drawn again is not the one that was drawn at its place before."""
        ...
