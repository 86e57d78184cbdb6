"""A bench that runs a loop body plain or wrapped, and notes what the loop means by its signals."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from midcourse import Controller
from midcourse.policies.policy import parse_policy

EPOCHS = 3


class Bench:
    """Where a body is run: plain, or with a Controller on its Accelerator.

    Args:
        folder: Where the body may save; the run folder of a wrapped one is in it.
        policy: The policy of the wrapped run; none runs the body plain.
        fire_at: Step at which the signal ``trigger`` is 1.
        owned: Give the body the controller's epoch counter.
    """

    def __init__(self, folder: Path, policy: str = "", *, fire_at: int = 0, owned: bool = False) -> None:
        AcceleratorState._reset_state(True)
        GradientState._reset_state()
        torch.manual_seed(0)
        self.controller: Controller | None = None
        self.said: list[str] = []
        self.losses: list[float] = []
        self.meant: list[dict[str, float]] = []
        self.steps = 0
        self.folder = folder / ("wrapped" if policy else "plain")
        self.clipped: float | None = None
        self._policy, self._fire_at, self._owned = policy, fire_at, owned
        self._window: list[float] = []
        self._models: list[Any] = []

    def accelerator(self, **kwargs: Any) -> Accelerator:
        """The body's Accelerator, wrapped or not."""
        accelerator = Accelerator(cpu=True, **kwargs)
        if self._policy:
            self.controller = Controller(
                accelerator,
                policy=parse_policy(self._policy),
                run_dir=self.folder / "run",
                say=self.said.append,
                norms_every=1,
            )
        return accelerator

    def epochs(self, count: int = EPOCHS) -> Iterable[int]:
        """The body's epoch counter."""
        return self.controller.epochs(count) if self.controller is not None and self._owned else range(count)

    def model(self) -> Any:
        """A small network with dropout, so that a lost random number shows."""
        self._models.append(nn.Sequential(nn.Linear(6, 12), nn.Dropout(0.2), nn.Linear(12, 1)))
        return self._models[-1]

    def sgd(self, model: Any, lr: float = 0.01) -> torch.optim.Optimizer:
        """An optimizer whose steps the bench follows."""
        return self.follow(torch.optim.SGD(model.parameters(), lr=lr, momentum=0.5))

    def follow(self, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        """Note at each step of this optimizer what the loop means by loss, norm and rate."""
        optimizer.register_step_pre_hook(lambda inner, *_: self._before_step(inner))
        optimizer.register_step_post_hook(lambda *_: self._after_step())
        return optimizer

    def note(self, loss: torch.Tensor) -> None:
        """The loop says which loss it means for this micro-batch."""
        self.losses.append(float(loss.detach()))
        self._window.append(self.losses[-1])
        if self.controller is not None and self._fire_at:
            self.controller.log(trigger=float(self.steps + 1 == self._fire_at))

    @property
    def parameters(self) -> list[torch.Tensor]:
        """Of the models made by the body, in order."""
        return [p.detach() for model in self._models for p in model.parameters()]

    def _before_step(self, optimizer: torch.optim.Optimizer) -> None:
        gradients = [p.grad for g in optimizer.param_groups for p in g["params"] if p.grad is not None]
        self._now = {"lr": float(optimizer.param_groups[0]["lr"])}
        if self._window:  # else a closure will make loss and gradients
            norm = float(nn.utils.get_total_norm(gradients)) if self.clipped is None else self.clipped
            self._now["grad_norm"] = norm
        self.clipped = None

    def _after_step(self) -> None:
        self.steps += 1
        self.meant.append({**self._now, "loss": sum(self._window) / len(self._window)})
        self._window = []


def data(count: int = 80, seed: int = 0) -> TensorDataset:
    """Examples (x, y)."""
    x = torch.randn(count, 6, generator=torch.Generator().manual_seed(seed))
    return TensorDataset(x, x.sum(1, keepdim=True))


def training_loader(batch: int = 8) -> Any:
    """Ten shuffled batches."""
    return DataLoader(data(), batch_size=batch, shuffle=True)


def evaluation_loader() -> Any:
    """Three batches, the last one short."""
    return DataLoader(data(20, seed=1), batch_size=8)


def error(model: Any, batch: Any) -> torch.Tensor:
    """The loss of a batch."""
    result: torch.Tensor = nn.functional.mse_loss(model(batch[0]), batch[1])
    return result


def evaluate(accelerator: Any, model: Any, loader: Any) -> float:
    """The mean over all examples, as gathered for metrics."""
    model.eval()
    found = []
    for x, y in loader:
        with torch.no_grad():
            found.append(accelerator.gather_for_metrics((model(x) - y).square()))
    gathered = torch.cat(found)
    assert len(gathered) == 20
    model.train()
    return float(gathered.mean())


def linear(optimizer: Any) -> Any:
    """A schedule by step."""
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(0.0, 1.0 - step / 60))
