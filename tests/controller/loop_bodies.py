"""Loop bodies of the kinds that Accelerate's users write.

A body gets its Accelerator from the bench and tells it each loss that it means; all else is as in a
script that knows nothing of Midcourse.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from accelerate.local_sgd import LocalSGD
from accelerate.tracking import GeneralTracker
from accelerate.utils import find_executable_batch_size
from loop_bench import Bench, data, error, evaluate, evaluation_loader, linear, training_loader
from torch import nn
from torch.utils.data import DataLoader

Body = Callable[[Bench], None]


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


def ahead_of_backward(bench: Bench) -> None:
    """Fetches the next batch between forward and backward, as one does to overlap the two."""
    accelerator = bench.accelerator()
    model = bench.model()
    optimizer = bench.sgd(model)
    model, optimizer, loader = accelerator.prepare(model, optimizer, training_loader())
    for _ in bench.epochs():
        batches = iter(loader)
        batch = next(batches)
        while batch is not None:
            loss = error(model, batch)
            batch = next(batches, None)
            bench.note(loss)
            accelerator.backward(loss)
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
    ahead_of_backward,
)
