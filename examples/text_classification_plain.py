"""Train a small transformer to tell code, prose and tables apart, in an Accelerate loop.

Gradients are accumulated by Accelerate, batches are padded to their own longest, the learning rate warms
up and then falls linearly, and every epoch ends with an evaluation gathered from all processes.
"""

from __future__ import annotations

import math

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader

from ingredients import Snippets, TextClassifier, pad

ACCUMULATE = 2
"""Micro-batches in one optimizer step."""


def main(epochs: int = 3, seed: int = 0) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Train and evaluate; return the loss of every micro-batch and the final parameters."""
    set_seed(seed)
    accelerator = Accelerator(gradient_accumulation_steps=ACCUMULATE)

    train_loader = DataLoader(Snippets(1440, seed=1), batch_size=16, shuffle=True, collate_fn=pad)
    eval_loader = DataLoader(Snippets(300, seed=2), batch_size=64, collate_fn=pad)
    model = TextClassifier()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

    warm_up, total = 10, epochs * math.ceil(len(train_loader) / ACCUMULATE)
    scheduler = LambdaLR(optimizer, lambda n: min((n + 1) / warm_up, max(0, total - n) / (total - warm_up)))
    model, optimizer, train_loader, eval_loader, scheduler = accelerator.prepare(
        model, optimizer, train_loader, eval_loader, scheduler
    )

    losses: list[float] = []
    for epoch in range(epochs):
        model.train()
        for batch in train_loader:
            with accelerator.accumulate(model):
                loss = model(**batch).loss
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
            losses.append(loss.item())

        model.eval()
        right = seen = 0
        for batch in eval_loader:
            with torch.no_grad():
                guesses = model(**batch).logits.argmax(-1)
            guesses, labels = accelerator.gather_for_metrics((guesses, batch["labels"]))
            right += int((guesses == labels).sum())
            seen += len(labels)
        accelerator.print(f"epoch {epoch}: accuracy {right / seen:.3f}")

    accelerator.end_training()
    return losses, accelerator.unwrap_model(model).state_dict()


if __name__ == "__main__":
    main()
