"""Asks monitors what they say: at once, or of all that waits; one that raises is out of service."""

from __future__ import annotations

from .types import Health, Reading, Sample
from .watch import Line, Watch


class Judge:
    """What all instances of a bank have in common: how they are asked, and what went wrong.

    ``news`` says that some health has changed, that something went wrong, or that nobody has looked yet.
    """

    def __init__(self) -> None:
        self.news = True
        self._errors: list[str] = []
        self._said: set[str] = set()

    def update(self, watches: list[Watch], sample: Sample) -> None:
        """Give them a sample."""
        for watch in watches:
            if watch.error is None:
                try:
                    reading = watch.update(sample)
                    health = reading.health
                    if health is not watch.health:
                        watch.health = health
                        self.news = True
                    watch.readings[watch.instance] = reading
                except BaseException as error:  # noqa: BLE001
                    self.fail(watch, error, sample.tick)

    def begin(self, line: Line, sample: Sample) -> None:
        """Something was measured that cannot wait, or too much waits: begin a new block, or judge it."""
        if line.ticks:
            self.settle(line)
        kept = line.open(sample.tick, self.fail) and line.keep_of(sample.tick, sample.signals)
        if not kept:
            line.close()
        if line.others or not kept:
            self.update(line.others if kept else line.members, sample)

    def settle(self, line: Line) -> None:
        """Have what waits taken."""
        ticks, values = line.ticks, line.values
        line.ticks, line.values = [], []
        for watch in line.watches:
            if watch.error is None and watch.calming is not None:
                try:
                    watch.readings[watch.instance] = watch.calming.settle(ticks, values)
                except BaseException as error:  # noqa: BLE001
                    self.fail(watch, error, ticks[-1])

    def close(self, line: Line) -> None:
        """From here on its measurements are judged as they come."""
        if line.ticks:
            self.settle(line)
        line.close()

    def fail(self, watch: Watch, error: BaseException, tick: int = -1) -> None:
        """Take an instance out of service. A panic in river's Rust is a BaseException, so all are caught."""
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise error
        watch.error = f"{type(error).__name__}: {error}"
        tick = max(tick, watch.readings[watch.instance].tick)
        self.news = True
        watch.read(Reading(Health.ERROR, tick, reason=watch.error))
        self.say(f"monitor {watch.label} is out of service: {watch.error}")

    def say(self, message: str) -> None:
        """Tell of something that went wrong, once."""
        if message not in self._said:
            self._said.add(message)
            self.news = True
            self._errors.append(message)

    def take_errors(self) -> list[str]:
        """What went wrong since the last call, each thing once."""
        errors, self._errors = self._errors, []
        return errors
