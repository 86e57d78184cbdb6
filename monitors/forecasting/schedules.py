"""Learning-rate schedules as a policy writes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ..types import ParameterError
from .course import Floats

Schedule = Callable[[Floats], Floats]
"""lr / peak at shares of the run, ``[n]``."""


def _cosine(shares: Floats) -> Floats:
    return np.asarray((1 + np.cos(np.pi * shares)) / 2)


SCHEDULES: Mapping[str, Schedule] = {
    "constant": np.ones_like,
    "linear": lambda shares: 1 - shares,
    "cosine": _cosine,
}
"""By name; those that fall end at zero."""


def make_schedule(written: str | Sequence[Sequence[float]]) -> Schedule:
    """A schedule by its name, or through corners (share of the run, lr / peak) joined by straight lines.

    Raises:
        ParameterError: it is neither, or the shares do not rise within 0 and 1, or a rate is negative.

    >>> trapezoid = make_schedule([[0, 0], [0.02, 1], [0.7, 1], [1, 0]])
    >>> trapezoid(np.array([0.01, 0.5, 0.85])).round(6).tolist()
    [0.5, 1.0, 0.5]
    """
    if isinstance(written, str):
        if written not in SCHEDULES:
            raise ParameterError("schedule", f"schedule must be {_WAYS}, got {written}")
        return SCHEDULES[written]
    try:
        corners = np.array([[float(number) for number in corner] for corner in written])
        shares, rates = corners.T
    except (TypeError, ValueError):
        raise ParameterError("schedule", f"schedule must be {_WAYS}, got {written}") from None
    if not (np.diff(shares) > 0).all() or not 0 <= shares[0] <= shares[-1] <= 1:
        message = f"the schedule's shares of the run must rise within 0 and 1, got {shares.tolist()}"
        raise ParameterError("schedule", message)
    if not (np.isfinite(rates).all() and rates.min() >= 0 and rates.max() > 0):
        message = f"the schedule's rates must be 0 or more, not all of them 0, got {rates.tolist()}"
        raise ParameterError("schedule", message)
    return lambda at: np.interp(at, shares, rates / rates.max())


_WAYS = f"{', '.join(SCHEDULES)} or a list of [share of the run, lr / peak]"
