"""What of a measurement could not be foretold from the two before it."""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt
from typing import Any

from .scale import CLIP

_FAR = 12.0
"""Noises to which a z is winsorised before it foretells the next. At 4, heavy tails are not foretold where it
matters (an AR(.6) of Student-t of 3 alarms after a third of its budget); without a bound, a loss that comes
down from a hundred noises hides that it is still far out."""

_DOUBT = 8.0  # measurements without correlation that are thought to come before the first: few say little
_MOST = 0.98  # largest correlation believed: what is left of the noise stays above 0


_STATE = (
    *("count", "mean", "variance", "once", "twice", "learnt", "learnt_before"),
    *("first", "second", "sigma", "last", "before"),
)


class Whitening:
    """An autoregression of second order on z, learnt as it goes; its residuals are as good as independent.

    r_t = (z_t - a z_(t-1) - b z_(t-2)) / sigma, where a, b and sigma follow from the first two partial
    autocorrelations (Levinson and Durbin). These come from moving averages of products of winsorised z about
    their mean, so that the lag of a level behind a falling loss is not taken for correlation.

    Two lags and not one: the latter leaves enough in an AR(.5, .3) to break an alarm's budget by 4, and costs
    as much. What is correlated over many measurements without showing in the next two (an AR(.95) that makes
    a third of the noise) is not made white.

    Args:
        memory: measurements that the averages reach back over.

    Source: J. Durbin, The fitting of time-series models, Revue de l'Institut International de Statistique 28
    (1960).
    """

    __slots__ = ("_memory", *(f"_{name}" for name in _STATE))

    def __init__(self, memory: int) -> None:
        self._memory = memory
        self._count = 0  # of what was learnt from, up to where more make no difference
        self._mean = self._variance = 0.0
        self._once = self._twice = (
            0.0  # mean products of a z with that before it, and with the one before that
        )
        self._learnt = self._learnt_before = 0.0
        self._first = self._second = 0.0  # the coefficients
        self._sigma = 1.0
        self.forget()

    def forget(self) -> None:
        """What came last says nothing of what comes next: after a gap."""
        self._last = self._before = 0.0

    def residual(self, z: float) -> float:
        """What of a z could not be foretold, in noises of such residuals; to be called once with each."""
        residual = (z - self._first * self._last - self._second * self._before) / self._sigma
        self._before = self._last
        self._last = -_FAR if z < -_FAR else _FAR if z > _FAR else z
        return residual

    def learn(self, z: float) -> None:
        """Learn from a z; the caller says when, so that a fault is not learnt before it is found."""
        count = self._count
        if count < self._memory:
            self._count = count = count + 1
        weight = 1.0 / count
        z = (-CLIP if z < -CLIP else CLIP if z > CLIP else z) - self._mean
        self._mean += weight * z
        self._variance = variance = self._variance + weight * (z * z - self._variance)
        self._once = once = self._once + weight * (z * self._learnt - self._once)
        self._twice = twice = self._twice + weight * (z * self._learnt_before - self._twice)
        self._learnt_before = self._learnt
        self._learnt = z
        variance += _DOUBT * weight
        near = once / variance
        near = -_MOST if near < -_MOST else _MOST if near > _MOST else near
        left = 1.0 - near * near
        far = (twice / variance - near * near) / left
        far = -_MOST if far < -_MOST else _MOST if far > _MOST else far
        self._first = near * (1.0 - far)
        self._second = far
        self._sigma = sqrt(left * (1.0 - far * far))

    def state_dict(self) -> dict[str, Any]:
        """All of its state."""
        return {name: getattr(self, "_" + name) for name in _STATE}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state."""
        for name in _STATE:
            setattr(self, "_" + name, state[name])
