"""What the loop itself multiplied or divided its loss by, read off the graph before ``backward`` frees it."""

from __future__ import annotations

from typing import Any

import torch

DIVISION = "DivBackward0"
"""Name of the graph's last node where the loop divided its loss: a division by anything."""


def hand_divisor(loss: torch.Tensor) -> float:
    """The number by which the loop itself divided the loss, read off the graph; 1 if none.

    Loops that count accumulation by hand write ``loss = loss / steps`` before ``backward``: the
    division by a Python number is then the graph's last node.
    """
    number = _whole_operand(loss.grad_fn, DIVISION)
    return number if number >= 2.0 else 1.0


def hand_factor(loss: torch.Tensor) -> float:
    """The product of the whole Python numbers by which the loop at last multiplied the loss; 1 if none.

    A loop that divides by all tokens of a window multiplies by Accelerate's divisor, and by the number of
    processes, to undo what ``backward`` and the gradients' mean will divide by.
    """
    node, factor = loss.grad_fn, 1.0
    while (number := _whole_operand(node, "MulBackward0")) >= 1.0:
        assert node is not None
        node, factor = node.next_functions[0][0], factor * number
    return factor


def _whole_operand(node: Any, name: str) -> float:
    """The whole Python number that a node of the graph computed with; 0 if it is no such node."""
    if node is None or node.name() != name:
        return 0.0
    operand = getattr(node, "_saved_other", None)
    # Python's numbers are kept as host tensors of these two types: reading one waits for no device.
    if not isinstance(operand, torch.Tensor) or operand.dtype not in (torch.int64, torch.float64):
        return 0.0
    if operand.ndim or operand.device.type != "cpu":
        return 0.0
    number = float(operand)
    return number if number.is_integer() else 0.0
