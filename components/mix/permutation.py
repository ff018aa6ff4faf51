"""Permutations of 0..n-1 that need no memory: a Feistel network with a hash as round function, walked into range."""

from __future__ import annotations

import numpy as np

_ROUNDS = 4
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def permute(index: np.ndarray, size: int, key: int) -> np.ndarray:
    """Where the permutation of 0..size-1 with this key sends each index: (n,), any integer -> (n,), int64.

    The same (index, size, key) gives the same answer everywhere, so an order of billions needs no table.
    """
    half = max(1, (max(size - 1, 1).bit_length() + 1) // 2)
    out = _network(index.astype(np.uint64), half, key)
    while (outside := out >= size).any():  # the network permutes 0..4**half-1; walk until back in range
        out[outside] = _network(out[outside], half, key)
    return out.astype(np.int64)


def _network(value: np.ndarray, half: int, key: int) -> np.ndarray:
    shift, mask = np.uint64(half), np.uint64((1 << half) - 1)
    left, right = value >> shift, value & mask
    for number in range(_ROUNDS):
        salt = np.uint64((key * 0x2545F4914F6CDD1D + number * 0xD1B54A32D192ED03) % 2**64)
        left, right = right, left ^ (_mix(right ^ salt) & mask)
    return (left << shift) | right


def _mix(value: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64 (Steele et al. 2014), on arrays."""
    with np.errstate(over="ignore"):
        value = value + _GOLDEN
        value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return value ^ (value >> np.uint64(31))
