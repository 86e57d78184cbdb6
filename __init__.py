"""Midcourse steers a PyTorch training run while it happens.

It senses training signals, detects with streaming change detection that the trajectory has left
its course, decides by a written YAML policy, acts (learning rate, data mix, rollback), and
verifies that the correction helped. The names below are the whole public face; each is loaded
on first use, so that ``midcourse check`` never pays for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .controller.controller import Controller as Controller
    from .controller.forks.fork import fork as fork
    from .controller.loop import TrainingStopped as TrainingStopped
    from .controller.mixture import Mixture as Mixture
    from .controller.outside import approve as approve
    from .controller.outside import reject as reject
    from .monitors.types import Health as Health
    from .monitors.types import Monitor as Monitor
    from .monitors.types import Reading as Reading
    from .monitors.types import Sample as Sample
    from .policies.policy import Policy as Policy
    from .policies.policy import load_policy as load_policy
    from .policies.types import Decision as Decision

_HOME = {
    "Controller": "controller.controller",
    "TrainingStopped": "controller.loop",
    "Mixture": "controller.mixture",
    "approve": "controller.outside",
    "reject": "controller.outside",
    "Health": "monitors.types",
    "Monitor": "monitors.types",
    "Reading": "monitors.types",
    "Sample": "monitors.types",
    "Policy": "policies.policy",
    "load_policy": "policies.policy",
    "Decision": "policies.types",
    "fork": "controller.forks.fork",
}

__version__ = "0.1.0"
__all__ = [*_HOME, "__version__"]


def __getattr__(name: str) -> Any:
    """Load a public name from the room it lives in, the first time it is asked for."""
    if name not in _HOME:
        raise AttributeError(f"module 'midcourse' has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
