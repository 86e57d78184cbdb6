"""Time by part: methods are timed from outside, each second counted once, in the innermost part."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(slots=True)
class Lap:
    """What one lap took: seconds and calls of each part."""

    seconds: Counter[str]
    calls: Counter[str]


class Timers:
    """Seconds spent in each part, without what its callees in other parts took.

    A timer costs about as much as what it times, so its own cost is measured on a function that does nothing
    and taken off: what lies between the two clock readings from the part, the rest from the caller's.
    """

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self._open: list[list[Any]] = []
        self._inside = self._outside = 0.0
        self._calibrate()

    def watch(self, part: str, owner: Any, names: str) -> None:
        """Time these methods (names separated by blanks) of this object, and of no other."""
        for name in names.split():
            setattr(owner, name, self.timed(part, getattr(owner, name)))

    def lap(self) -> Lap:
        """What was timed since the last call."""
        lap = Lap(Counter(self.seconds), Counter(self.calls))
        self.seconds.clear()
        self.calls.clear()
        return lap

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, with its time counted to a part."""
        clock, stack, seconds, calls = time.perf_counter, self._open, self.seconds, self.calls

        def timer(*args: Any, **kwargs: Any) -> Any:
            frame = [0.0]
            stack.append(frame)
            began = clock()
            try:
                return function(*args, **kwargs)
            finally:
                spent = clock() - began
                stack.pop()
                seconds[part] += spent - frame[0] - self._inside  # type: ignore[assignment]  # of seconds
                calls[part] += 1
                if stack:
                    stack[-1][0] += spent + self._outside

        return timer

    def _calibrate(self, rounds: int = 40, calls: int = 500) -> None:
        nothing = self.timed("", lambda: None)
        within, whole, bare = [], [], []
        for _ in range(rounds):
            self.seconds.clear()
            began = time.perf_counter()
            for _ in range(calls):
                nothing()
            whole.append((time.perf_counter() - began) / calls)
            within.append(self.seconds[""] / calls)
        for _ in range(rounds):
            began = time.perf_counter()
            for _ in range(calls):
                pass
            bare.append((time.perf_counter() - began) / calls)
        self._inside = min(within)
        self._outside = min(whole) - min(bare) - self._inside
        self.seconds.clear()
        self.calls.clear()
