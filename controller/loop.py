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
        begin: Called before the first pass or step; a run that is resumed is put in place then.
    """

    def __init__(
        self,
        step: Callable[[], int],
        stopped: Callable[[], bool],
        at_rest: Callable[[], object],
        begin: Callable[[], object],
    ) -> None:
        self._step = step
        self._stopped = stopped
        self._at_rest = at_rest
        self.owned = False
        self._begin = begin
        self._epoch = self._first = 0

    def state_dict(self) -> int:
        """The pass of ``epochs`` that goes on."""
        return self._epoch

    def load_state_dict(self, state: int) -> None:
        """Let the next ``epochs`` begin with this pass."""
        self._first = state

    def epochs(self, count: int) -> Iterator[int]:
        """Count passes over the data; a rewound one is served inside a later one and not counted twice."""
        self.owned = True
        return self._epochs(count)

    def steps(self, count: int) -> Iterator[int]:
        """Count optimizer steps up to ``count``; steps that a rollback took back are made again."""
        self.owned = True
        return self._steps(count)

    def _epochs(self, count: int) -> Iterator[int]:
        self._begin()
        first, self._first = self._first, 0
        for epoch in range(first, count):
            if self._stopped():
                return
            self._epoch = epoch
            yield epoch

    def _steps(self, count: int) -> Iterator[int]:
        self._begin()
        while True:
            self._at_rest()
            if self._stopped() or self._step() >= count:
                return
            yield self._step()
