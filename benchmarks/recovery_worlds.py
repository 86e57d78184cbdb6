"""The worlds of the recovery benchmark: two small trainings, each from three sources.

``text`` is the demo's byte transformer, smaller, on Python's own standard library. ``digits`` is a network of
one hidden layer on scikit-learn's 8 x 8 digits in noise; its sources are groups of classes, so leaving one
out for long costs more than it does in ``text``.

Every index of a source is one example that comes once in a run: the data repeat, but an index stands for one
delivery, so a spoiled shard is a set of indices, bad whenever it is read again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

from midcourse.controller.demo.corpus import Windows, load_corpus
from midcourse.controller.demo.model import ByteTransformer

STEPS = 800
WARM_UP = 40
ENDLESS = 1 << 20  # indices of a source: more than any run draws
_CONTEXT = 32  # bytes that the transformer reads
_PIXEL_NOISE = 0.3  # of the pixels' range: without it the digits are learnt by heart in 200 steps
_SPLIT_SEED = 5

Pair = tuple[Tensor, Tensor]
"""Input and target of one example."""


class World(Protocol):
    """What is trained. ``held_out`` are inputs and targets of each source, ``rate`` the schedule's peak."""

    names: tuple[str, ...]
    batch_size: int
    rate: float
    held_out: Mapping[str, Pair]

    def model(self) -> nn.Module:
        """A fresh one, from torch's global generator."""
        ...

    def example(self, source: int, index: int) -> Pair:
        """What a source delivers when all is well."""
        ...

    def garbage(self, source: int, index: int) -> Pair:
        """What it delivers from broken storage."""
        ...

    def mislabelled(self, source: int, index: int) -> Pair:
        """An example whose target is wrong: every second digit, every third byte."""
        ...


class Text:
    """Bytes of code, documentation and tables; a target is the input one byte on."""

    names: tuple[str, ...] = ("code", "docs", "tables")
    batch_size = 12
    rate = 6e-3  # at 1e-2 clean runs differ three times as much between seeds, too much to judge others by

    def __init__(self) -> None:
        corpus = load_corpus()
        self._windows = [corpus.train[name] for name in self.names]
        self._binaries = corpus.binaries
        self.held_out: Mapping[str, Pair] = {name: _pair(text) for name, text in corpus.validation.items()}

    def model(self) -> nn.Module:
        """About 60 thousand parameters."""
        return ByteTransformer(width=48, depth=1, context=_CONTEXT)

    def example(self, source: int, index: int) -> Pair:
        """A window of the source's text."""
        return _window(self._windows[source], index)

    def garbage(self, source: int, index: int) -> Pair:
        """A window of machine code."""
        return _window(self._binaries, index)

    def mislabelled(self, source: int, index: int) -> Pair:
        """A third of the targets are any byte."""
        read, target = self.example(source, index)
        own = _generator(source, index)
        wrong = torch.rand(len(target), generator=own) < 1 / 3
        return read, torch.where(wrong, torch.randint(256, target.shape, generator=own), target)


class Digits:
    """Handwritten digits in noise; the sources are the classes 0 to 3, 4 to 6 and 7 to 9."""

    names: tuple[str, ...] = ("low", "middle", "high")
    batch_size = 32
    rate = 1e-2  # at 3e-3 and less ten times the rate is a help, not a fault
    _classes = ((0, 1, 2, 3), (4, 5, 6), (7, 8, 9))

    def __init__(self) -> None:
        bunch = load_digits()
        pixels = torch.tensor(bunch.data, dtype=torch.float32) / 16
        labels = torch.tensor(bunch.target, dtype=torch.int64)
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(_SPLIT_SEED))
        pixels, labels = pixels[order], labels[order]
        held = torch.arange(len(labels)) % 4 == 0
        groups = [torch.isin(labels, torch.tensor(classes)) for classes in self._classes]
        self._train = [(pixels[own & ~held], labels[own & ~held]) for own in groups]
        noise = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(_SPLIT_SEED))
        noisy = pixels + _PIXEL_NOISE * noise
        self.held_out: Mapping[str, Pair] = {
            name: (noisy[own & held], labels[own & held])
            for name, own in zip(self.names, groups, strict=True)
        }

    def model(self) -> nn.Module:
        """About 9 thousand parameters."""
        return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    def example(self, source: int, index: int) -> Pair:
        """One digit of the source, in noise of its own."""
        pixels, labels = self._train[source]
        noise = torch.randn(64, generator=_generator(source, index))
        return pixels[index % len(pixels)] + _PIXEL_NOISE * noise, labels[index % len(labels)]

    def garbage(self, source: int, index: int) -> Pair:
        """Nothing but noise, under any label of the source."""
        own = _generator(source, index)
        _, labels = self._train[source]
        return torch.rand(64, generator=own), labels[torch.randint(len(labels), (), generator=own)]

    def mislabelled(self, source: int, index: int) -> Pair:
        """Half of the labels are any digit."""
        pixels, label = self.example(source, index)
        own = _generator(source, index)
        wrong = torch.rand((), generator=own) < 0.5
        return pixels, torch.randint(10, (), generator=own) if wrong else label


def _pair(text: Tensor) -> Pair:
    return text[:, :_CONTEXT], text[:, 1 : _CONTEXT + 1]


def _window(windows: Windows, index: int) -> Pair:
    text = windows[index % len(windows)]["bytes"]
    return text[:_CONTEXT], text[1 : _CONTEXT + 1]


def _generator(source: int, index: int) -> torch.Generator:
    return torch.Generator().manual_seed(source * ENDLESS + index)


WORLDS: Mapping[str, Callable[[], World]] = {"text": Text, "digits": Digits}


@cache
def world(name: str) -> World:
    """A world by its name, read once in a process."""
    return WORLDS[name]()


def losses(model: nn.Module, read: Tensor, target: Tensor) -> Tensor:
    """Mean loss of each example, [B], in nats a prediction."""
    logits = model(read)
    each = functional.cross_entropy(logits.flatten(0, -2), target.flatten(), reduction="none")
    return each.view(len(read), -1).mean(dim=1)


@torch.no_grad()
def validate(model: nn.Module, held_out: Mapping[str, Pair]) -> dict[str, float]:
    """Mean loss on each source's held-out examples."""
    return {name: losses(model, *pair).mean().item() for name, pair in held_out.items()}


@dataclass(frozen=True, slots=True)
class Delivery:
    """Which example comes, and by how much its gradient is multiplied, unseen by its loss."""

    source: int
    index: int
    gain: float = 1.0
    kind: str = "example"  # the method of the world that makes it
