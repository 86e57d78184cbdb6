"""What a learning-rate schedule says of a loss: the cumulative rate S1 and the recent rate eta~."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

Future = Callable[[Floats], Floats] | Floats
"""lr / peak at given steps; or its values at equal distances after the present, the last at the end,
``[k]``."""

MEMORY = 0.02
"""Time constant of eta~, as a share of the whole run."""

_POINTS = 400  # of the grid over the whole run: eight in each time constant
_REACH = 6  # time constants after which a rate is forgotten: e^-6 of it is left


@dataclass(frozen=True, slots=True)
class Features:
    """S1, in steps at the peak rate, and eta~, in peak rates (None without a schedule), ``[n]`` each."""

    s1: Floats
    eta: Floats | None


@dataclass(frozen=True, slots=True)
class Course:
    """The schedule of a run: steps, rising, lr / peak there, ``[m]`` each, and the steps of the whole run.

    Between its steps the rate is taken as straight. Without rates, S1 is the step itself.
    """

    steps: Floats
    rates: Floats | None
    horizon: float

    def features(self, at: Floats) -> Features:
        """S1, the integral of the rate, and eta~, its moving average over 2 % of the run, at steps
        ``[n]``."""
        if self.rates is None:
            return Features(at, None)
        grid = np.linspace(0.0, max(self.horizon, float(at[-1])), _POINTS + 1)
        rate = np.interp(grid, self.steps, self.rates)
        width = grid[1] - grid[0]
        s1 = np.concatenate(([0.0], np.cumsum(rate[1:] + rate[:-1]) * (width / 2)))
        memory = MEMORY * self.horizon / width
        kernel = np.exp(-np.arange(min(int(_REACH * memory), _POINTS) + 1) / memory)
        before = np.full(len(kernel) - 1, rate[0])  # as if it had always been so
        eta = np.convolve(np.concatenate((before, rate)), kernel / kernel.sum(), "valid")
        return Features(np.interp(at, grid, s1), np.interp(at, grid, eta))


def course(steps: Floats, rates: Floats | None, horizon: float, future: Future | None) -> Course:
    """The schedule so far and to come. Without either, or with a rate of zero all along, there is none.

    Args:
        steps: measured so far, rising, ``[n]``.
        rates: lr / peak there, ``[n]``, or None.
        horizon: steps of the whole run.
        future: lr / peak of the remaining steps, or None.
    """
    now = float(steps[-1])
    if rates is None or (future is None and now < horizon):
        return Course(steps, None, horizon)
    if future is not None and now < horizon:
        count = _POINTS if callable(future) else len(future)
        ahead = np.linspace(now, horizon, count + 1)[1:]
        coming = np.asarray(future(ahead) if callable(future) else future, dtype=float)
        steps, rates = np.concatenate((steps, ahead)), np.concatenate((rates, coming))
    return Course(steps, rates if float(rates.max()) > 0 else None, horizon)
