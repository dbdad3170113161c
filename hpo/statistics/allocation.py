r"""How many replicates does each contender get, so that the right one is found with the fewest?

Notation
    k           contenders; i one of them, b the one that looks best
    n_i, m_i    replicates of i and their mean (losses)
    s_i^2       their variance, moderated: drawn towards the pooled one, as a few values say little of it
    delta_i     m_i - m_b

OCBA: n_i : n_j = (s_i / delta_i)^2 : (s_j / delta_j)^2, n_b = s_b sqrt(sum_i n_i^2 / s_i^2) over i != b
(Chen, Lin, Yücesan and Chick, Simulation Budget Allocation for Further Enhancing the Efficiency of Ordinal
Optimization, Discrete Event Dynamic Systems 2000, theorem 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from hpo.arrays import Array

FIRST_ROUND = 2  # replicates of each contender: fewer say nothing of their spread
PRIOR_FREEDOM = 4.0  # with which a contender's variance is drawn towards the pooled one (heuristic)
SMALLEST_DIFFERENCE = 0.05  # in standard deviations: what is closer is not worth an unlimited number of replicates
DRAWS = 20_000


@dataclass(frozen=True, kw_only=True, eq=False)
class Standing:
    """How the contenders stand after some replicates."""

    counts: NDArray[np.intp]  # (k,)
    means: Array  # (k,) NaN without a replicate
    deviations: Array  # (k,) moderated standard deviations of one replicate; NaN where nobody has two
    freedom: Array  # (k,) degrees of freedom of those
    probabilities: Array  # (k,) that a contender is the best

    @property
    def leader(self) -> int:
        """Whose mean is smallest."""
        return int(np.nanargmin(self.means))


def standing(replicates: Sequence[Array], rng: np.random.Generator) -> Standing:
    """The standing given the losses of each contender's replicates. At least one must have a replicate."""
    counts = np.array([len(losses) for losses in replicates], dtype=np.intp)
    means = np.array([losses.mean() if len(losses) else np.nan for losses in replicates])
    deviations, freedom = _moderated(replicates, counts)
    return Standing(
        counts=counts,
        means=means,
        deviations=deviations,
        freedom=freedom,
        probabilities=_probabilities(counts, means, deviations, freedom, rng),
    )


def next_round(now: Standing, most: int) -> NDArray[np.intp]:
    """How many more replicates each contender gets, `most` in all: the first round, then as OCBA would have them."""
    missing = np.maximum(FIRST_ROUND - now.counts, 0)
    if missing.any():
        return _first_come(missing, most)
    target = ocba_shares(now.means, now.deviations) * (now.counts.sum() + most)
    return _rounded(np.maximum(target - now.counts, 0.0), most)


def ocba_shares(means: Array, deviations: Array) -> Array:
    """The shares of all replicates that contenders with these means (k,) and deviations (k,) should have: sum 1."""
    k = len(means)
    if k == 1:
        return np.ones(1)
    deviations = np.where(deviations > 0.0, deviations, 1e-12)
    best = int(np.argmin(means))
    others = np.arange(k) != best
    least = SMALLEST_DIFFERENCE * max(float(deviations.max()), 1e-12)
    ratios = np.zeros(k)
    ratios[others] = (deviations[others] / np.maximum(means[others] - means[best], least)) ** 2
    ratios[best] = deviations[best] * np.sqrt((ratios[others] ** 2 / deviations[others] ** 2).sum())
    shares: Array = ratios / ratios.sum()
    return shares


def student_interval(losses: Array, level: float = 0.95) -> tuple[float, float] | None:
    """Student's interval for the mean of losses (n,); None for fewer than two."""
    n = len(losses)
    if n < 2:
        return None
    half = float(stdtrit(n - 1, (1.0 + level) / 2.0)) * float(losses.std(ddof=1)) / np.sqrt(n)
    return float(losses.mean() - half), float(losses.mean() + half)


def _moderated(replicates: Sequence[Array], counts: NDArray[np.intp]) -> tuple[Array, Array]:
    """Smyth, Statistical Applications in Genetics and Molecular Biology 2004, with a fixed weight of the pooled one."""
    own = np.maximum(counts - 1, 0).astype(np.float64)
    squares = np.array([((losses - losses.mean()) ** 2).sum() if len(losses) > 1 else 0.0 for losses in replicates])
    if own.sum() == 0.0:
        return np.full(len(counts), np.nan), own
    pooled = squares.sum() / own.sum()
    prior = np.minimum(PRIOR_FREEDOM, own.sum() - own)  # what the others bring
    freedom = own + prior
    return np.sqrt((squares + prior * pooled) / np.maximum(freedom, 1.0)), np.maximum(freedom, 1.0)


def _probabilities(
    counts: NDArray[np.intp], means: Array, deviations: Array, freedom: Array, rng: np.random.Generator
) -> Array:
    """P(best) by draws of the means, Student's t around what was seen; equal where nothing is known of the spread."""
    k, seen = len(counts), counts > 0
    if k == 1:
        return np.ones(1)
    if np.isnan(deviations).any():
        return np.where(seen, 1.0, 0.0) / max(int(seen.sum()), 1)
    errors = deviations[seen] / np.sqrt(counts[seen])
    draws = means[seen] + errors * rng.standard_t(freedom[seen], size=(DRAWS, int(seen.sum())))
    probabilities = np.zeros(k)
    probabilities[seen] = np.bincount(draws.argmin(axis=1), minlength=int(seen.sum())) / DRAWS
    return probabilities


def _first_come(missing: NDArray[np.intp], most: int) -> NDArray[np.intp]:
    """What is missing, one to each by turns, the first contender first, until `most` are given."""
    given = np.zeros_like(missing)
    while given.sum() < most and (given < missing).any():
        for i in np.flatnonzero(given < missing):
            if given.sum() < most:
                given[i] += 1
    return given


def _rounded(wanted: Array, most: int) -> NDArray[np.intp]:
    """Whole numbers that add up to `most`, by largest remainders."""
    if wanted.sum() == 0.0:
        wanted = np.ones_like(wanted)
    shares = wanted / wanted.sum() * most
    given = np.floor(shares).astype(np.intp)
    order = np.argsort(-(shares - given), kind="stable")
    given[order[: most - int(given.sum())]] += 1
    return np.asarray(given, dtype=np.intp)
