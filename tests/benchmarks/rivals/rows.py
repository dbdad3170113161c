"""Which of the recorded rows comes next, once each has a score?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from zlib import crc32

import numpy as np
from scipy.spatial.distance import cdist

from hpo.arrays import Array, Mask
from hpo.replay.problem import Choice, Problem
from hpo.statistics.loss_scale import LossScale

NORMAL_95 = 1.6448536269514722  # a standard normal variable is below it with probability 0.95


@dataclass(frozen=True, kw_only=True, eq=False)
class RowChooser:
    """A chooser that is one function of what was tried: `next_row(rows, losses)`."""

    next_row: Callable[[Sequence[int], Array], Choice]

    def choose(self, rows: Sequence[int], losses: Array) -> Choice:
        """The next row, given those tried and their raw losses (n,)."""
        return self.next_row(rows, np.asarray(losses, dtype=np.float64))


def best_untried(scores: Array, rows: Sequence[int]) -> int:
    """The row of the largest score (m,) that is not among `rows`; the first of equals."""
    left = np.where(np.isnan(scores), -np.inf, scores)
    candidates = np.setdiff1d(np.arange(len(scores)), np.asarray(rows, dtype=np.intp))
    return int(candidates[np.argmax(left[candidates])])


def random_untried(count: int, rows: Sequence[int], rng: np.random.Generator) -> int:
    """Any of `count` rows that is not among `rows`."""
    return int(rng.choice(np.setdiff1d(np.arange(count), np.asarray(rows, dtype=np.intp))))


def at_trial(problem: Problem, seed: int, rows: Sequence[int]) -> np.random.Generator:
    """The randomness of one trial: the same whenever it is asked for, and another for every task."""
    return np.random.default_rng((crc32(problem.name.encode()), seed, len(rows)))


def farthest_untried(points: Array, categorical: Mask, rows: Sequence[int], rng: np.random.Generator) -> int:
    """The row of `points` (m, d) farthest from those tried; a random one first. Equals are told apart by chance."""
    if not rows:
        return int(rng.integers(len(points)))
    numbers, choices = points[:, ~categorical], points[:, categorical]
    squared = cdist(numbers, numbers[list(rows)], "sqeuclidean") if numbers.shape[1] else 0.0
    differ = (choices[:, None, :] != choices[None, list(rows), :]).sum(axis=2)
    nearest = (squared + differ).min(axis=1)
    return best_untried(nearest + 1e-9 * rng.random(len(points)), rows)


def interval90(scale: LossScale, mean: float, deviation: float) -> tuple[float, float]:
    """Of the next raw loss, given its standardised mean and standard deviation."""
    low, high = scale.restore(np.array([mean - NORMAL_95 * deviation, mean + NORMAL_95 * deviation]))
    return float(low), float(high)
