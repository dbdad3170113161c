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
DRAWS = 1_500
TAUS = np.geomspace(0.03, 8.0, 14)  # how much contenders differ, in standard deviations of one replicate
SMALLEST_DEVIATION = 1e-9  # relative to the losses: replicates that are all alike


@dataclass(frozen=True, kw_only=True, eq=False)
class Standing:
    """How the contenders stand after some replicates."""

    counts: NDArray[np.intp]  # (k,)
    means: Array  # (k,) NaN without a replicate
    deviations: Array  # (k,) moderated standard deviations of one replicate; NaN where nobody has two
    freedom: Array  # (k,) degrees of freedom of those
    probabilities: Array  # (k,) that a contender is the best of those that have a replicate
    losses: Array  # (k,) expected: the means, drawn together as far as chance may have parted them; NaN as above
    intervals: Array  # (k, 2) 95% for them

    @property
    def leader(self) -> int:
        """Whose mean is smallest."""
        return int(np.nanargmin(self.means))


def standing(replicates: Sequence[Array], rng: np.random.Generator) -> Standing:
    """The standing given the losses of each contender's replicates.

    Where nobody has two, nothing is known of the spread, and all with one are equally likely to be the best. Where
    nobody has any, there is no leader, and all probabilities are zero.
    """
    k = len(replicates)
    counts = np.array([len(losses) for losses in replicates], dtype=np.intp)
    means = np.array([losses.mean() if len(losses) else np.nan for losses in replicates])
    deviations, freedom = _moderated(replicates, counts)
    seen = counts > 0
    probabilities, losses, intervals = seen / max(seen.sum(), 1), means.copy(), np.full((k, 2), np.nan)
    if seen.sum() == 1:
        interval = student_interval(replicates[int(np.flatnonzero(seen)[0])])
        intervals[seen] = np.nan if interval is None else interval
    elif not np.isnan(deviations).any():
        draws = _true_losses(counts[seen], means[seen], deviations[seen], freedom[seen], rng)
        probabilities[seen] = np.bincount(draws.argmin(axis=1), minlength=int(seen.sum())) / DRAWS
        losses[seen], intervals[seen] = draws.mean(axis=0), np.quantile(draws, (0.025, 0.975), axis=0).T
    return Standing(
        counts=counts,
        means=means,
        deviations=deviations,
        freedom=freedom,
        probabilities=probabilities,
        losses=losses,
        intervals=intervals,
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


def _true_losses(
    counts: NDArray[np.intp], means: Array, deviations: Array, freedom: Array, rng: np.random.Generator
) -> Array:
    r"""Draws (`DRAWS`, k) of the contenders' losses, which are alike as far as the replicates do not part them.

    $m_i \sim N(\theta_i, \sigma_i^2 / n_i)$, $\theta_i \sim N(\mu, \tau^2)$, flat in $\mu$, half normal in $\tau$ with
    the scale of one replicate's deviation (Gelman et al., Bayesian Data Analysis, 3rd ed., section 5.4). Without that,
    who is ahead by luck stands out too soon: one looks again after every round, and at several contenders.
    """
    deviations = np.maximum(deviations, SMALLEST_DEVIATION * (1.0 + np.abs(means).max()))
    variances = deviations**2 * freedom / rng.chisquare(freedom, size=(DRAWS, len(means))) / counts
    typical = float(np.sqrt(np.mean(deviations**2)))
    taus = typical * TAUS
    total = variances[:, None, :] + taus[:, None] ** 2  # (s, g, k)
    precision = 1.0 / total
    centre = (precision * means).sum(axis=2) / precision.sum(axis=2)
    log_odds = -0.5 * (np.log(total) + (means - centre[:, :, None]) ** 2 * precision).sum(axis=2)
    log_odds -= 0.5 * np.log(precision.sum(axis=2)) + 0.5 * TAUS**2 - np.log(np.gradient(TAUS))
    chosen = np.argmax(log_odds + rng.gumbel(size=log_odds.shape), axis=1)
    rows = np.arange(DRAWS)
    mu = centre[rows, chosen] + rng.standard_normal(DRAWS) / np.sqrt(precision[rows, chosen].sum(axis=1))
    between = taus[chosen, None] ** 2
    weight = between / (between + variances)
    spread = np.sqrt(weight * variances)
    draws: Array = mu[:, None] + weight * (means - mu[:, None]) + spread * rng.standard_normal(variances.shape)
    return draws


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
