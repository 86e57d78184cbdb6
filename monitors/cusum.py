"""The one-sided cumulative sum: how long and how far something has been above zero."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .base import above_zero, at_least
from .types import ParameterError


class Cusum:
    """S <- max(0, S + min(z, clip) - slack): alarm at S > threshold, with the onset of the change.

    The onset is the first measurement after S was last 0. The alarm clears when S has come down to half the
    threshold. S stops at one and a half thresholds, so that it clears soon after however long a change.

    Args:
        slack: what of each z counts as none: half of the shift that is worth finding.
        threshold: the sum that alarms.
        clip: the most that one z can add, so that no single measurement alarms.

    Source: E. S. Page, Continuous inspection schemes, Biometrika 41 (1954).
    """

    __slots__ = ("_clip", "onset", "since", "slack", "sum", "threshold")

    def __init__(self, slack: float, threshold: float, clip: float) -> None:
        at_least("slack", 0, slack)
        above_zero("threshold", threshold)
        if not slack < clip < threshold:
            message = f"clip must lie between slack = {slack} and threshold = {threshold}, got {clip}"
            raise ParameterError("clip", message)
        self.slack = slack
        self._clip = clip
        self.threshold = threshold
        self.reset()

    def reset(self) -> None:
        """Forget all evidence."""
        self.sum = 0.0
        self.since = 0
        self.onset: int | None = None

    def add(self, tick: int, z: float) -> float:
        """Take in the z of a measurement; returns S."""
        before = self.sum
        if before == 0.0:
            self.since = tick
        total = before + (z if z < self._clip else self._clip) - self.slack
        threshold = self.threshold
        if total <= 0.0:
            total = 0.0
        elif total > 1.5 * threshold:
            total = 1.5 * threshold
        self.sum = total
        if self.onset is None:
            if total > threshold:
                self.onset = self.since
        elif total <= 0.5 * threshold:
            self.onset = None
        return total

    @property
    def room(self) -> float:
        """What it can still take beyond the slack and not alarm; none while it does."""
        return self.threshold - self.sum if self.onset is None else 0.0

    def add_all(self, ticks: list[int], zs: Sequence[float]) -> float:
        """``add`` one after the other where there is room for all of them."""
        total, slack, clip = self.sum, self.slack, self._clip
        if total == 0.0 and max(zs) <= slack:  # as a rule, where the slack is large
            self.since = ticks[-1]
            return 0.0
        for tick, z in zip(ticks, zs, strict=True):
            if total == 0.0:
                self.since = tick
            total = total + (z if z < clip else clip) - slack
            if total <= 0.0:
                total = 0.0
        self.sum = total
        return total

    def state_dict(self) -> dict[str, Any]:
        """All of its state."""
        return {"sum": self.sum, "since": self.since, "onset": self.onset}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state."""
        self.sum, self.since, self.onset = state["sum"], state["since"], state["onset"]
