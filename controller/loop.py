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
        epoch_begins: Called before each pass of ``epochs``.
        ended: Called when the loop has come to its end; ``broken=True``: when it was broken off.
    """

    def __init__(
        self,
        step: Callable[[], int],
        stopped: Callable[[], bool],
        at_rest: Callable[[], object],
        begin: Callable[[], object],
        epoch_begins: Callable[[], object],
        ended: Callable[..., object],
    ) -> None:
        self._step = step
        self._stopped = stopped
        self._at_rest = at_rest
        self.owned = False
        self._begin = begin
        self._epoch_begins = epoch_begins
        self._ended = ended
        self.by_epochs = False
        self._loop = self._epoch = 0
        self._goal: int | None = None  # steps, or passes if by_epochs
        self._from: int | None = 0  # the step before the loop over passes
        self._resumed = (0, 0)

    def state_dict(self) -> tuple[int, int]:
        """Which loop over ``epochs`` goes on, counted from 1, and with which pass."""
        return (self._loop, self._epoch)

    def load_state_dict(self, state: tuple[int, int]) -> None:
        """Let that loop begin with that pass: those before it have come to their end."""
        self._resumed = state

    def horizon(self, steps_a_pass: int | None) -> int | None:
        """The step at which the present loop will end; None if it does not count here, or nobody knows."""
        if self._goal is None or not self.by_epochs:
            return self._goal
        if steps_a_pass is None or self._from is None:
            return None
        return self._from + self._goal * steps_a_pass

    def epochs(self, count: int) -> Iterator[int]:
        """Count passes over the data; a rewound one is served inside a later one and not counted twice."""
        self.owned = self.by_epochs = True
        return self._epochs(count)

    def steps(self, count: int) -> Iterator[int]:
        """Count optimizer steps up to ``count``; steps that a rollback took back are made again."""
        self.owned = True
        return self._steps(count)

    def _epochs(self, count: int) -> Iterator[int]:
        self._begin()
        self._loop += 1
        loop, first = self._resumed
        if self._loop > loop:
            first = 0
        elif self._loop < loop:
            first = count
        self._goal, self._from = count, self._step()
        if first:  # it was begun by another process
            self._from = 0 if self._loop == 1 else None
        for epoch in range(first, count):
            if self._stopped():
                break
            self._epoch = epoch
            self._epoch_begins()
            yield from self._watched(epoch)
        self._ended()

    def _steps(self, count: int) -> Iterator[int]:
        self._begin()
        self._goal = count
        while True:
            self._at_rest()
            if self._stopped() or self._step() >= count:
                break
            yield from self._watched(self._step())
        self._ended()

    def _watched(self, number: int) -> Iterator[int]:
        """A number for the loop, which may break off there."""
        try:
            yield number
        except GeneratorExit:
            self._ended(broken=True)
            raise
