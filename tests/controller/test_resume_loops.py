"""Loops of other shapes than one pass an epoch are resumed where they stood, or told why not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from small_loop import Died, dataset, network
from torch.utils.data import DataLoader

from midcourse import Controller
from midcourse.policies.policy import parse_policy

torch.set_num_threads(1)

POLICY = "version: 1\ncheckpoints: {every: 5, keep: 100}\n"

Step = Callable[[Any], None]
Loop = Callable[[Controller, Any, Step], None]


def train(folder: Path, loop: Loop, die_at: int | None = None, **kwargs: Any) -> tuple[Any, Controller]:
    """Train in a loop of one's own; parameters at the end, and the controller."""
    AcceleratorState._reset_state(True)
    GradientState._reset_state()
    torch.manual_seed(0)
    model = network()
    chosen = torch.optim.AdamW(model.parameters(), lr=1e-2)
    accelerator = Accelerator(cpu=True, **kwargs)
    controller = Controller(
        accelerator, policy=parse_policy(POLICY), run_dir=folder, resume="auto", say=lambda line: None
    )
    loader = DataLoader(dataset(), batch_size=8, shuffle=True)
    model, optimizer, prepared = accelerator.prepare(model, chosen, loader)

    def step(batch: Any) -> None:
        loss = ((model(batch[0]) - batch[1]) ** 2).mean()
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        assert controller._wiring.cycle is not None
        if controller._wiring.cycle.run.clock.tick == die_at:
            raise Died

    try:
        loop(controller, prepared, step)
    finally:
        controller.close()
    return [p.detach().clone() for p in model.parameters()], controller


def begun_again_when_empty(controller: Controller, loader: Any, step: Step) -> None:
    batches = iter(())
    for _ in controller.steps(60):
        try:
            batch = next(batches)
        except StopIteration:
            batches = iter(loader)
            batch = next(batches)
        step(batch)


def two_passes_an_epoch(controller: Controller, loader: Any, step: Step) -> None:
    for _ in controller.epochs(2):
        for _ in range(2):
            for batch in loader:
                step(batch)


def looks_first(controller: Controller, loader: Any, step: Step) -> None:
    for _ in controller.epochs(3):
        next(iter(loader))
        for batch in loader:
            step(batch)


def two_loops(controller: Controller, loader: Any, step: Step) -> None:
    for _ in controller.epochs(1):
        for batch in loader:
            step(batch)
    for _ in controller.epochs(2):
        for batch in loader:
            step(batch)


LOOPS: list[Loop] = [begun_again_when_empty, two_passes_an_epoch, looks_first, two_loops]


@pytest.mark.parametrize("die_at", [21, 33, 47])
@pytest.mark.parametrize("loop", LOOPS)
def test_it_ends_where_an_undisturbed_one_ends(tmp_path: Path, loop: Loop, die_at: int) -> None:
    whole, _ = train(tmp_path / "whole", loop)
    with pytest.raises(Died):
        train(tmp_path / "broken", loop, die_at)
    with pytest.raises(Died):  # a life that was resumed is resumed as well
        train(tmp_path / "broken", loop, die_at + 6)
    resumed, controller = train(tmp_path / "broken", loop)
    assert controller.resumed == (die_at + 6) // 5 * 5
    assert all(map(torch.equal, whole, resumed))


def test_a_pass_that_begins_before_the_counter_is_told(tmp_path: Path) -> None:
    def loader_first(controller: Controller, loader: Any, step: Step) -> None:
        for batch, _ in zip(loader, controller.steps(60), strict=False):
            step(batch)

    with pytest.raises(Died):
        train(tmp_path, loader_first, 12)
    with pytest.raises(ValueError, match="ask the counter first"):
        train(tmp_path, loader_first)


def test_accelerates_own_naming_of_checkpoints_stays_the_loops_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from accelerate.utils import ProjectConfiguration

    monkeypatch.setattr(f"{__name__}.POLICY", POLICY.replace("keep: 100", "keep: 100, format: accelerate"))
    own = ProjectConfiguration(str(tmp_path / "own"), automatic_checkpoint_naming=True)
    with pytest.raises(Died):
        train(tmp_path / "run", two_loops, 12, project_config=own)
    assert own.iteration == 0
    assert not (tmp_path / "own").exists()
    _, controller = train(tmp_path / "run", two_loops, project_config=own)
    assert controller.resumed == 10


def test_a_failed_save_state_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.POLICY", POLICY.replace("keep: 100", "keep: 100, format: accelerate"))

    def fills_the_disk(self: Accelerator, folder: str, **kwargs: Any) -> None:
        (Path(folder) / "model.safetensors").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Accelerator, "save_state", fills_the_disk)
    train(tmp_path, two_loops)
    assert list(tmp_path.rglob("model.safetensors")) == []
