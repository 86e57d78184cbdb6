"""Arithmetic of shares: exponentiated gains, and the fill that keeps shares within bounds."""

from __future__ import annotations

from itertools import pairwise
from math import exp

from .law import Numbers

_LEAST = 1e-12
"""A wanted share below this counts as this: in proportion to nothing, nothing could be filled up."""


def exponentiated(now: Numbers, gains: Numbers) -> dict[str, float]:
    """Multiply the shares of those that have a gain by its exponential, and keep what they have together.

    Who has none keeps its share: nothing is known of it.

    >>> exponentiated({"a": 0.25, "b": 0.25, "c": 0.5}, {"a": 0.0, "b": 1.0986122886681098})  # log 3
    {'a': 0.125, 'b': 0.375, 'c': 0.5}
    """
    known = {name: gain for name, gain in gains.items() if name in now}
    if not known:
        return dict(now)
    highest = max(known.values())
    grown = {name: now[name] * exp(gain - highest) for name, gain in known.items()}
    together, total = sum(now[name] for name in known), sum(grown.values())
    if total <= 0.0:  # who would gain most has nothing, and beside it the others underflow
        return dict(now)
    return {name: grown[name] * together / total if name in grown else now[name] for name in now}


def fill(wanted: Numbers, low: Numbers, high: Numbers) -> dict[str, float]:
    """The shares within these bounds that sum to 1 and otherwise keep the proportions of the wanted ones.

    All are multiplied by one number, each stops at its bounds, and the number is the one with which they
    come to 1 (water-filling; among all shares within the bounds those have the least Kullback-Leibler
    divergence from the wanted, as exponentiated gradients want it). The sum rises with the number in straight
    lines between the corners where a share meets a bound, so the number is found without search.

    Raises:
        ValueError: no shares within these bounds sum to 1.

    >>> fill({"a": 0.9, "b": 0.08, "c": 0.02}, dict.fromkeys("abc", 0.1), dict.fromkeys("abc", 0.7))
    {'a': 0.7, 'b': 0.2, 'c': 0.1}
    """
    least, most = sum(low.values()), sum(high.values())
    if least > 1.0 + 1e-9 or most < 1.0 - 1e-9:
        raise ValueError(f"shares between {least:.4g} and {most:.4g} together cannot sum to 1")
    weights = {name: max(value, _LEAST) for name, value in wanted.items()}

    def at(factor: float) -> dict[str, float]:
        return {n: min(max(factor * weight, low[n]), high[n]) for n, weight in weights.items()}

    corners = sorted(bound[name] / weight for name, weight in weights.items() for bound in (low, high))
    for before, after in pairwise(corners):
        there = sum(at(after).values())
        if there >= 1.0:
            here = sum(at(before).values())
            part = (1.0 - here) / (there - here) if there > here else 0.0
            return at(before + min(max(part, 0.0), 1.0) * (after - before))
    return at(corners[-1])
