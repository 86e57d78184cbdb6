"""Iterable data sets: whether a pass over one can be begun anew, and from which state.

A map-style data set gives any example at any time. An iterable one is a stream: only its own state says
where in it the next pass begins.
"""

from __future__ import annotations

import copy
from typing import Any

from accelerate.data_loader import IterableDatasetShard
from torch.utils.data import IterableDataset

from .training_state import Stateful

NEEDS_STATE = (
    "the training data set is iterable and keeps no state, so a pass over it cannot be known to begin anew: "
    "give it state_dict and load_state_dict to have the data rewound"
)
NEEDS_FRESH_WORKERS = (
    "the loader's persistent workers keep the state of the iterable training data set to themselves: "
    "set persistent_workers=False to have the data rewound"
)


def stream_of(loader: Any) -> Any:
    """The iterable data set of a loader, without what Accelerate wraps around it; None if it is map-style."""
    dataset = getattr(loader, "dataset", None)
    while isinstance(dataset, IterableDatasetShard):
        dataset = dataset.dataset
    return dataset if isinstance(dataset, IterableDataset) else None


def why_not_anew(loader: Any) -> str | None:
    """The reason why a pass over a loader's data cannot be begun anew; None where it can."""
    stream = stream_of(loader)
    if stream is None:
        return None
    if not isinstance(stream, Stateful):
        return NEEDS_STATE
    return NEEDS_FRESH_WORKERS if getattr(loader, "persistent_workers", False) else None


def capture(loader: Any) -> Any:
    """A copy of the state in which a loader's stream is, to begin the same pass from; None if it has none.

    With workers that is the main process's copy: each pass hands it to the workers anew.
    """
    stream = stream_of(loader)
    return copy.deepcopy(stream.state_dict()) if isinstance(stream, Stateful) else None


def restore(loader: Any, state: Any) -> None:
    """Put back a state from ``capture``."""
    stream = stream_of(loader)
    if isinstance(stream, Stateful):
        stream.load_state_dict(copy.deepcopy(state))
