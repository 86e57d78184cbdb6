"""What goes wrong in the recovery benchmark, one fault a run, and four healthy runs that look odd.

All of it is a property of the world, nothing of it is told to an arm. There are three kinds, and they
differ in what cures them:

- by **example**: a spoiled shard is bad whenever it is read, so it must be left out;
- by **time**: storage that breaks delivers bad data from some batch's worth of reads on, whatever is read,
  until it is whole again or for good; a bit flips once;
- by **schedule**: a learning rate that is wrong from a schedule step on is wrong again after a rollback.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from math import cos, nan, pi
from typing import Any

import numpy as np
import torch
from recovery_worlds import ENDLESS, STEPS, WARM_UP, Delivery, World
from torch import nn
from torch.utils.data import Dataset

from midcourse import Mixture

START = 300
"""First step that is wrong, counted from 0: the detectors have long warmed up."""

_SHARD = 20
_STUCK = 100
_CYCLE = 200  # steps between two warm restarts
_BIT = 30  # the highest of the exponent: 0.05 becomes 2e37

Item = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Read:
    """One read: in which batch's worth of reads, at which place of it, and which example was wanted.

    ``batch`` counts as the run goes on, ``planned`` is the batch to which the example belongs in a run that
    is never taken back: None where it belongs to none.
    """

    batch: int
    slot: int
    planned: int | None
    wanted: Delivery


class Storage:
    """Where all sources are read from. Reads are counted in the training process: use no workers."""

    def __init__(self, world: World, fault: Fault, seed: int, steps: int = STEPS) -> None:
        self.mixture = Mixture(
            {name: _Shelf(self, number) for number, name in enumerate(world.names)},
            weights=dict.fromkeys(world.names, 1.0),
            seed=seed,
            epoch_size=steps * world.batch_size,
        )
        self.world = world
        self._fault = fault
        self._reads = 0
        sources, indices = self.mixture.draw(0, steps * world.batch_size)
        self.planned = list(zip(sources.tolist(), indices.tolist(), strict=True))
        self._place = {key: place for place, key in enumerate(self.planned)}
        self.first: dict[int, Delivery] = {}

    def read(self, source: int, index: int) -> Item:
        """The item that comes when this one is asked for now."""
        size = self.world.batch_size
        batch, slot = divmod(self._reads, size)
        self._reads += 1
        place = self._place.get((source, index))
        wanted = Delivery(source, index)
        got = self._fault.delivers(Read(batch, slot, None if place is None else place // size, wanted), self)
        read, target = getattr(self.world, got.kind)(got.source, got.index)
        return {"read": read, "target": target, "gain": got.gain, "group": got.source}

    def places(self) -> int:
        """Examples of a batch."""
        return self.world.batch_size

    def place_of(self, wanted: Delivery) -> int:
        """The example's place in the whole planned stream."""
        return self._place[wanted.source, wanted.index]


class _Shelf(Dataset[Item]):
    def __init__(self, storage: Storage, source: int) -> None:
        self._storage, self._source = storage, source

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, index: int) -> Item:
        return self._storage.read(self._source, index)


def _healthy(read: Read, storage: Storage) -> Delivery:
    return read.wanted


def _nothing(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    pass


def cosine(step: int) -> float:
    """Warm-up, then half a cosine to a twentieth."""
    return min(1.0, (step + 1) / WARM_UP) * (0.05 + 0.475 * (1 + cos(pi * min(step / STEPS, 1.0))))


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong, or looks odd.

    Args:
        about: In a few words.
        steps: How many steps it takes; None: it stays. What has been done at once takes one.
        healthy: It is a control: nothing is wrong.
        worst: Judged by the worst source's loss, not by the mean of all.
        delivers: What comes for an example that is wanted.
        rate: Multiplier of the peak learning rate by schedule step.
        strikes: What is done to the model and its optimizer before step ``START``, once.
    """

    about: str
    steps: int | None = None
    healthy: bool = False
    worst: bool = False
    delivers: Callable[[Read, Storage], Delivery] = _healthy
    rate: Callable[[int], float] = cosine
    strikes: Callable[[nn.Module, torch.optim.Optimizer], None] = _nothing

    def until(self) -> int:
        """The first step that is well again."""
        return STEPS if self.steps is None else START + self.steps


def _planned(first: int, steps: int, **spoilt: Any) -> Callable[[Read, Storage], Delivery]:
    """The examples of these batches are spoilt, whenever they are read."""

    def delivers(read: Read, storage: Storage) -> Delivery:
        bad = read.planned is not None and first <= read.planned < first + steps
        return replace(read.wanted, **spoilt) if bad else read.wanted

    return delivers


def _from_now_on(source: int, kind: str) -> Callable[[Read, Storage], Delivery]:
    """One source delivers something else from some read on."""

    def delivers(read: Read, storage: Storage) -> Delivery:
        bad = read.batch >= START and read.wanted.source == source
        return replace(read.wanted, kind=kind) if bad else read.wanted

    return delivers


def _stuck(read: Read, storage: Storage) -> Delivery:
    if read.batch == START:
        storage.first[read.slot] = read.wanted
    return storage.first[read.slot] if START <= read.batch < START + _STUCK else read.wanted


def _duplicated(read: Read, storage: Storage) -> Delivery:
    """A shard of four batches stands in the data 25 times."""
    if read.planned is None or not START <= read.planned < START + _STUCK:
        return read.wanted
    start = START * storage.places()
    again = (storage.place_of(read.wanted) - start) % (4 * storage.places())
    return Delivery(*storage.planned[start + again])


def _starved(read: Read, storage: Storage) -> Delivery:
    """Of the last source one example in 20 is left; the first one's come in place of the others."""
    if read.batch >= START and read.wanted.source == 2 and _draw(read.wanted.index) >= 0.05:
        return Delivery(0, read.wanted.index + ENDLESS // 2)
    return read.wanted


def _heavy(read: Read, storage: Storage) -> Delivery:
    """Each batch has a share of garbage, mostly small, sometimes half of it."""
    if read.planned is None:
        return read.wanted
    share = min(0.5, 0.01 * (1 - _draw(read.planned)) ** (-1 / 1.2))
    bad = _draw(read.wanted.index + ENDLESS) < share
    return replace(read.wanted, kind="garbage") if bad else read.wanted


def _draw(number: int) -> float:
    return float(np.random.default_rng(number).random())


def _ten_times(step: int) -> float:
    return cosine(step) * (10.0 if step >= START else 1.0)


def _ramp(step: int) -> float:
    return cosine(step) * min(50.0, 1.012 ** max(0, step - START))


def _constant(step: int) -> float:
    return min(1.0, (step + 1) / WARM_UP)


def _restarts(step: int) -> float:
    return min(1.0, (step + 1) / WARM_UP) * 0.5 * (1 + cos(pi * (step % _CYCLE) / _CYCLE))


def _lose_moments(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """As after a resume that forgot them: they are zero, the count of steps is not."""
    for state in optimizer.state.values():
        state["exp_avg"].zero_()
        state["exp_avg_sq"].zero_()


def _flip(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Of the largest weight in the last layer: elsewhere the network may not even notice."""
    last = [parameter for parameter in model.parameters() if parameter.dim() == 2][-1].detach().view(-1)
    last.view(torch.int32)[last.abs().argmax()] ^= 1 << _BIT


FAULTS: Mapping[str, Fault] = {
    "nan": Fault("one batch gives NaN", 1, delivers=_planned(START, 1, gain=nan)),
    "gradient": Fault("one gradient x 1e4", 1, delivers=_planned(START, 1, gain=1e4)),
    "shard": Fault("20 corrupted batches", _SHARD, delivers=_planned(START, _SHARD, kind="garbage")),
    "source": Fault("a source turns bad and stays bad", delivers=_from_now_on(0, "garbage")),
    "labels": Fault("label noise in one source, for good", delivers=_from_now_on(1, "mislabelled")),
    "rate": Fault("learning rate x 10 by the schedule", rate=_ten_times),
    "ramp": Fault("learning rate + 1.2 % a step", rate=_ramp),
    "moments": Fault("the optimizer's moments are lost", 1, strikes=_lose_moments),
    "bit": Fault("a weight's bit is flipped", 1, strikes=_flip),
    "stuck": Fault("the loader gives one batch 100 times", _STUCK, delivers=_stuck),
    "duplicates": Fault("a shard of 4 batches comes 25 times", _STUCK, delivers=_duplicated),
    "starved": Fault("of one group 1 example in 20 comes", worst=True, delivers=_starved),
    "constant": Fault("healthy: constant rate", healthy=True, rate=_constant),
    "cosine": Fault("healthy: cosine", healthy=True),
    "restarts": Fault("healthy: warm restarts", healthy=True, rate=_restarts),
    "heavy": Fault("healthy: heavy-tailed batches", healthy=True, delivers=_heavy),
}

CLEAN = "cosine"
"""The healthy run that every fault begins in."""


def chosen(names: Iterable[str], healthy: bool) -> list[str]:
    """Those of the names that are controls, or those that are not."""
    return [name for name in names if FAULTS[name].healthy is healthy]
