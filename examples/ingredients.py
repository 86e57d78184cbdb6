"""What the example loops train on: local data and small models, so that the loops show only the loop.

Nothing is downloaded. The text comes from Python's own standard library, the images from scikit-learn.
"""

from __future__ import annotations

import ast
import inspect
import random
import textwrap
from collections.abc import Sequence
from html.entities import html5
from pydoc_data.topics import topics
from typing import NamedTuple

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset, TensorDataset

KINDS = ("code", "prose", "table")
"""The classes of the text task: what kind of page a snippet was torn from."""

LONGEST = 48
"""Bytes of the longest snippet."""


class TextExample(NamedTuple):
    """A snippet as bytes, and the index of its kind in ``KINDS``."""

    text: bytes
    label: int


class Output(NamedTuple):
    """What a model returns when it is given labels: the mean loss, a scalar, and logits [batch, classes]."""

    loss: Tensor
    logits: Tensor


class Snippets(Dataset[TextExample]):
    """Snippets of 16 to 48 bytes of three kinds of text, in equal numbers and a fixed random order."""

    def __init__(self, size: int, seed: int) -> None:
        rng = random.Random(seed)
        pages = [page.encode("ascii", "replace") for page in _pages()]
        self.examples = [_tear(pages[index % len(KINDS)], index % len(KINDS), rng) for index in range(size)]
        rng.shuffle(self.examples)

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> TextExample:
        return self.examples[index]


def _pages() -> tuple[str, str, str]:
    """One long page for each of ``KINDS``."""
    code = inspect.getsource(ast) + inspect.getsource(textwrap)
    table = "\n".join(f"{name}\t{ord(value):#06x}" for name, value in html5.items() if len(value) == 1)
    return code, "\n".join(topics.values()), table


def _tear(page: bytes, label: int, rng: random.Random) -> TextExample:
    length = rng.randint(16, LONGEST)
    start = rng.randrange(len(page) - length)
    return TextExample(page[start : start + length], label)


def pad(examples: Sequence[TextExample]) -> dict[str, Tensor]:
    """Collate snippets, padded with zeros to the longest of this batch.

    Returns ``input_ids`` int64 [batch, longest], ``attention_mask`` bool alike, ``labels`` int64 [batch].
    """
    rows = [torch.frombuffer(bytearray(example.text), dtype=torch.uint8).long() for example in examples]
    input_ids = nn.utils.rnn.pad_sequence(rows, batch_first=True)
    return {
        "input_ids": input_ids,
        "attention_mask": input_ids > 0,
        "labels": torch.tensor([example.label for example in examples]),
    }


class TextClassifier(nn.Module):
    """A transformer encoder of two layers over bytes; its mean over the snippet is classified."""

    def __init__(self, width: int = 32, dropout: float = 0.1) -> None:
        super().__init__()
        self.embedding = nn.Embedding(256, width)
        self.position = nn.Embedding(LONGEST, width)
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, num_layers=2, enable_nested_tensor=False)
        self.head = nn.Linear(width, len(KINDS))

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> Output:
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        hidden = self.embedding(input_ids) + self.position(places)
        hidden = self.encoder(hidden, src_key_padding_mask=~attention_mask)
        weights = attention_mask.unsqueeze(-1).to(hidden.dtype)
        logits = self.head((hidden * weights).sum(1) / weights.sum(1))
        return Output(functional.cross_entropy(logits, labels), logits)


def digits(train: bool) -> TensorDataset:
    """Load scikit-learn's handwritten digits: images float32 [n, 1, 8, 8] in 0..1, and labels 0..9.

    Every fifth is kept for evaluation; ``train`` asks for the others.
    """
    data = load_digits()
    chosen = (np.arange(len(data.target)) % 5 != 0) == train
    images = torch.from_numpy(data.images[chosen] / 16).float().unsqueeze(1)
    return TensorDataset(images, torch.from_numpy(data.target[chosen]).long())


class ImageClassifier(nn.Module):
    """Two convolutions (``features``) and a linear layer (``head``) for images of 8 x 8 pixels."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(0.1),
        )
        self.head = nn.Linear(32 * 4 * 4, classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(images))
        return logits
