"""``proportional``: a signal is held at a target by a factor on the learning rate or a source's weight."""

from __future__ import annotations

from collections.abc import Mapping
from math import exp, log
from typing import ClassVar

from ..shapes import Field, Real
from .law import Law, Numbers


class Proportional(Law):
    """``factor <- factor * (target / measured) ** gain``, and nothing while they lie close together.

    The step is proportional to the error in logarithms, where quantities that multiply (an update's size and
    the learning rate) answer alike at every scale: a signal proportional to the factor loses the share
    ``gain`` of its error at each update, without an error that stays. Seen from the signal that is integral
    control, whose one danger is to wind up where the actuator is at its end; here the clamped factor itself
    is the state, so it leaves its bound at once when the error turns (Åström and Murray, Feedback Systems,
    2008, section 10.4). Multiplicative steps with a band of rest are what adapts the penalty of PPO to a
    target divergence (Schulman and others, 2017, arXiv 1707.06347, section 4).

    Args:
        target: the value at which the signal is to be held, above 0.
        gain: exponent. Below 1 it creeps up to the target, from 2 on it would swing; 0.5 allows for a signal
            that answers a tick or two late. Negative where the signal falls as the factor rises, as a
            source's loss does with its weight.
        dead_band: the factor stays where the signal is within this share of the target: noise is no error.

    >>> law = Proportional(target=0.001, gain=0.5)
    >>> [round(law.update({"": value}, {"": 1.0})[""], 6) for value in (0.004, 0.00105, 0.00025)]
    [0.5, 1.0, 2.0]
    """

    keys: ClassVar[Mapping[str, Field]] = {
        "target": Field(Real(0, 1e6, is_open=True)),
        "gain": Field(Real(-2, 2), 0.5),
        "dead_band": Field(Real(0, 1), 0.1),
    }
    sets_shares: ClassVar[bool] = False

    def __init__(self, target: float, gain: float = 0.5, dead_band: float = 0.1) -> None:
        self._target = target
        self._gain = gain
        self._dead_band = dead_band

    def update(self, measured: Numbers, now: Numbers) -> Numbers:
        """A signal that is not above 0 has no logarithm and changes nothing."""
        factor, value = now[""], measured[""]
        if value <= 0.0 or abs(value - self._target) <= self._dead_band * self._target:
            return {"": factor}
        error = log(self._target) - log(value)  # their quotient may be too large for a float
        return {"": exp(min(log(factor) + self._gain * error, 700.0))}
