"""The counters of the user's loop, when Midcourse owns them, and the end of a stopped run."""

from __future__ import annotations

from collections.abc import Callable, Iterator


class TrainingStopped(RuntimeError):
    """The run was stopped by a policy, and the loop asked for more; says where the good state is."""


class Counters:
    """``epochs`` and ``steps``: counters that rewind with the data.

    Args:
        step: The present step.
        stopped: Whether the run was stopped.
        at_rest: Called between steps, where acts may be applied.
    """

    def __init__(
        self, step: Callable[[], int], stopped: Callable[[], bool], at_rest: Callable[[], object]
    ) -> None:
        self._step = step
        self._stopped = stopped
        self._at_rest = at_rest
        self.owned = False

    def epochs(self, count: int) -> Iterator[int]:
        """Count passes over the data; a rewound one is served inside a later one and not counted twice."""
        self.owned = True
        return self._epochs(count)

    def steps(self, count: int) -> Iterator[int]:
        """Count optimizer steps up to ``count``; steps that a rollback took back are made again."""
        self.owned = True
        return self._steps(count)

    def _epochs(self, count: int) -> Iterator[int]:
        for epoch in range(count):
            if self._stopped():
                return
            yield epoch

    def _steps(self, count: int) -> Iterator[int]:
        while True:
            self._at_rest()
            if self._stopped() or self._step() >= count:
                return
            yield self._step()
