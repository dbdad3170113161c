"""The arrays of the mathematics: their types, and which rows stand for all."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float64]
Mask: TypeAlias = NDArray[np.bool_]

EQUAL_DIGITS = 9  # coordinates closer than this are the same


def keys(points: Array) -> list[bytes]:
    """What is the same for equal points (m, d), and for those that differ by rounding only."""
    return [row.tobytes() for row in np.ascontiguousarray(np.round(points, EQUAL_DIGITS) + 0.0)]  # no negative zero


def best_and_some(losses: Array, most: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """Rows of at most `most` losses (n,), the best first: all of them, or the best half and as many of the others."""
    order = np.argsort(losses, kind="stable")
    if len(order) <= most:
        return order
    half = (most + 1) // 2
    return np.concatenate([order[:half], rng.permutation(order[half:])[: most - half]])
