"""Tensors that are spread over the processes (FSDP2's ``DTensor``): each keeps and restores its own part.

They are known by what they can do, not by their class: importing it takes longer than all of torch, and
most runs never meet one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch


def is_spread(tensor: Any) -> bool:
    """Whether the processes hold a tensor together."""
    return hasattr(tensor, "placements")


def local(tensor: Any) -> torch.Tensor:
    """This process's part, in the tensor's own memory and without its graph; all of a plain tensor."""
    if is_spread(tensor):
        with torch.no_grad():
            tensor = tensor.to_local()
    part: torch.Tensor = tensor.detach()
    return part


def whole(tensor: Any) -> torch.Tensor:
    """The whole of a tensor; where it is in parts, all processes have to ask for it at the same time."""
    full: torch.Tensor = tensor.full_tensor() if is_spread(tensor) else tensor
    return full


def parts(tensor: Any) -> int:
    """How many different parts a tensor is in; a plain one, the same everywhere, is in one."""
    if not is_spread(tensor):
        return 1
    mesh, placements = tensor.device_mesh, tensor.placements
    return math.prod(mesh.size(dim) for dim, kind in enumerate(placements) if not kind.is_replicate())


def norm_share(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """This process's share of the L2 norm of tensors: the root mean square of all shares is the norm.

    One of ``n`` parts counts ``n``-fold in that mean, a tensor that all processes hold alike once: where
    nothing is spread the share is the norm itself.
    """
    if not any(map(is_spread, tensors)):
        return torch.nn.utils.get_total_norm(tensors)
    groups: dict[int, list[torch.Tensor]] = {}
    for tensor in tensors:
        groups.setdefault(parts(tensor), []).append(local(tensor))
    norms = [torch.nn.utils.get_total_norm(group) * math.sqrt(n) for n, group in groups.items()]
    return norms[0] if len(norms) == 1 else torch.nn.utils.get_total_norm(norms)


def give_up_gathered(model: torch.nn.Module) -> None:
    """Have FSDP2 forget the whole parameters that a forward pass without backward has gathered and left.

    They stand in the model in place of the parts until the next backward: a state restored into the parts
    would not reach the next forward pass. It exchanges nothing, but all processes have to do it alike.
    """
    for module in model.modules():
        if hasattr(type(module), "set_reshard_after_backward"):
            module.reshard()  # type: ignore[operator]


@dataclass(frozen=True, slots=True)
class Layout:
    """How a tensor is spread; without placements it is a plain one."""

    placements: Any = None
    shape: Any = None
    stride: Any = None

    @classmethod
    def of(cls, tensor: Any) -> Layout:
        """The layout of this tensor."""
        return cls(tensor.placements, tensor.shape, tensor.stride()) if is_spread(tensor) else cls()

    def lay_out(self, part: torch.Tensor, parameter: Any) -> torch.Tensor:
        """A tensor of this layout, of which this process holds ``part``, on the processes of a parameter."""
        if self.placements is None:
            return part
        made: torch.Tensor = type(parameter).from_local(
            part,
            parameter.device_mesh,
            self.placements,
            run_check=False,
            shape=self.shape,
            stride=self.stride,
        )
        return made
