"""The read-back of a restore sees whatever can go wrong with it, without reading all of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from midcourse.controller.actuators.read_back import STRIDE, identical

LONG = 20 * STRIDE + 7


def state() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    long = torch.randn(LONG, generator=generator)
    return [
        long,
        torch.randn(64, 3, 11, 11, generator=generator).to(memory_format=torch.channels_last),
        torch.randn(90, 70, generator=generator).T,
        long.to(torch.bfloat16),
        long.double(),
        torch.arange(LONG),
        long > 0,
        torch.complex(long.double(), long.double()),
        torch.tensor(3.0),
        torch.zeros(0),
        torch.tensor([float("nan"), -0.0]),
    ]


def copies(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    return [tensor.clone() for tensor in tensors]


def test_a_copy_is_identical_whatever_its_kind_and_its_order_in_memory() -> None:
    live = state()
    assert identical(live, copies(live))
    assert identical(live, [tensor.contiguous() for tensor in live])


@pytest.mark.parametrize("index", [i for i, tensor in enumerate(state()) if tensor.numel() > 1])
@settings(deadline=None, max_examples=20)
@given(start=st.floats(0, 1))
def test_a_stretch_that_differs_is_seen_wherever_it_is(index: int, start: float) -> None:
    live, kept = state(), copies(state())
    memory = kept[index].as_strided((kept[index].numel(),), (1,))
    first = int(start * max(0, memory.numel() - STRIDE))
    stretch = memory[first : first + STRIDE]
    stretch.copy_(stretch.logical_not())
    assert not identical(live, kept)


BROKEN: dict[str, Callable[[list[torch.Tensor]], object]] = {
    "one is not copied": lambda kept: kept[0].zero_(),
    "the end is not copied": lambda kept: kept[0][-1:].zero_(),
    "the beginning is not copied": lambda kept: kept[0][:1].zero_(),
    "a step counter is another": lambda kept: kept[8].add_(1),
    "a NaN of other bits": lambda kept: kept[10].view(torch.int32)[0].add_(1),
    "zero of the other sign": lambda kept: kept[10].neg_(),
    "one is missing": lambda kept: kept.pop(),
    "two are exchanged": lambda kept: kept.insert(0, kept.pop(5)),
    "another shape": lambda kept: kept.append(kept.pop().reshape(2, 1)),
    "another type": lambda kept: kept.append(kept.pop().view(torch.int32)),
}


@pytest.mark.parametrize("how", BROKEN)
def test_what_is_not_the_snapshot_is_seen(how: str) -> None:
    live, kept = state(), copies(state())
    BROKEN[how](kept)
    assert not identical(live, kept)
