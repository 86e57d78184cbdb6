"""A check of the conformance suite: what a monitor lets wait changes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from math import isfinite
from random import Random
from typing import NoReturn

from .calm import LOOK_EVERY, Calming
from .changes import Change
from .streams import NOISE, healthy, troubled
from .types import Monitor, Reading, Sample
from .watch import Line, Watch

_LONG = 1200  # measurements of each stream


def check_waiting_changes_nothing(make: Callable[[], Monitor]) -> None:
    """Taken in blocks of any length, a stream leaves the state and reading that it leaves one by one.

    So it is for noise, jumps, ramps, ties, gaps, what is not finite and changes that were announced, and for
    values as far off as the bounds permit. While they wait all is well, and stays so.
    """
    how_many_wait(make)


def how_many_wait(make: Callable[[], Monitor]) -> int:
    """How many measurements of such streams wait, once all was found as it should be."""
    often_far = [(seed, far) for seed in range(2) for far in (0.0, 0.3, 1.0)]
    return sum(_Pair(make, Random(seed), far).run(_stream(seed)) for seed, far in often_far)


class _Pair:
    """A monitor that takes what may wait in blocks, beside one that takes all of it as it comes."""

    def __init__(self, make: Callable[[], Monitor], random: Random, far: float) -> None:
        self._random, self._far = random, far  # how often a value is as far off as the bounds permit
        self._lazy, self._plain = make(), make()
        self._line = Line(self._lazy.signals)
        self._line.add(Watch("lazy", "", self._lazy, {}))
        self._waited = 0

    def run(self, values: Iterator[float | None]) -> int:
        """Give both a stream; returns how many measurements waited."""
        random, line = self._random, self._line
        tick = 0
        for value in values:
            gap = random.choice((2, 3, 20, 1200)) if random.random() < 0.03 else 1
            tick += gap
            if random.random() < 0.003:
                self._expect(Change(tick, random.choice((0.5, 3.0)), everything=random.random() < 0.3))
            if value is None or gap > LOOK_EVERY or not self._waits(tick, value):
                self._catch_up()
                line.close()
                sample = self._sample(tick, value)
                line.members[0].read(self._lazy.update(sample))
                self._same(self._plain.update(sample))
            elif random.random() < 0.05:
                self._catch_up()
        self._catch_up()
        return self._waited

    def _waits(self, tick: int, value: float) -> bool:
        """Let a value wait, or one as far off as may be; the other takes it now, and its health stays."""
        random, line = self._random, self._line
        if not line.ticks or random.random() < 0.1:
            self._catch_up()
            if not line.open(tick, _raise):
                return False
        edge = self._edge() if random.random() < self._far else value
        for each in (edge, value):
            sample = self._sample(tick, each)
            if line.keep_of(tick, sample.signals):
                on_edge = getattr(self._plain, "on_edge", None)
                before = line.members[0].health
                reading = self._plain.update(sample)
                assert reading.health is before, f"{reading}, though it was to change nothing"
                assert getattr(self._plain, "on_edge", None) == on_edge, f"on edge after {reading}"
                self._waited += 1
                return True
        return False

    def _edge(self) -> float:
        """A value as far off as is permitted, alone or together with others."""
        line, part = self._line, self._random.choice((1.0, 0.5, 0.1))
        sums = (line._above + part * line._rise, line._below - part * line._fall)
        return self._random.choice([edge for edge in (line._low, line._high, *sums) if isfinite(edge)])

    def _expect(self, change: Change) -> None:
        self._catch_up()
        self._line.pause()
        for monitor in (self._lazy, self._plain):
            monitor.expect(change)

    def _catch_up(self) -> None:
        line = self._line
        if line.ticks:
            assert isinstance(self._lazy, Calming)
            line.members[0].read(self._lazy.settle(line.ticks, line.values))
            line.ticks, line.values = [], []
            self._same(None)

    def _same(self, reading: Reading | None) -> None:
        """Both have the same state, and the same reading, which is part of it."""
        states = [json.dumps(monitor.state_dict()) for monitor in (self._lazy, self._plain)]
        assert states[0] == states[1], f"in blocks it has another state:\n{states[0]}\n{states[1]}"
        mine = self._line.members[0].readings[""]
        assert reading is None or mine.to_json() == reading.to_json(), f"{mine}, not {reading}"

    def _sample(self, tick: int, value: float | None) -> Sample:
        signals = {} if value is None else dict.fromkeys(self._lazy.signals, value)
        return Sample(tick, tick, 0, signals)


def _stream(seed: int) -> Iterator[float | None]:
    """Stretches of noise, now and then other than usual: a ramp, ties, a jump, trouble."""
    random = Random(seed)
    noise = healthy(_LONG, seed)
    yield from noise[: _LONG // 2]
    for value in troubled(300, seed):
        yield None if value is None else value
    rest = iter(noise[_LONG // 2 :])
    level = 0.0
    for stretch in range(12):
        kind = random.choice(("noise", "ramp", "ties", "jump", "zero"))
        level += random.choice((-1, 1)) * random.uniform(0, 5) * NOISE if kind == "jump" else 0.0
        for index, value in zip(range(50), rest, strict=False):
            level += 0.1 * NOISE if kind == "ramp" else 0.0
            moved = value + level
            yield 0.0 if kind == "zero" and index == stretch else round(moved, 1) if kind == "ties" else moved


def _raise(watch: Watch, error: BaseException, tick: int) -> NoReturn:
    raise error
