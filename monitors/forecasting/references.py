"""What finished runs of the same schedule say of a run: it will end as far from them as it is now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..plan import FinishedRun
from .course import Course, Floats

ALIKE = 0.05
"""Mean difference of lr / peak, over the share of the run, up to which two schedules are the same."""

LENGTHS = 1.5
"""Ratio of their lengths up to which runs are compared."""

_FROM = 0.4  # of the steps so far: earlier values say little of how alike two curves are
_DISTANCE = 1e-3  # spread of the log-ratio below which curves are as alike as noise allows
_SHARES = np.linspace(0.0, 1.0, 101)


@dataclass(frozen=True, slots=True)
class Reference:
    """A finished run: steps, rising, values and lr / peak there (None: not known), ``[m]`` each.

    Its ``length`` is that of the run, in steps; None: its last step.
    """

    steps: Floats
    values: Floats
    rates: Floats | None = None
    length: float | None = None

    @classmethod
    def of(cls, run: FinishedRun) -> Reference:
        """A finished run as a plan tells it."""
        rates = None if run.rates is None or max(run.rates) <= 0 else np.array(run.rates) / max(run.rates)
        return cls(np.array(run.steps), np.array(run.values), rates, run.length)

    @property
    def shares(self) -> Floats:
        """How much of it was done at each of its steps."""
        return self.steps / (self.steps[-1] if self.length is None else self.length)

    def at(self, shares: Floats) -> Floats:
        """Its values at shares of its length."""
        return np.interp(shares, self.shares, self.values)


@dataclass(frozen=True, slots=True)
class Transfer:
    """The final value by references, and its spread: how far they differ, and drifted from the run so far."""

    final: float
    spread: float


def transfer(
    steps: Floats, values: Floats, course: Course, references: Sequence[Reference]
) -> Transfer | None:
    """The final value that finished runs of the same schedule suggest; None if there are not two of them.

    Each says: its own final value times the ratio of the two signals now. They are averaged with weights
    1 / spread^4, the spread being that of the log-ratio so far: the runs most alike count most.

    Args:
        steps: measured so far, ``[n]``.
        values: there, positive, ``[n]``.
        course: the schedule of the whole run.
        references: finished runs.
    """
    alike = [each for each in references if _alike(each, course)]
    if len(alike) < 2 or values.min() <= 0 or any(each.values.min() <= 0 for each in alike):
        return None
    recent = steps >= _FROM * steps[-1]
    shares, logs = steps[recent] / course.horizon, np.log(values[recent])
    ratios = np.array([logs - np.log(each.at(shares)) for each in alike])
    finals = ratios[:, -1] + np.log([each.values[-1] for each in alike])
    weights = (ratios.var(axis=1) + _DISTANCE**2) ** -2.0
    weights /= weights.sum()
    middle = float(weights @ finals)
    spread = float(np.sqrt(weights @ ((finals - middle) ** 2 + ratios.var(axis=1))))
    final = float(np.exp(middle))
    return Transfer(final, final * spread)


def _alike(reference: Reference, course: Course) -> bool:
    ratio = float(reference.length or reference.steps[-1]) / course.horizon
    if not 1 / LENGTHS <= ratio <= LENGTHS or reference.rates is None or course.rates is None:
        return False
    own = np.interp(_SHARES, course.steps / course.horizon, course.rates)
    theirs = np.interp(_SHARES, reference.shares, reference.rates)
    return float(np.abs(own - theirs).mean()) <= ALIKE
