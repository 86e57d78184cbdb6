"""Keyed permutations of ``range(size)`` in constant memory: any element without the others.

A Feistel network permutes the smallest square domain of bits that holds ``size``; an image outside
``range(size)`` is sent through it again until it falls inside (cycle walking), which leaves a
permutation of ``range(size)`` itself. The domain is below four times ``size``, so four rounds
through the network are the expected worst.

After Black and Rogaway, "Ciphers with Arbitrary Finite Domains" (2002); the round function is the
finaliser of SplitMix64 (Steele, Lea and Flood, 2014). Statistical quality is the aim, not secrecy.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]

_ROUNDS = 8  # four hide structure on large domains; on a handful of elements eight are visibly more even
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def mix64(words: Words) -> Words:
    """Scramble 64-bit words so that every bit of the result depends on every bit of the input."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def key_of(*parts: object) -> int:
    """A 64-bit key from the ``repr`` of its parts: the same on every machine and in every process."""
    digest = hashlib.blake2b("\x00".join(map(repr, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def subkeys(key: int, counters: NDArray[np.int64]) -> Words:
    """One key for each counter under a common key, for instance one for each epoch of a source."""
    return mix64(np.uint64(key) ^ mix64(counters.astype(np.uint64) + _GOLDEN))


def permute(indices: NDArray[np.int64], size: int, keys: Words) -> NDArray[np.int64]:
    """Images of ``indices`` under the permutations of ``range(size)`` that ``keys`` select.

    ``indices`` [n] lie in ``range(size)``; ``keys`` has shape [n] or [1]. Elements with equal keys
    are permuted by the same permutation, so distinct indices have distinct images.

    >>> sorted(permute(np.arange(5), 5, subkeys(7, np.array([0]))).tolist())
    [0, 1, 2, 3, 4]
    """
    half_bits = max(1, (max(size - 1, 1).bit_length() + 1) // 2)
    keys = np.broadcast_to(keys, indices.shape)
    images = _feistel(indices.astype(np.uint64), half_bits, keys)
    outside = np.flatnonzero(images >= size)
    while outside.size:
        images[outside] = _feistel(images[outside], half_bits, keys[outside])
        outside = outside[images[outside] >= size]
    return images.astype(np.int64)


def _feistel(words: Words, half_bits: int, keys: Words) -> Words:
    bits, mask = np.uint64(half_bits), np.uint64((1 << half_bits) - 1)
    left, right = words >> bits, words & mask
    for _ in range(_ROUNDS):
        keys = keys + _GOLDEN
        left, right = right, left ^ (mix64(right ^ keys) & mask)
    return (left << bits) | right
