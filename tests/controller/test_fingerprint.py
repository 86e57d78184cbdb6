"""A batch that is drawn again and is not the same is noticed: random augmentation, or data that changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import small_loop
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_loop import Died, rollback_policy, train
from torch.utils.data import Dataset

from midcourse.controller.fingerprint import fingerprint, same
from midcourse.controller.journal.reader import JournalReader

torch.set_num_threads(1)


class Augmented(Dataset[Any]):
    """Adds noise of its own to each example, which no generator of the run gives."""

    def __init__(self) -> None:
        self._plain = small_loop.dataset()
        self._noise = torch.Generator().manual_seed(1)

    def __len__(self) -> int:
        return len(self._plain)

    def __getitem__(self, index: int) -> Any:
        x, y, number = self._plain[index]
        return x + 1e-3 * torch.randn(8, generator=self._noise), y, number


@pytest.fixture
def augmented(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = Augmented()
    monkeypatch.setattr(small_loop, "dataset", lambda *args: dataset)


def noticed(folder: Path) -> list[dict[str, Any]]:
    with JournalReader(folder) as reader:
        return [dict(event.detail) for event in reader.events() if event.kind == "data_changed"]


@pytest.mark.usefixtures("augmented")
def test_augmentation_shows_at_the_first_batch_of_a_replay(tmp_path: Path) -> None:
    train(tmp_path, rollback_policy("replay"), triggers={17: 1.0})
    assert noticed(tmp_path) == [{"epoch": 0, "batch": 5}]


@pytest.mark.parametrize("how", [{}, {"mixture": True}, {"seedable": True}, {"accumulation": 2}])
def test_the_same_data_is_no_news(tmp_path: Path, how: dict[str, Any]) -> None:
    train(tmp_path, rollback_policy("replay"), triggers={17: 1.0}, **how)
    assert noticed(tmp_path) == []


def test_other_data_shows_when_a_run_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = rollback_policy("replay") + "checkpoints: {every: 5}\n"
    with pytest.raises(Died):
        train(tmp_path, policy, die_at=17)
    plain = small_loop.dataset()
    x, y, number = plain.tensors
    changed = torch.utils.data.TensorDataset(x + 0.5, y, number)
    monkeypatch.setattr(small_loop, "dataset", lambda *args: changed)
    train(tmp_path, policy, resume="auto")
    assert noticed(tmp_path) == [{"epoch": 0, "batch": 15}]


NESTS: list[Callable[[torch.Tensor], Any]] = [
    lambda t: t,
    lambda t: [t, "text"],
    lambda t: {"x": t, "n": (t.long(), 3)},
]


@given(st.lists(st.floats(width=32), min_size=1, max_size=6), st.sampled_from(NESTS))
def test_a_batch_is_the_same_as_itself_whatever_its_shape(values: list[float], nest: Any) -> None:
    batch = torch.tensor(values)
    assert same(fingerprint(nest(batch)), fingerprint(nest(batch.clone())))
    assert not same(fingerprint(nest(batch)), fingerprint(nest(torch.cat([batch, batch]))))


def test_tensors_of_every_kind_have_one() -> None:
    sparse = torch.eye(3).to_sparse()
    kinds = [torch.ones(2, dtype=kind) for kind in (torch.bool, torch.int8, torch.bfloat16, torch.complex64)]
    assert len(fingerprint([sparse, *kinds])) == 5
