"""Train a small convolutional network on handwritten digits, in an Accelerate loop.

Accumulation is counted by hand, weight decay spares the biases and norms (two parameter groups), the
learning rate makes one cycle, and every epoch ends with an evaluation gathered from all processes.
"""

from __future__ import annotations

import math

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch.nn import functional
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader

from ingredients import ImageClassifier, digits
from midcourse import Controller

ACCUMULATE = 2
"""Micro-batches in one optimizer step."""


def main(epochs: int = 4, seed: int = 0) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Train and evaluate; return the loss of every micro-batch and the final parameters."""
    set_seed(seed)
    accelerator = Accelerator()
    controller = Controller(accelerator, policy="baseline")

    train_loader = DataLoader(digits(train=True), batch_size=16, shuffle=True, drop_last=True)
    eval_loader = DataLoader(digits(train=False), batch_size=128)
    model = ImageClassifier()
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.01}, {"params": vectors, "weight_decay": 0.0}], lr=3e-4
    )
    total = epochs * math.ceil(len(train_loader) / ACCUMULATE)
    scheduler = OneCycleLR(optimizer, max_lr=[3e-3, 1e-2], total_steps=total)
    model, optimizer, train_loader, eval_loader, scheduler = accelerator.prepare(
        model, optimizer, train_loader, eval_loader, scheduler
    )

    losses: list[float] = []
    for epoch in controller.epochs(epochs):
        model.train()
        for index, (images, labels) in enumerate(train_loader):
            loss = functional.cross_entropy(model(images), labels)
            accelerator.backward(loss / ACCUMULATE)
            if (index + 1) % ACCUMULATE == 0 or index + 1 == len(train_loader):
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
            losses.append(loss.item())

        model.eval()
        right = seen = 0
        for images, labels in eval_loader:
            with torch.no_grad():
                guesses = model(images).argmax(-1)
            guesses, labels = accelerator.gather_for_metrics((guesses, labels))
            right += int((guesses == labels).sum())
            seen += len(labels)
        accelerator.print(f"epoch {epoch}: accuracy {right / seen:.3f}")

    accelerator.end_training()
    return losses, accelerator.unwrap_model(model).state_dict()


if __name__ == "__main__":
    main()
