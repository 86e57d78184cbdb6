"""L(t) = L0 + A S1(t)^-alpha + kappa eta~(t), fitted to what was measured so far."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from .course import Features, Floats

ALPHAS = np.geomspace(0.1, 2.0, 14)

ALPHA_PRIOR, ALPHA_SPREAD = 0.7, 0.3
"""Prior of alpha: log-normal; this and the next were chosen by the median error at 25, 50 and 75 % of 59 GPT
runs, each group of runs counting once. From few points a steep curve with a high floor fits as well as a
shallow one."""

KAPPA_PRIOR, KAPPA_SPREAD = 0.06, 0.04
"""Prior of kappa, in medians of the signal: before the decay starts, nothing else says what it is."""

_ROUNDS = 4  # of reweighting
_HUBER = 1.5  # residuals that count in full, in noises
_FLOOR = 1e-3  # of the level: the least noise, as in ``RobustScale``
_LEAST = 1e-9  # of the S1 so far: the least S1, whose power is still a number


@dataclass(frozen=True, slots=True)
class Curve:
    """A fitted curve; ``noise`` is the robust scale of one value around it, ``unit`` that of S1."""

    l0: float
    a: float
    alpha: float
    kappa: float
    unit: float
    noise: float

    def at(self, features: Features) -> Floats:
        """Its values, ``[n]``."""
        shape = np.maximum(features.s1 / self.unit, _LEAST) ** -self.alpha
        level = self.l0 + self.a * shape
        return level if features.eta is None else level + self.kappa * features.eta


def fit_curve(values: Floats, features: Features) -> Curve:
    """Fit a curve to a signal that falls towards a value that is not negative, such as a loss.

    Every alpha of a grid has its robust non-negative least squares; the best by loss and prior is taken.

    Args:
        values: finite, ``[n]``.
        features: of their steps.

    Source: H. Tissue et al., Scaling law with learning rate annealing, arXiv 2408.11029 (2024), whose second
    sum over the schedule is replaced by eta~ here.
    """
    scale = max(float(_median(np.abs(values))), 1e-30)
    y = values / scale
    unit = max(float(features.s1[-1]), _LEAST)
    power = np.maximum(features.s1 / unit, _LEAST) ** -ALPHAS[:, None]
    columns = [np.ones_like(power), power]
    if features.eta is not None:
        columns.append(np.broadcast_to(features.eta, power.shape))
    x = np.stack(columns, axis=1)  # [alpha, column, n]
    found, residuals, noise = _robust(x, y)
    best = int(np.argmin(_badness(found, residuals, float(noise.min()))))
    l0, a, kappa = (*(scale * found[best]), 0.0)[:3]
    return Curve(float(l0), float(a), float(ALPHAS[best]), float(kappa), unit, float(scale * noise[best]))


def _robust(x: Floats, y: Floats) -> tuple[Floats, Floats, Floats]:
    """For each alpha the coefficients ``[alpha, column]``, residuals ``[alpha, n]`` and noise ``[alpha]``."""
    weights = np.ones((len(x), len(y)))
    noise = np.full(len(x), 0.02)  # before the first residuals: what makes the prior weak
    for _ in range(_ROUNDS):
        weighted = x * weights[:, None]
        gram = weighted @ x.transpose(0, 2, 1)
        moment = weighted @ y
        if x.shape[1] == 3:
            trust = (noise / KAPPA_SPREAD) ** 2
            gram[:, 2, 2] += trust
            moment[:, 2] += trust * KAPPA_PRIOR
        found = nonnegative(gram, moment)
        residuals = y - (found[:, None] @ x)[:, 0]
        noise = np.maximum(1.4826 * _median(np.abs(residuals)), _FLOOR)
        weights = 1 / np.maximum(1.0, np.abs(residuals) / (_HUBER * noise[:, None]))
    return found, residuals, noise


def _median(values: Floats) -> Floats:
    """Over the last axis. numpy's own loads its masked arrays when first called: 50 ms amid a run."""
    ordered, n = np.sort(values, axis=-1), values.shape[-1]
    middle: Floats = (ordered[..., (n - 1) // 2] + ordered[..., n // 2]) / 2
    return middle


def _badness(found: Floats, residuals: Floats, noise: float) -> Floats:
    """Huber's loss of each alpha and what the priors have against it, in squared noises."""
    size = np.abs(residuals) / noise
    loss = np.where(size < _HUBER, size**2, _HUBER * (2 * size - _HUBER)).sum(axis=1)
    loss += (np.log(ALPHAS / ALPHA_PRIOR) / ALPHA_SPREAD) ** 2
    if found.shape[1] == 3:
        loss += ((found[:, 2] - KAPPA_PRIOR) / KAPPA_SPREAD) ** 2
    badness: Floats = loss
    return badness


def nonnegative(gram: Floats, moment: Floats) -> Floats:
    """Least squares with no negative coefficient, from the normal equations; exact.

    Of two or three columns there are so few subsets that all are tried where the whole set will not do.

    Args:
        gram: ``[batch, k, k]``, positive semidefinite.
        moment: ``[batch, k]``.

    >>> nonnegative(np.eye(2)[None], np.array([[3.0, -1.0]])).round(6).tolist()
    [[3.0, 0.0]]
    """
    k = moment.shape[1]
    ridge = 1e-12 * np.trace(gram, axis1=1, axis2=2)[:, None, None] * np.eye(k)
    gram = gram + ridge
    best = np.asarray(np.linalg.solve(gram, moment[..., None])[..., 0], dtype=float)
    failed = np.flatnonzero((best < 0).any(axis=1))
    if not failed.size:
        return best
    gram, moment = gram[failed], moment[failed]
    among = np.zeros_like(moment)
    gain = np.zeros(len(moment))
    for size in range(1, k):
        for subset in combinations(range(k), size):
            some = list(subset)
            part = np.linalg.solve(gram[:, some][:, :, some], moment[:, some, None])[..., 0]
            gained = (part * moment[:, some]).sum(axis=1)
            better = (part >= 0).all(axis=1) & (gained > gain)
            among[better] = 0.0
            among[np.ix_(better, some)] = part[better]
            gain[better] = gained[better]
    best[failed] = among
    return best
