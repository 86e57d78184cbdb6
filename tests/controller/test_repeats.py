"""``repeats``: a batch that has just been there, on a real loop and looked at alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from small_loop import BATCH, dataset, rollback_policy, train
from torch.utils.data import IterableDataset

from midcourse.controller.journal.reader import JournalReader
from midcourse.controller.repeats import Repeats

torch.set_num_threads(1)

BATCHES = 20
STUCK = range(8, 12)
READS = """
version: 1
mode: observe
monitors:
  stuck: {type: stuck, signal: repeats}
rules:
  - {name: told, when: stuck.bad, ladder: [[notify: {message: stuck}]]}
"""
READS_NOT = READS.replace("signal: repeats", "signal: loss")


class Sticking(IterableDataset[Any]):
    """Gives batch 8 once more as 9, 10, 11 and 12, while the numbers of its examples go on."""

    def __iter__(self) -> Iterator[Any]:
        data = dataset()
        for batch in range(BATCHES):
            for k in range(BATCH):
                x, y, _ = data[(STUCK.start - 1 if batch in STUCK else batch) * BATCH + k]
                yield x, y, torch.tensor(batch * BATCH + k)


def measured(run: Path) -> dict[int, float]:
    with JournalReader(run) as reader:
        return {s.tick: s.signals["repeats"] for s in reader.samples() if "repeats" in s.signals}


def test_a_stuck_loader_is_measured_though_the_numbers_of_its_examples_go_on(tmp_path: Path) -> None:
    trace = train(tmp_path, READS, stream=Sticking, epochs=1)
    stuck = {batch + 1: 1.0 for batch in STUCK}
    assert measured(tmp_path) == dict.fromkeys(range(2, BATCHES + 1), 0.0) | stuck
    assert trace.matches(train(stream=Sticking, epochs=1))


def test_of_an_accumulated_step_it_is_the_share_of_its_batches(tmp_path: Path) -> None:
    train(tmp_path, READS, stream=Sticking, epochs=1, accumulation=2)
    # Of the batches 7 and 8 none, of 9 and 10, 11 and 12 both have just been there.
    assert measured(tmp_path) == {tick: float(tick in (5, 6)) for tick in range(1, BATCHES // 2 + 1)}
    train(tmp_path / "odd", READS, stream=Sticking, epochs=1, accumulation=4)
    assert measured(tmp_path / "odd") == {1: 0.0, 2: 0.0, 3: 1.0, 4: 0.0, 5: 0.0}
    train(tmp_path / "three", READS, stream=Sticking, epochs=1, accumulation=3)
    assert measured(tmp_path / "three")[4] == 1.0
    assert measured(tmp_path / "three")[3] == pytest.approx(1 / 3)


def test_where_no_policy_reads_it_it_is_not_measured(tmp_path: Path) -> None:
    train(tmp_path, READS_NOT, stream=Sticking, epochs=1)
    assert measured(tmp_path) == {}


def test_what_is_taken_again_after_a_rollback_is_no_repetition(tmp_path: Path) -> None:
    policy = rollback_policy("replay", "{steps: 3}") + "monitors:\n  stuck: {type: stuck, signal: repeats}\n"
    train(tmp_path, policy, epochs=1, triggers={14: 1.0})
    with JournalReader(tmp_path) as reader:
        samples = list(reader.samples())
    again = [sample.signals.get("repeats") for sample in samples if sample.branch == 1]
    assert again[0] is None, "there is nothing before it"
    assert set(again[1:]) == {0.0}


def looks(*batches: Any) -> list[float | None]:
    repeats = Repeats()
    return [repeats.look(batch) for batch in batches]


def test_a_loader_may_reuse_its_buffers() -> None:
    buffer, repeats = torch.zeros(4, 4), Repeats()
    told = []
    for fill in (1.0, 2.0, 3.0, 3.0):
        told.append(repeats.look({"x": buffer.fill_(fill)}))
    assert told == [None, 0.0, 0.0, 1.0]


@pytest.mark.parametrize("batch", [["some", "text"], {"text": ["a"]}, [], None, torch.zeros(0)])
def test_a_batch_in_which_no_tensor_lies_is_not_measured(batch: Any) -> None:
    assert looks(batch, batch, batch) == [None] * 3


@pytest.mark.parametrize(
    "make",
    [
        lambda n: torch.full((6, 5), float(n))[:, 2],  # a view with a stride
        lambda n: torch.full((6, 1), float(n)).expand(6, 7),
        lambda n: torch.full((3, 4), float(n)).t(),
        lambda n: torch.full((4,), float(n), dtype=torch.bfloat16),
        lambda n: torch.tensor(n),
        lambda n: torch.tensor([n == 0, n == 1, n == 2]),
        lambda n: torch.full((4,), float(n), requires_grad=True),
        lambda n: torch.full((4,), float("nan")) if n == 1 else torch.full((4,), float(n)),
    ],
)
def test_tensors_of_any_kind_are_told_apart(make: Any) -> None:
    assert looks(make(0), make(1), make(2), make(2)) == [None, 0.0, 0.0, 1.0]
    assert looks(make(0), make(1), make(1)) == [None, 0.0, 1.0]


def test_pictures_with_a_black_border_and_padded_texts_are_told_apart() -> None:
    pictures = torch.zeros(5, 8, 1, 64, 64)
    pictures[..., 16:48, 16:48] = torch.rand(5, 8, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    assert looks(*pictures) == [None, 0.0, 0.0, 0.0, 0.0]
    texts = torch.zeros(5, 8, 1024, dtype=torch.long)
    texts[..., 700:] = torch.randint(1, 999, (5, 8, 324), generator=torch.Generator().manual_seed(0))
    assert looks(*texts) == [None, 0.0, 0.0, 0.0, 0.0]
