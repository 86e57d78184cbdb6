"""A signal so far, thinned as it grows: means of blocks, in constant memory."""

from __future__ import annotations

from collections.abc import Mapping
from math import nan
from typing import Any

import numpy as np

from .course import Floats

MOST = 128
"""Blocks that are kept; at as many, neighbours are merged and blocks become twice as long."""


class History:
    """Means of step, value and learning rate over blocks of equally many measurements."""

    __slots__ = ("_count", "_rates", "_sums", "_values", "size", "steps")

    def __init__(self) -> None:
        self.size = 1  # measurements in a block
        self.steps: list[float] = []
        self._values: list[float] = []
        self._rates: list[float] = []
        self._sums = [0.0, 0.0, 0.0]  # of the block that is not complete
        self._count = 0

    def add(self, step: float, value: float, rate: float) -> None:
        """Take in a measurement; a rate of NaN is not known."""
        sums = self._sums
        sums[0] += step
        sums[1] += value
        sums[2] += rate
        self._count += 1
        if self._count == self.size:
            self._finish()

    def _finish(self) -> None:
        for means, total in zip((self.steps, self._values, self._rates), self._sums, strict=True):
            means.append(total / self.size)
        self._sums, self._count = [0.0, 0.0, 0.0], 0
        if len(self.steps) >= MOST:
            self.size *= 2
            self.steps, self._values, self._rates = (
                [(a + b) / 2 for a, b in zip(means[::2], means[1::2], strict=True)]
                for means in (self.steps, self._values, self._rates)
            )

    def arrays(self) -> tuple[Floats, Floats, Floats | None]:
        """Steps, values and rates of the blocks, ``[n]`` each; no rates if none was measured."""
        steps, rates = np.array(self.steps), np.array(self._rates)
        known = ~np.isnan(rates)
        filled = np.interp(steps, steps[known], rates[known]) if known.any() else None
        return steps, np.array(self._values), filled

    def state_dict(self) -> dict[str, Any]:
        """All of its state; None stands for NaN."""
        columns = {"steps": self.steps, "values": self._values, "rates": self._rates, "sums": self._sums}
        plain = {name: [None if x != x else x for x in numbers] for name, numbers in columns.items()}
        return {**plain, "size": self.size, "count": self._count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state."""
        self.steps, self._values, self._rates, self._sums = (
            [nan if number is None else number for number in state[name]]
            for name in ("steps", "values", "rates", "sums")
        )
        self.size, self._count = state["size"], state["count"]
