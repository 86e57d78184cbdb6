"""Whether a loop asks for its next batch before it has used the last one.

Then acts at a batch request would change what a forward pass has used already. It shows in the graph: the
loss was computed before the batch that came last was pulled.
"""

from __future__ import annotations

import torch

SETTLED = 8
"""Ticks after which a loop has shown whether it reads ahead."""

READS_AHEAD = (
    "the loop asks for its next batch before it has used the last one, so its place in the data is unknown"
)


def autograd_sequence() -> int:
    """A number that autograd has not given to any node before."""
    with torch.enable_grad():
        node = torch.empty((), requires_grad=True).clone().grad_fn
    assert node is not None
    return int(node._sequence_nr())


def made_before(loss: torch.Tensor, sequence: int) -> bool:
    """Whether a loss was computed before autograd came to a number: its last node has a smaller one."""
    return loss.grad_fn is not None and loss.grad_fn._sequence_nr() < sequence
