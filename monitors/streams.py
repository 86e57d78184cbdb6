"""Seeded streams of measurements, for the conformance suite."""

from __future__ import annotations

from math import inf, nan

import numpy as np

NOISE = 0.1
"""Robust scale of the noise of all streams here."""


def healthy(n: int, seed: int) -> list[float]:
    """A training loss as it should be: a power law that falls to 2, with Student-t noise."""
    noise = np.random.default_rng(seed).standard_t(5, n) * (NOISE / 1.08)  # whose robust scale is 1.08
    loss: list[float] = (2 + 4 * (np.arange(n) + 20.0) ** -0.5 + noise).tolist()
    return loss


def stepped(n: int, seed: int, at: int, noises: float) -> list[float]:
    """A healthy loss that is higher by ``noises`` from ``at`` on."""
    return [value + noises * NOISE * (index >= at) for index, value in enumerate(healthy(n, seed))]


def troubled(n: int, seed: int) -> list[float | None]:
    """A healthy loss with spikes, a burst, values that are not finite, and values missing (None)."""
    values: list[float | None] = [*stepped(n, seed, 2 * n // 3, 8.0)]
    for index in range(n):
        if index % 17 == 5:
            values[index] = (nan, inf, -inf, 1e308, -1e308)[index // 17 % 5]
        elif index % 13 == 7 or n // 2 < index < n // 2 + 30:
            values[index] = None
        elif index % 97 == 50:
            values[index] = 2 + 30 * NOISE
    return values
