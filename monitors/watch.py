"""Instances of monitors as a bank holds them, and those of one signal, which are judged when they must be."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from math import inf
from typing import Final

from .base import ScaledMonitor
from .calm import LOOK_EVERY, Calm, Calming
from .registry import make_monitor
from .types import Health, Monitor, MonitorSpec, Reading

_PAUSE: Final = 8
"""Measurements that are judged as they come before it is asked again: in a warm-up, in an alarm."""


class Watch:
    """One instance of a monitor; ``error`` says why it is out of service, if it is.

    ``update`` is the monitor's, and ``health`` that of its reading: looked up at every tick.
    """

    __slots__ = ("calming", "error", "health", "instance", "monitor", "name", "readings", "update")

    def __init__(self, name: str, instance: str, monitor: Monitor, readings: dict[str, Reading]) -> None:
        self.name = name
        self.readings = readings  # of all instances of the monitor
        self.instance = instance
        self.monitor = monitor
        self.calming = monitor if isinstance(monitor, Calming) else None
        self.update = monitor.update
        self.error: str | None = None
        self.read(Reading(Health.WARMUP))

    @property
    def label(self) -> str:
        """As it is called in a message."""
        return f"{self.name}[{self.instance}]" if self.instance else self.name

    def read(self, reading: Reading) -> None:
        """This is its reading from now on; ``MonitorBank`` has it written out."""
        self.health = reading.health
        self.readings[self.instance] = reading

    def share_scale(self, others: Iterable[Watch]) -> None:
        """Have monitors that learn the same of a signal learn it once: that is most of their work."""
        own = self.monitor
        if isinstance(own, ScaledMonitor):
            for other in others:
                theirs = other.monitor if other.error is None else None
                if isinstance(theirs, ScaledMonitor) and own.share_scale(theirs):
                    return


class Star:
    """A monitor whose signal has a star: it is made anew for each name that matches."""

    def __init__(self, spec: MonitorSpec) -> None:
        self.spec = spec
        self._before, _, self._after = spec.params["signal"].partition("*")

    def match(self, name: str) -> str | None:
        """What the star stands for in a name, or None."""
        before, after = self._before, self._after
        if len(name) > len(before) + len(after) and name.startswith(before) and name.endswith(after):
            return name[len(before) : len(name) - len(after)]
        return None

    def make(self, instance: str) -> Monitor:
        """The monitor of an instance."""
        return make_monitor(self.spec, f"{self._before}{instance}{self._after}")


class Line:
    """The monitors that read the same signals, and what was measured of these and is not judged yet.

    ``watches`` wait as long as none of them minds, as their ``calm`` says; ``others`` cannot. Of several
    signals each must be as calm, and the first that was measured is kept.
    """

    __slots__ = (
        *("_above", "_below", "_fall", "_high", "_left", "_low", "_pause", "_rise"),
        *("members", "others", "signals", "ticks", "values", "watches"),
    )

    def __init__(self, signals: tuple[str, ...]) -> None:
        self.signals = signals
        self.members: list[Watch] = []  # all of them
        self.watches: list[Watch] = []
        self.others: list[Watch] = []
        self.ticks: list[int] = []  # what waits
        self.values: list[float] = []
        self._pause = 0
        self.close()

    def add(self, watch: Watch) -> None:
        """One more; what waits must have been taken."""
        self.members.append(watch)
        (self.others if watch.calming is None else self.watches).append(watch)
        self.close()

    def close(self) -> None:
        """Let nothing pass any more; what waits must have been taken."""
        self._low, self._high, self._left = inf, -inf, 0
        self._above = self._rise = self._fall = inf
        self._below = -inf

    def pause(self) -> None:
        """Judge the next measurement when it comes: what is known ahead is no more true."""
        self.close()
        self._pause = max(self._pause, 1)

    def keep(self, tick: int, value: float) -> bool:
        """Let a measurement wait, if it changes nothing; a comparison or two at most ticks."""
        if not self._low <= value <= self._high:  # true for NaN
            return False
        if value > self._above:
            self._rise -= value - self._above
            if self._rise < 0.0:
                return False
        elif value < self._below:
            self._fall -= self._below - value
            if self._fall < 0.0:
                return False
        self._left -= 1
        if self._left < 0:
            return False
        self.ticks.append(tick)
        self.values.append(value)
        return True

    def keep_of(self, tick: int, signals: Mapping[str, float]) -> bool:
        """Let what was measured of its signals wait, if anything was, and it changes nothing."""
        first: float | None = None
        for name in self.signals:
            value = signals.get(name)
            if value is not None:
                if first is None:
                    first = value
                elif not self._low <= value <= self._high:
                    return False
        return first is not None and self.keep(tick, first)

    def open(self, tick: int, fail: Callable[[Watch, BaseException, int], None]) -> bool:
        """Ask all monitors what may pass from this tick on; what waited was taken. Whether anything may."""
        self.close()
        if self._pause:
            self._pause -= 1
            return False
        calm = self._calm(tick, fail) if self.watches else None
        if calm is None:
            return False
        self._low, self._high, self._left = calm.low, calm.high, calm.count
        self._above, self._rise, self._below, self._fall = calm.above, calm.rise, calm.below, calm.fall
        return True

    def _calm(self, tick: int, fail: Callable[[Watch, BaseException, int], None]) -> Calm | None:
        all_of_them: Calm | None = None
        for watch in self.watches:
            if watch.error is not None:
                continue
            if tick - watch.readings[watch.instance].tick >= LOOK_EVERY:
                return None
            assert watch.calming is not None
            try:
                calm = watch.calming.calm()
            except BaseException as error:  # noqa: BLE001
                fail(watch, error, tick)
                return None
            if calm is None:
                if watch.health is not Health.OK:
                    self._pause = _PAUSE
                return None
            if all_of_them is None:
                all_of_them = calm
            else:
                all_of_them.meet(calm)
        return all_of_them
