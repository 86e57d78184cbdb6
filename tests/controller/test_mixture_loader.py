"""The mixture through DataLoader workers, Accelerate's preparation and two processes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.data_loader import skip_first_batches
from accelerate.state import AcceleratorState, GradientState, PartialState
from torch.utils.data import DataLoader

from midcourse.controller.mixture import Mixture, find_mixture

BATCH = 4
EPOCH = 24


class Numbers(torch.utils.data.Dataset[Any]):
    """Items that name themselves, in the shape asked for."""

    def __init__(self, base: int, size: int, shape: str = "dict") -> None:
        self.base, self.size, self.shape = base, size, shape

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Any:
        value = torch.tensor(self.base + index)
        return {"dict": {"x": value}, "tuple": (value, -value), "tensor": value}[self.shape]


def build(shape: str = "dict") -> Mixture:
    sources = {"code": Numbers(0, 50, shape), "docs": Numbers(100, 9, shape)}
    return Mixture(sources, {"code": 2, "docs": 1}, seed=3, epoch_size=EPOCH)


def expected(mixture: Mixture, start: int, stop: int) -> list[int]:
    sources, examples = mixture.draw(start, stop)
    return (100 * sources + examples).tolist()


def values(batches: Iterator[Any] | DataLoader[Any]) -> list[int]:
    return [value for batch in batches for value in batch["x"].tolist()]


@pytest.fixture(params=[0, 2])
def workers(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def accelerator() -> Iterator[Accelerator]:
    for state in (AcceleratorState, PartialState, GradientState):
        state._reset_state()
    yield Accelerator(cpu=True)
    for state in (AcceleratorState, PartialState, GradientState):
        state._reset_state()


def test_plain_loader_walks_on_from_epoch_to_epoch(workers: int) -> None:
    mixture = build()
    loader = mixture.loader(BATCH, num_workers=workers)
    assert len(loader) == EPOCH // BATCH
    for epoch in range(3):
        assert values(loader) == expected(mixture, epoch * EPOCH, (epoch + 1) * EPOCH)


def test_prepared_loader_follows_accelerates_epochs(accelerator: Accelerator, workers: int) -> None:
    mixture = build()
    loader = accelerator.prepare(mixture.loader(BATCH, num_workers=workers))
    assert values(loader) == expected(mixture, 0, EPOCH)
    loader.set_epoch(5)
    assert values(loader) == expected(mixture, 5 * EPOCH, 6 * EPOCH)
    next(iter(loader))  # a pass that is abandoned does not count as one
    assert values(loader) == expected(mixture, 6 * EPOCH, 7 * EPOCH)


def test_seek_holds_for_one_pass_and_outranks_set_epoch(accelerator: Accelerator, workers: int) -> None:
    mixture = build()
    loader = accelerator.prepare(mixture.loader(BATCH, num_workers=workers))
    mixture.sampler.seek(EPOCH + 2 * BATCH)
    assert values(loader) == expected(mixture, EPOCH + 2 * BATCH, 2 * EPOCH)
    assert values(loader) == expected(mixture, EPOCH, 2 * EPOCH)


def test_skipping_first_batches_keeps_positions(accelerator: Accelerator) -> None:
    mixture = build()
    loader = skip_first_batches(accelerator.prepare(mixture.loader(BATCH)), 2)
    assert find_mixture(loader) is mixture
    assert values(loader) == expected(mixture, 2 * BATCH, EPOCH)


def test_new_weights_reach_the_very_next_batch_of_a_new_pass(workers: int) -> None:
    mixture = build()
    loader = mixture.loader(BATCH, num_workers=workers)
    batches = iter(loader)
    seen = values(next(batches) for _ in range(2))
    position = 2 * BATCH
    assert seen == expected(mixture, 0, position)
    mixture.set_weights({"code": 0}, at=position)
    mixture.sampler.seek(position)
    assert all(value >= 100 for value in values(loader))


def test_new_weights_within_a_pass_hold_from_their_position(workers: int) -> None:
    mixture = build()
    batches = iter(mixture.loader(BATCH, num_workers=workers))
    next(batches)
    ahead = mixture.sampler.position
    assert ahead == (1 if workers == 0 else 1 + 2 * workers) * BATCH
    mixture.set_weights({"docs": 0}, at=ahead)
    rest = values(batches)
    assert rest == expected(mixture, BATCH, EPOCH)
    assert all(value < 100 for value in rest[ahead - BATCH :])


@pytest.mark.parametrize("shape", ["tuple", "tensor"])
def test_source_ids_come_last_where_items_are_no_mappings(shape: str) -> None:
    mixture = build(shape)
    *fields, ids = next(iter(mixture.loader(BATCH)))
    sources, examples = mixture.draw(0, BATCH)
    assert ids.tolist() == sources.tolist()
    assert fields[0].tolist() == (100 * sources + examples).tolist()
    assert len(fields) == (2 if shape == "tuple" else 1)


def test_mappings_get_a_source_field_whatever_collates_them() -> None:
    mixture = build()
    sources, _ = mixture.draw(0, BATCH)
    batch = next(iter(mixture.loader(BATCH, collate_fn=lambda items: {"x": [item["x"] for item in items]})))
    assert batch["source"].dtype == torch.int64
    assert batch["source"].tolist() == sources.tolist()


def test_a_source_field_of_ones_own_is_an_error() -> None:
    mixture = Mixture({"a": [{"source": 1}] * 4})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="rename it"):
        next(iter(mixture.loader(2)))


def test_find_mixture_in_plain_loaders_and_in_none() -> None:
    mixture = build()
    assert find_mixture(mixture.loader(BATCH)) is mixture
    assert find_mixture(DataLoader([1, 2, 3])) is None  # type: ignore[arg-type]


def test_negative_positions_cannot_be_sought() -> None:
    with pytest.raises(ValueError, match=">= 0"):
        build().sampler.seek(-1)


def _train_on_a_shard(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    os.environ.update(RANK=f"{rank}", LOCAL_RANK=f"{rank}", WORLD_SIZE="2", LOCAL_WORLD_SIZE="2")
    os.environ["OMP_NUM_THREADS"] = "1"
    store = f"file://{folder}/store"
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    mixture = build()
    loader = Accelerator(cpu=True).prepare(mixture.loader(BATCH, num_workers=1))
    assert find_mixture(loader) is mixture
    whole = values(loader)
    mixture.set_weights({"code": 0}, at=EPOCH + 2 * BATCH)
    mixture.sampler.seek(EPOCH + 2 * BATCH)
    torch.save([whole, values(loader)], folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_share_the_stream_without_overlap(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_train_on_a_shard, args=(tmp_path,), nprocs=2)
    shards = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    mixture = build()
    whole = expected(mixture, 0, EPOCH)
    mixture.set_weights({"code": 0}, at=EPOCH + 2 * BATCH)
    tail = expected(mixture, EPOCH + 2 * BATCH, 2 * EPOCH)
    for stream, parts in ((whole, [shard[0] for shard in shards]), (tail, [shard[1] for shard in shards])):
        batches = [stream[start : start + BATCH] for start in range(0, len(stream), BATCH)]
        assert parts == [list(chain.from_iterable(batches[rank::2])) for rank in range(2)]
