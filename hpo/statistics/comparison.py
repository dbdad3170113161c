r"""Is one way better than another, judged by pairs of losses that were measured under the same circumstances?

Notation: n pairs, differences $d_i = a_i - b_i$ of losses: below zero, a is better.

- effect: the Hodges-Lehmann estimate (the median of the Walsh averages $(d_i + d_j) / 2$, i <= j) with the interval
  that inverts Wilcoxon's signed-rank test (Hollander, Wolfe and Chicken, Nonparametric Statistical Methods, 3rd ed.,
  section 3.2-3.3). Below `FEWEST_FOR_RANKS` pairs no such interval of 95% exists: the mean with Student's.
- test: all sign changes of the differences where they are few (exact for any distribution that is symmetric under the
  null hypothesis), by the sum of signed ranks; Wilcoxon's normal form beyond.
- unpaired: Welch's t for the difference of means, with the permutation test beside it.
- several comparisons at once: Holm, Scandinavian Journal of Statistics 1979.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats
from scipy.special import ndtri

from hpo.arrays import Array

LEVEL, POWER = 0.95, 0.8
FEWEST = 3  # pairs, below which there is no interval
FEWEST_FOR_A_CLAIM = (
    5  # pairs, or values a side: Student's t of fewer rests on nothing but the normal distribution (heuristic)
)
FEWEST_FOR_RANKS = 6  # pairs: the smallest number with which Wilcoxon's test reaches p < .05 on both sides
EXACT_PAIRS = 13  # up to here all 2^n sign changes are looked at, whatever is tied
EXACT_WITHOUT_TIES = 50
RANK_EFFICIENCY = 0.955  # of Wilcoxon's test against Student's where differences are normal (3 / pi)
MOST_NEEDED = 10_000
PERMUTATIONS = 9_999


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How a compares with b."""

    n: int  # pairs; of an unpaired comparison the smaller sample
    is_paired: bool
    effect: float | None  # of the losses, a less b: below zero, a is better
    interval: tuple[float, float] | None  # 95%
    effect_name: str
    test: str
    p: float | None
    superiority: float | None  # P(a better than b) + P(tie) / 2, of a pair
    is_enough: bool  # whether there are pairs enough, and interval and test exclude no difference
    needed: int | None  # pairs that would probably be enough for an effect of this size; None: unknown or too many
    is_constant: bool = False  # whether unpaired sides do not vary, so that nothing tells what chance does to them


def compare_pairs(a: Array, b: Array) -> Comparison:
    """Compare losses (n,) that belong together pair by pair; pairs that are not finite are left out."""
    known = np.isfinite(a) & np.isfinite(b)
    d = (a - b)[known]
    n = len(d)
    superiority = float(np.mean((d < 0) + 0.5 * (d == 0))) if n else None
    if n < FEWEST:
        effect = float(d.mean()) if n else None
        return _nothing(n, is_paired=True, effect=effect, superiority=superiority)
    if not d.any():
        return Comparison(
            n=n,
            is_paired=True,
            effect=0.0,
            interval=None,
            effect_name="all pairs are equal",
            test="none",
            p=1.0,
            superiority=0.5,
            is_enough=False,
            needed=None,
        )
    if n < FEWEST_FOR_RANKS:
        effect, interval = float(d.mean()), _student(d)
        name, test, p = "mean difference", "paired t", _t_test(d)
    else:
        effect, interval = hodges_lehmann(d)
        name, test, p = "Hodges-Lehmann", *signed_rank_test(d)
    excludes_zero = interval is not None and not interval[0] <= 0.0 <= interval[1]
    is_enough = n >= FEWEST_FOR_A_CLAIM and excludes_zero and p < 1.0 - LEVEL
    return Comparison(
        n=n,
        is_paired=True,
        effect=effect,
        interval=interval,
        effect_name=name,
        test=test,
        p=p,
        superiority=superiority,
        is_enough=is_enough,
        needed=None if is_enough else pairs_needed(d),
    )


def compare_samples(a: Array, b: Array, rng: np.random.Generator) -> Comparison:
    """Compare losses (na,) and (nb,) that have nothing to do with each other."""
    a, b = a[np.isfinite(a)], b[np.isfinite(b)]
    n = min(len(a), len(b))
    if not n:
        return _nothing(0, is_paired=False, effect=None, superiority=None)
    superiority = float(np.mean((a[:, None] < b) + 0.5 * (a[:, None] == b)))
    effect = float(a.mean() - b.mean())
    is_constant = not (np.ptp(a) or np.ptp(b))
    if n < FEWEST or is_constant:
        return _nothing(
            n, is_paired=False, effect=effect, superiority=superiority, is_constant=is_constant and n >= FEWEST
        )
    welch = stats.ttest_ind(a, b, equal_var=False).confidence_interval(LEVEL)
    interval = float(welch.low), float(welch.high)
    p = _permutation_p(a, b, rng)
    is_enough = n >= FEWEST_FOR_A_CLAIM and not interval[0] <= 0.0 <= interval[1] and p < 1.0 - LEVEL
    return Comparison(
        n=n,
        is_paired=False,
        effect=effect,
        interval=interval,
        effect_name="mean difference",
        test="permutation",
        p=p,
        superiority=superiority,
        is_enough=is_enough,
        needed=None if is_enough else _needed(effect, float(a.var(ddof=1) + b.var(ddof=1)), n),
    )


def hodges_lehmann(d: Array) -> tuple[float, tuple[float, float] | None]:
    """The Hodges-Lehmann estimate of differences (n,) and its 95% interval; None where n is too small for one."""
    i, j = np.triu_indices(len(d))
    walsh = np.sort((d[i] + d[j]) / 2.0)
    rank = _critical_rank(len(d))
    interval = None if rank < 1 else (float(walsh[rank - 1]), float(walsh[len(walsh) - rank]))
    return float(np.median(walsh)), interval


def signed_rank_test(d: Array) -> tuple[str, float]:
    """Which test of no difference was made on differences (n,), some of them not zero, and its two-sided p."""
    d = d[d != 0.0]
    if len(d) > EXACT_PAIRS:
        is_exact = len(d) <= EXACT_WITHOUT_TIES and len(np.unique(np.abs(d))) == len(d)
        method = "exact" if is_exact else "asymptotic"
        return f"Wilcoxon{', exact' * is_exact}", float(stats.wilcoxon(d, method=method, correction=True).pvalue)
    ranks = stats.rankdata(np.abs(d)) * np.sign(d)
    signs = 1 - 2 * ((np.arange(2 ** len(d))[:, None] >> np.arange(len(d))) & 1)
    sums = np.abs(signs @ np.abs(ranks))
    return "Wilcoxon, exact", float(np.mean(sums >= abs(ranks.sum()) - 1e-9))


def pairs_needed(d: Array) -> int | None:
    """Pairs with which an effect as large as that of differences (n,) would be seen 8 times of 10."""
    return _needed(float(d.mean()), float(d.var(ddof=1)), len(d))


def holm(p: Sequence[float]) -> list[float]:
    """The p values, adjusted so that any false claim among them is as rare as one alone."""
    order = np.argsort(p, kind="stable")
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(np.maximum.accumulate(np.array(p)[order] * np.arange(len(p), 0, -1)), 1.0)
    return [float(each) for each in adjusted]


def _needed(effect: float, variance: float, n: int) -> int | None:
    """From the normal approximation, at least one more than there are."""
    if effect == 0.0 or variance == 0.0:
        return None
    z = float(ndtri((1.0 + LEVEL) / 2.0) + ndtri(POWER))
    needed = int(np.ceil(z**2 * variance / effect**2 / RANK_EFFICIENCY)) + 1
    return None if needed > MOST_NEEDED else max(needed, n + 1, FEWEST_FOR_A_CLAIM)


def _nothing(
    n: int, *, is_paired: bool, effect: float | None, superiority: float | None, is_constant: bool = False
) -> Comparison:
    return Comparison(
        n=n,
        is_paired=is_paired,
        effect=effect,
        interval=None,
        effect_name="mean difference",
        test="none",
        p=None,
        superiority=superiority,
        is_enough=False,
        needed=FEWEST_FOR_RANKS if n < FEWEST_FOR_RANKS else None,
        is_constant=is_constant,
    )


def _student(d: Array) -> tuple[float, float] | None:
    if not np.ptp(d):
        return None
    found = stats.ttest_1samp(d, 0.0).confidence_interval(LEVEL)
    return float(found.low), float(found.high)


def _t_test(d: Array) -> float:
    return float(stats.ttest_1samp(d, 0.0).pvalue) if np.ptp(d) else 1.0


def _critical_rank(n: int) -> int:
    """The largest c with P(W+ < c) <= 2.5% under no difference: the c-th Walsh average from either end is the limit."""
    if n > EXACT_WITHOUT_TIES:
        mean, sd = n * (n + 1) / 4.0, np.sqrt(n * (n + 1) * (2 * n + 1) / 24.0)
        return int(np.floor(mean + float(ndtri((1.0 - LEVEL) / 2.0)) * sd))
    ways = np.zeros(n * (n + 1) // 2 + 1)
    ways[0] = 1.0
    for rank in range(1, n + 1):
        ways[rank:] += ways[:-rank].copy()
    cumulative = np.cumsum(ways) / 2.0**n
    return int(np.searchsorted(cumulative, (1.0 - LEVEL) / 2.0, side="right"))


def _permutation_p(a: Array, b: Array, rng: np.random.Generator) -> float:
    both, na = np.concatenate([a, b]), len(a)
    seen = abs(a.mean() - b.mean())
    shuffled = rng.permuted(np.tile(both, (PERMUTATIONS, 1)), axis=1)
    differences = np.abs(shuffled[:, :na].mean(axis=1) - shuffled[:, na:].mean(axis=1))
    return float((1 + np.sum(differences >= seen - 1e-12 * max(seen, 1.0))) / (PERMUTATIONS + 1))
