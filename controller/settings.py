"""What a Controller was given, in one piece."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..policies.policy import Policy
from .forks.order import ForkOrder
from .ranks import Ranks


@dataclass(frozen=True, slots=True)
class Settings:
    """What a Controller was given, as its own docstring tells, with the run's processes and folder."""

    accelerator: Any
    policy: Policy
    directory: Path
    ranks: Ranks
    resume: str | Path | None
    optimizer: torch.optim.Optimizer | None
    training_loader: Any
    norms_every: int | None
    say: Callable[[str], object]
    clock: Callable[[], float]
    forked: ForkOrder | None = None
