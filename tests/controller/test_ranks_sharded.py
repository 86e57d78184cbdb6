"""What FSDP2 spreads over the processes: norms are the whole model's, and parts stay parts."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from rank_jobs import NOTHING_FIRES, late, loop
from small_loop import rollback_policy
from two_ranks import Ranks

from midcourse.controller import shards
from midcourse.controller.norms import gradient_norm
from midcourse.controller.signals import Recorder, unpack
from midcourse.controller.training_state import TrainingState


@pytest.mark.slow
@pytest.mark.parametrize("clips", [True, False])
@pytest.mark.parametrize("job", [loop, late], ids=["at-once", "late"])
def test_norms_are_those_of_the_unsharded_model(ranks: Ranks, tmp_path: Path, job: Any, clips: bool) -> None:
    how = {"norms_every": 1, "clips": clips, "epochs": 2}
    policy = NOTHING_FIRES.format(mode="act")
    whole = ranks.run(loop, tmp_path / "whole", policy, **how)[0].samples
    parts = ranks.run(job, tmp_path / "parts", policy, sharded=True, **how)[0].samples
    assert len(parts) == len(whole)
    measured = 0
    for n, sample in enumerate(parts):
        assert sample.signals["grad_norm"] == pytest.approx(whole[n].signals["grad_norm"], rel=1e-4)
        for name in ("param_norm", "update_ratio"):
            if name in sample.signals:  # what an update did travels with the next tick's vector
                assert sample.signals[name] == pytest.approx(whole[n - 1].signals[name], rel=1e-4)
                measured += 1
    # Read late, rank 0's wish reaches the others a tick later.
    assert measured >= (2 * (len(parts) - 1) if job is loop else len(parts) // 2)


@pytest.mark.slow
def test_the_norms_of_an_update_that_was_taken_back_are_dropped(ranks: Ranks, tmp_path: Path) -> None:
    policy = rollback_policy("replay", "{steps: 8}")
    ran = ranks.run(loop, tmp_path, policy, triggers={17: 1.0}, sharded=True, norms_every=1)
    assert [o.tick for o in ran[0].outcomes] == [18]
    without = [sample.tick for sample in ran[0].samples if "update_ratio" not in sample.signals]
    assert without == [1, 19]


def spread(*shape: int, placement: str = "shard") -> tuple[torch.Tensor, torch.Tensor]:
    """A tensor that both processes hold together, and the whole of it."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    full = torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape)))
    mesh = init_device_mesh("cpu", (2,))
    return distribute_tensor(full, mesh, [Shard(0) if placement == "shard" else Replicate()]), full


def shares() -> tuple[float, float, list[float]]:
    """The norm of parts, copies and plain tensors together: exchanged as shares, and of the whole."""
    made = [spread(5, 3), spread(1), spread(4, 2, placement="replicate")]
    plain = torch.tensor([3.0, 4.0])
    tensors = [tensor for tensor, _ in made] + [plain]
    parameters = [torch.nn.Parameter(torch.zeros_like(tensor)) for tensor in tensors]
    for parameter, tensor in zip(parameters, tensors, strict=True):
        parameter.grad = tensor
    recorder = Recorder(fixed=True)
    recorder.grad_norm(gradient_norm(torch.optim.SGD(parameters, lr=0.1)))
    vector = torch.tensor(recorder.on_host(), dtype=torch.float64)
    dist.all_reduce(vector)
    exchanged = unpack(recorder.names, *vector.tolist())["grad_norm"]
    whole = torch.cat([*(full.reshape(-1) for _, full in made), plain]).norm()
    return exchanged, float(whole), [float(shards.parts(tensor)) for tensor in tensors]


@pytest.mark.slow
def test_shares_of_parts_and_copies_add_up_to_the_norm_of_the_whole(ranks: Ranks) -> None:
    for exchanged, whole, parts in ranks.run(shares):
        assert exchanged == pytest.approx(whole, rel=1e-6)
        assert parts == [2, 2, 1, 1]


def unfinished_numbers() -> list[tuple[dict[str, float], float, str]]:
    """Numbers that the processes still hold in parts, as clipping or a sharded loss may return them."""
    tensor, full = spread(5, 3)
    told = []
    for number, expected in (
        (torch.linalg.vector_norm(tensor), full.norm()),
        (tensor.sum(), full.sum()),
        (tensor.abs().max(), full.abs().max()),
    ):
        recorder = Recorder(logged=["own"])
        recorder.grad_norm(number)
        recorder.log({"own": number})
        recorder.backward(number)
        told.append((unpack(recorder.names, *recorder.on_host()), float(expected), str(number.placements)))
    return told


@pytest.mark.slow
def test_numbers_that_are_in_parts_are_made_whole(ranks: Ranks) -> None:
    both = ranks.run(unfinished_numbers)
    for told in both:
        assert all("P" in placement for _, _, placement in told)  # else nothing would be shown
        for signals, expected, _ in told:
            assert signals["own"] == pytest.approx(expected, rel=1e-6)
            assert signals["loss"] == pytest.approx(expected, rel=1e-6)
            assert signals["grad_norm"] == pytest.approx(abs(expected), rel=1e-6)


def remade() -> dict[str, Any]:
    """Restore a state with moments into an optimizer that has lost its own, and one without into that."""
    parameter, full = spread(5, 3)
    model = torch.nn.Module()
    model.weight = torch.nn.Parameter(parameter)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    accelerator = SimpleNamespace(_models=[model], _optimizers=[], scaler=None, step=0)
    state = TrainingState(accelerator, optimizer)
    start, at_start = [t.clone() for t in state.tensors()], state.small()
    model.weight.grad = torch.zeros_like(parameter) + 1.0
    optimizer.step()
    kept, small = [t.clone() for t in state.tensors()], state.small()
    placements = optimizer.state[model.weight]["exp_avg"].placements
    optimizer.state.clear()
    state.restore(kept, small, rewind=True)
    moment = optimizer.state[model.weight]["exp_avg"]
    same = all(map(torch.equal, state.tensors(), kept))
    whole = moment.full_tensor()
    state.restore(start, at_start, rewind=True)
    return {
        "same": same,
        "plain": not any(map(shards.is_spread, state.tensors())),
        "shape": tuple(whole.shape),
        "moment": whole.unique().tolist(),
        "placements": moment.placements == placements,
        "back": torch.equal(model.weight.full_tensor(), full),
        "left": len(optimizer.state),
    }


@pytest.mark.slow
def test_moments_are_made_anew_in_the_parts_that_they_were_in(ranks: Ranks) -> None:
    for told in ranks.run(remade):
        assert told["same"]
        assert told["plain"]
        assert told["placements"]
        assert told["shape"] == (5, 3)
        assert told["moment"] == pytest.approx([0.1])
        assert told["back"]
        assert told["left"] == 0
