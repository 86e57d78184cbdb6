"""What was announced since the last sample: it goes with the next one, so that monitors expect it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ..monitors.changes import MARK, MIX_PREFIX
from .mix import Mix

EVERYTHING = ""
"""Stands for all signals."""


class Expected:
    """Signals that are about to change and are meant to.

    They become signals themselves, told with one sample, which the journal keeps: who replays it expects the
    same.
    """

    def __init__(self) -> None:
        self.names: set[str] = set()
        """Announced and not told yet."""

    def announce(self, names: Iterable[str]) -> None:
        """These change from the next sample on."""
        self.names.update(names)

    def tell(self, signals: dict[str, float], mix: Mix | None) -> None:
        """Add to a tick's signals what was announced, and the shares of the sources where others hold now."""
        shares = None if mix is None else mix.news()
        if shares:
            signals |= {f"{MIX_PREFIX}{name}": share for name, share in shares.items()}
        if shares or self.names:
            signals[MARK] = 1.0
        if self.names and EVERYTHING not in self.names:
            signals |= {f"{MARK}/{name}": 1.0 for name in sorted(self.names)}
        if self.names:
            self.names = set()

    def state_dict(self) -> list[str]:
        """What is still to be told, as JSON."""
        return sorted(self.names)

    def load_state_dict(self, state: Sequence[str]) -> None:
        """Take over what another had still to tell."""
        self.names = set(state)


def announced(signals: Sequence[Any]) -> frozenset[str]:
    """The names that a user announces; none at all stands for everything.

    Raises:
        ValueError: one is no name of a signal.
    """
    wrong = [name for name in signals if not isinstance(name, str) or not name or "*" in name]
    if wrong:
        message = f"expect_change takes names of signals, such as 'loss' or 'eval/loss', got {wrong[0]!r}"
        raise ValueError(message)
    return frozenset(signals) or frozenset({EVERYTHING})
