"""Whether a restored state is the snapshot: read back at every part of it, at a fraction of a copy's cost."""

from __future__ import annotations

from collections.abc import Sequence

import torch

STRIDE = 1021
"""Of a long tensor every so many elements are read: a prime, so that no column of a matrix is missed."""

WHOLE = 4 * STRIDE
"""Tensors of fewer elements are read whole."""

Parts = list[torch.Tensor]

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32}


def identical(live: Sequence[torch.Tensor], kept: Sequence[torch.Tensor]) -> bool:
    """Whether two lists of tensors agree bit for bit (NaN equals itself) wherever they are read.

    Every tensor is read: a short one whole, a long one at its first and last element and at every
    ``STRIDE``-th, so that no stretch of ``STRIDE`` elements of its memory is passed over. That is sufficient
    for what can go wrong with a copy: a tensor that is not the live one any more or got another one's values
    differs all over, one that was overwritten afterwards or is not complete yet in a stretch. To compare all
    of it would cost more than the copy itself, and no copy leaves out a single element in between.
    """
    if len(live) != len(kept):
        return False
    groups: dict[tuple[torch.device, torch.device, torch.dtype], tuple[Parts, Parts]] = {}
    for a, b in zip(live, kept, strict=True):
        if a.shape != b.shape or a.dtype != b.dtype:
            return False
        ours, theirs = groups.setdefault((a.device, b.device, a.dtype), ([], []))
        if not a.is_contiguous():  # channels last, say: along its memory, so that nothing is moved
            order = sorted(range(a.ndim), key=a.stride, reverse=True)
            a, b = a.permute(order), b.permute(order)
        ours += _read(a)
        theirs += _read(b)
    # Joined where they lie, so that a device is sent one tensor and asked one question.
    return all(
        torch.equal(torch.cat(ours), torch.cat(theirs).to(device))
        for (device, _, _), (ours, theirs) in groups.items()
    )


def _read(tensor: torch.Tensor) -> Parts:
    bits = tensor.reshape(-1).view(_BITS.get(tensor.element_size(), torch.int64))
    return [bits] if bits.numel() < WHOLE else [bits[::STRIDE], bits[-1:]]
