"""Loop bodies of the kinds that Accelerate's users write, each on a bench that runs it plain or wrapped.

A body gets its Accelerator from the bench and tells it each loss that it means; all else is as in a
script that knows nothing of Midcourse.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.local_sgd import LocalSGD
from accelerate.state import AcceleratorState, GradientState
from accelerate.tracking import GeneralTracker
from accelerate.utils import find_executable_batch_size
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from midcourse import Controller
from midcourse.policies.policy import parse_policy

Body = Callable[["Bench"], None]

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


def divided_by_hand(bench: Bench) -> None:
    """Counts accumulation itself, and steps first after one batch, then after four."""
    accelerator = bench.accelerator()
    model = bench.model()
    optimizer = bench.sgd(model)
    model, optimizer, loader, evaluation, scheduler = accelerator.prepare(
        model, optimizer, training_loader(), evaluation_loader(), linear(optimizer)
    )
    for _ in bench.epochs(4):
        model.train()
        for step, batch in enumerate(loader):
            loss = error(model, batch)
            bench.note(loss)
            loss = loss / 4
            accelerator.backward(loss)
            if step % 4 == 0:
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
        bench.losses.append(evaluate(accelerator, model, evaluation))
    accelerator.end_training()


def accumulate(bench: Bench) -> None:
    """Leaves accumulation to Accelerate; the last window of a pass is shorter."""
    accelerator = bench.accelerator(gradient_accumulation_steps=3)
    model = bench.model()
    optimizer = bench.sgd(model)
    model, optimizer, loader, scheduler = accelerator.prepare(
        model, optimizer, training_loader(), linear(optimizer)
    )
    for _ in bench.epochs(5):
        for batch in loader:
            with accelerator.accumulate(model):
                loss = error(model, batch)
                bench.note(loss)
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    bench.clipped = float(accelerator.clip_grad_norm_(model.parameters(), 1.0))
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
    accelerator.end_training()


def whole_window_first(bench: Bench) -> None:
    """Fetches a window of batches, divides by all its examples, and undoes Accelerate's division."""
    window = 4
    accelerator = bench.accelerator(gradient_accumulation_steps=window)
    model = bench.model()
    optimizer = bench.sgd(model)
    model, optimizer, loader = accelerator.prepare(model, optimizer, training_loader())
    updates = math.ceil(len(loader) / window)
    for _ in bench.epochs(6):
        batches = iter(loader)
        for update in range(updates):
            count = window if update < updates - 1 else len(loader) % window or window
            taken = [next(batches) for _ in range(count)]
            examples = accelerator.gather(torch.tensor(sum(len(batch[0]) for batch in taken))).sum().item()
            total = 0.0
            for batch in taken:
                squares = (model(batch[0]) - batch[1]).square().sum() / examples
                total += float(squares.detach())
                accelerator.backward(squares * window * accelerator.num_processes)
            bench.note(torch.tensor(total))
            bench.clipped = float(accelerator.clip_grad_norm_(model.parameters(), 1.0))
            optimizer.step()
            optimizer.zero_grad()
    accelerator.end_training()


def early_stopping(bench: Bench) -> None:
    """Breaks off a pass by trigger, and goes on with the next."""
    accelerator = bench.accelerator()
    model = bench.model()
    optimizer = bench.sgd(model)
    model, optimizer, loader, evaluation = accelerator.prepare(
        model, optimizer, training_loader(), evaluation_loader()
    )
    for _ in bench.epochs(4):
        model.train()
        for step, batch in enumerate(loader):
            loss = error(model, batch)
            bench.note(loss)
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            if step >= 6:
                accelerator.set_trigger()
            if accelerator.check_trigger():
                break
        bench.losses.append(evaluate(accelerator, model, evaluation))
    accelerator.end_training()


def resumed(bench: Bench) -> None:
    """Skips what a checkpoint had seen, and saves within a pass."""
    accelerator = bench.accelerator()
    model = bench.model()
    optimizer = bench.sgd(model)
    model, optimizer, loader, scheduler = accelerator.prepare(
        model, optimizer, training_loader(), linear(optimizer)
    )
    done = 4
    for epoch in bench.epochs(4):
        active = accelerator.skip_first_batches(loader, done) if epoch == 0 else loader
        for batch in active:
            loss = error(model, batch)
            bench.note(loss)
            accelerator.backward(loss)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            done += 1
            if done == 8:
                accelerator.save_state(str(bench.folder / "state"))
    accelerator.end_training()


def local_sgd(bench: Bench) -> None:
    """Inside LocalSGD's context."""
    accelerator = bench.accelerator()
    model = bench.model()
    optimizer = bench.sgd(model)
    model, optimizer, loader = accelerator.prepare(model, optimizer, training_loader())
    for _ in bench.epochs():
        with LocalSGD(accelerator=accelerator, model=model, local_sgd_steps=4, enabled=True) as local:
            for batch in loader:
                with accelerator.accumulate(model):
                    loss = error(model, batch)
                    bench.note(loss)
                    accelerator.backward(loss)
                    optimizer.step()
                    optimizer.zero_grad()
                    local.step()
    accelerator.end_training()


def smaller_batches(bench: Bench) -> None:
    """Runs out of memory within a window, frees everything, and begins anew with smaller batches."""
    accelerator = bench.accelerator()

    @find_executable_batch_size(starting_batch_size=16)
    def attempt(batch_size: int) -> None:
        accelerator.gradient_accumulation_steps = 1 if batch_size == 16 else 2
        accelerator.free_memory()
        torch.manual_seed(1)
        bench._window.clear()
        model = bench.model()
        optimizer = bench.sgd(model)
        model, optimizer, loader = accelerator.prepare(model, optimizer, training_loader(batch_size))
        for _ in bench.epochs(6):
            for step, batch in enumerate(loader):
                with accelerator.accumulate(model):
                    loss = error(model, batch)
                    bench.note(loss)
                    accelerator.backward(loss)
                    if batch_size == 16 and step == 2:
                        raise RuntimeError("CUDA out of memory.")
                    optimizer.step()
                    optimizer.zero_grad()

    attempt()
    accelerator.end_training()


def folds(bench: Bench) -> None:
    """Trains one model after another with one Accelerator."""
    accelerator = bench.accelerator()
    for _ in range(2):
        model = bench.model()
        optimizer = bench.sgd(model)
        model, optimizer, loader, evaluation, scheduler = accelerator.prepare(
            model, optimizer, training_loader(), evaluation_loader(), linear(optimizer)
        )
        for _ in bench.epochs():
            for batch in loader:
                loss = error(model, batch)
                bench.note(loss)
                accelerator.backward(loss)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
        bench.losses.append(evaluate(accelerator, model, evaluation))
        model, optimizer = accelerator.free_memory(model, optimizer)
    accelerator.end_training()


def profiled(bench: Bench) -> None:
    """Inside Accelerate's profiler."""
    accelerator = bench.accelerator()
    model = bench.model()
    optimizer = bench.sgd(model)
    model, optimizer, loader = accelerator.prepare(model, optimizer, training_loader())
    for _ in bench.epochs():
        with accelerator.profile() as profile:
            for batch in loader:
                loss = error(model, batch)
                bench.note(loss)
                accelerator.backward(loss)
                optimizer.step()
                optimizer.zero_grad()
        assert profile.key_averages()
    accelerator.end_training()


class _Shelf(GeneralTracker):
    name = "shelf"
    requires_logging_directory = False

    def __init__(self) -> None:
        super().__init__()
        self.values: list[Any] = []

    @property
    def tracker(self) -> Any:
        return self.values

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.values.append(values)

    def log(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        self.values.append((step, values))


def tracked(bench: Bench) -> None:
    """Logs to a tracker, counts its own steps, evaluates within a pass, and stops at a number of steps."""
    shelf = _Shelf()
    accelerator = bench.accelerator(log_with=[shelf])
    accelerator.init_trackers("project", {"lr": 0.05})
    model = bench.model()
    optimizer = bench.sgd(model)
    model, optimizer, loader, evaluation, scheduler = accelerator.prepare(
        model, optimizer, training_loader(), evaluation_loader(), linear(optimizer)
    )
    completed = 0
    for _ in bench.epochs(4):
        total = 0.0
        for batch in loader:
            with accelerator.accumulate(model):
                if completed % 5 == 0:
                    bench.losses.append(evaluate(accelerator, model, evaluation))
                loss = error(model, batch)
                bench.note(loss)
                total += loss.detach().float()
                accelerator.backward(loss)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
            if accelerator.sync_gradients:
                completed += 1
                accelerator.log({"loss": float(total)}, step=completed)
            if completed >= 27:
                break
    accelerator.wait_for_everyone()
    assert accelerator.unwrap_model(model) is bench._models[-1]
    accelerator.end_training()
    assert len(shelf.values) == completed + 1


def piece_by_piece(bench: Bench) -> None:
    """Prepares each part by its own call, the loader again with the others."""
    accelerator = bench.accelerator()
    model = bench.model()
    optimizer = bench.sgd(model)
    scheduler = accelerator.prepare_scheduler(linear(optimizer))
    loader = accelerator.prepare_data_loader(training_loader())
    model = accelerator.prepare_model(model)
    optimizer = accelerator.prepare_optimizer(optimizer)
    loader = accelerator.prepare(loader)
    for _ in bench.epochs():
        for batch in loader:
            optimizer.zero_grad()
            loss = error(model, batch)
            bench.note(loss)
            accelerator.backward(loss)
            optimizer.step()
            scheduler.step()
    accelerator.end_training()


def no_sync_by_hand(bench: Bench) -> None:
    """Holds back synchronisation itself."""
    accelerator = bench.accelerator()
    model = bench.model()
    optimizer = bench.sgd(model)
    model, optimizer = accelerator.prepare(model, optimizer)
    loader = accelerator.prepare(training_loader())
    for _ in bench.epochs(5):
        for step, batch in enumerate(loader):
            last = step % 2 == 1
            with nullcontext() if last else accelerator.no_sync(model):
                loss = error(model, batch)
                bench.note(loss)
                accelerator.backward(loss / 2)
            if last:
                optimizer.step()
                optimizer.zero_grad()
    accelerator.end_training()


def closure(bench: Bench) -> None:
    """Gives the optimizer a closure, which evaluates the loss as often as it likes."""
    accelerator = bench.accelerator()
    model = nn.Linear(6, 1)
    bench._models.append(model)
    optimizer: Any = bench.follow(torch.optim.LBFGS(model.parameters(), lr=0.02, max_iter=2))
    model, optimizer, loader = accelerator.prepare(model, optimizer, training_loader())
    for _ in bench.epochs():
        for batch in loader:
            evaluations: list[torch.Tensor] = []

            def evaluated(batch: Any = batch, evaluations: list[torch.Tensor] = evaluations) -> torch.Tensor:
                optimizer.zero_grad()
                loss = error(model, batch)
                if not evaluations:
                    bench.note(loss)
                evaluations.append(loss)
                accelerator.backward(loss)
                return loss

            optimizer.step(evaluated)
    accelerator.end_training()


def half_precision(bench: Bench) -> None:
    """In bfloat16, under autocast."""
    accelerator = bench.accelerator(mixed_precision="bf16")
    model = bench.model()
    optimizer = bench.sgd(model)
    model, optimizer, loader = accelerator.prepare(model, optimizer, training_loader())
    for _ in bench.epochs():
        for batch in loader:
            with accelerator.autocast():
                loss = error(model, batch)
            bench.note(loss)
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
    accelerator.end_training()


def own_loader(bench: Bench) -> None:
    """Draws its batches itself, by steps."""
    accelerator = bench.accelerator()
    model = bench.model()
    optimizer = bench.sgd(model)
    model, optimizer = accelerator.prepare(model, optimizer)
    for _ in range(30):
        x = torch.randn(8, 6)
        loss = error(model, (x, x.sum(1, keepdim=True)))
        bench.note(loss)
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
    accelerator.end_training()


def two_phases(bench: Bench) -> None:
    """Trains on one loader first, then on another, and peeks into the first before all."""
    accelerator = bench.accelerator()
    model = bench.model()
    optimizer = bench.sgd(model)
    model, optimizer, first, second = accelerator.prepare(
        model, optimizer, training_loader(), DataLoader(data(seed=2), batch_size=4, shuffle=True)
    )
    assert next(iter(first))[0].shape == (8, 6)
    for phase in bench.epochs(2):
        for batch in second if phase else first:
            loss = error(model, batch)
            bench.note(loss)
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
    accelerator.end_training()


def one_ahead(bench: Bench) -> None:
    """Fetches the next batch between backward and step."""
    accelerator = bench.accelerator()
    model = bench.model()
    optimizer = bench.sgd(model)
    model, optimizer, loader = accelerator.prepare(model, optimizer, training_loader())
    for _ in bench.epochs():
        batches = iter(loader)
        batch = next(batches)
        while batch is not None:
            loss = error(model, batch)
            bench.note(loss)
            accelerator.backward(loss)
            batch = next(batches, None)
            optimizer.step()
            optimizer.zero_grad()
    accelerator.end_training()


BODIES: tuple[Body, ...] = (
    divided_by_hand,
    accumulate,
    whole_window_first,
    early_stopping,
    resumed,
    local_sgd,
    smaller_batches,
    folds,
    profiled,
    tracked,
    piece_by_piece,
    no_sync_by_hand,
    closure,
    half_precision,
    own_loader,
    two_phases,
    one_ahead,
)
