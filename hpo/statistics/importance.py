r"""Which hyperparameters, and which pairs of them, does the outcome depend on, and how sure is that?

Regression trees are fitted to runs and evaluated over a quasi-random design of the whole space, so that where a tuner
looked has no weight of its own. A parameter's importance is the share of the surface's variance that its main effect
explains, a pair's the share of what both do only together: functional ANOVA (Hutter, Hoos and Leyton-Brown, An
Efficient Approach for Assessing Hyperparameter Importance, ICML 2014). A conditional parameter is judged where it is
active.

- With `TASKS_FOR_A_BOOTSTRAP` tasks or more the tasks are the independent units. Each has a surface of its own where it
  has runs enough, and shares are averaged over bootstrap samples of the tasks; else half of the tasks at a time share
  one surface.
- With fewer tasks the runs are the units: each surface comes from half of them.

What halves differ by estimates the error of the whole: of m out of n units without replacement a share varies by
$\sigma^2 (1/m - 1/n)$, of all n by $\sigma^2 / n$ (Politis, Romano and Wolf, Subsampling, 1999).

Notation: n runs, t tasks, d parameters, m points of the design, s surfaces.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, stdtrit

from hpo.arrays import Array
from hpo.statistics.effects import Runs
from hpo.statistics.random_effects import LEVEL

TASKS_FOR_A_BOOTSTRAP = 5
FEWEST_RUNS = 10  # in all, to say anything
RUNS_FOR_A_SURFACE = 30  # of a task, for one of its own (heuristic)
MOST_TASKS = 32  # that have one, evenly chosen
MOST_TASKS_TOGETHER = 1000  # that share one, evenly chosen
BAGS = 20  # of halves
TREES_OF_ALL, TREES_OF_A_BAG, TREES_OF_A_TASK = 48, 4, 10
RUNS_OF_A_TREE = 1200  # at most
LEAST_LEAF = 2  # runs
BOOTSTRAP = 2000  # samples of the tasks
MAIN_BINS, PAIR_BINS = 16, 8  # of a number
PAIRED = 16  # parameters of which pairs are looked at: those with the largest main effects
INACTIVE = -1.0  # as a coordinate
VANISHING = 1e-12


@dataclass(frozen=True, kw_only=True, eq=False)
class Importance:
    """Shares of the outcome's variance."""

    shares: Array  # (d,) of the parameters' main effects
    intervals: Array  # (d, 2) 95%
    pairs: tuple[tuple[int, int], ...]  # the strongest first
    pair_shares: Array  # of those
    pair_intervals: Array  # (·, 2)
    over: Literal["tasks", "trials"]  # what was taken as the independent unit
    tasks: int  # that it comes from
    runs: int


def importance(runs: Runs, design: Array, rng: np.random.Generator) -> Importance | None:
    """The importance of d parameters over a design of the space (m, d), NaN where inactive.

    None where fewer than `FEWEST_RUNS` runs gave a value, or none differs.
    """
    known = np.flatnonzero(np.isfinite(runs.outcomes))
    if len(known) < FEWEST_RUNS or not runs.sizes:
        return None
    every, counts = np.unique(runs.tasks[known], return_counts=True)
    over = _over(len(every))
    ample = every[counts >= RUNS_FOR_A_SURFACE]
    have_their_own = len(ample) >= TASKS_FOR_A_BOOTSTRAP and 2 * len(ample) >= len(every)
    looked_at = _some(ample, MOST_TASKS) if have_their_own else _some(every, MOST_TASKS_TOGETHER)
    known = known[np.isin(runs.tasks[known], looked_at)]
    data = _Data(
        X=_features(runs.points[known], runs.choices),
        y=_in_deviations(runs.outcomes[known]),
        tasks=runs.tasks[known],
        design=design,
        Z=_features(design, runs.choices),
        choices=runs.choices,
    )
    if have_their_own:
        surfaces = [_surface(data, data.rows(task), TREES_OF_A_TASK, rng) for task in looked_at]
        shares, pairs = _shares(np.array(surfaces), design, runs.choices)
        mean, intervals = _bootstrapped(shares, rng)
    elif over == "tasks":
        shares, pairs = _of_halves_of_tasks(data, looked_at, rng)
        taken = len(looked_at) // 2
        mean, intervals = _around(shares[0], shares[1:], taken / (len(looked_at) - taken))
    else:
        shares, pairs = _of_halves_of_runs(data, looked_at, rng)
        most = int(counts.max())
        taken = min(most // 2, RUNS_OF_A_TREE)
        mean, intervals = _around(shares[0], shares[1:], taken / max(most - taken, 1))
    if not np.isfinite(mean).all() or not mean.any():
        return None
    d = len(runs.sizes)
    order = np.argsort(-mean[d:], kind="stable")
    return Importance(
        shares=mean[:d],
        intervals=intervals[:d],
        pairs=tuple(pairs[place] for place in order),
        pair_shares=mean[d:][order],
        pair_intervals=intervals[d:][order],
        over=over,
        tasks=len(looked_at),
        runs=len(data.y),
    )


def _in_deviations(outcomes: Array) -> Array:
    """Outcomes (n,) in standard deviations, which changes no share: what is rounding is the same for every metric."""
    largest = float(np.abs(outcomes).max())
    scaled = outcomes / largest if largest > 0.0 else outcomes
    deviation = float(scaled.std())
    return (scaled - scaled.mean()) / deviation if deviation > 0.0 else np.zeros(len(outcomes))


def _over(tasks: int) -> Literal["tasks", "trials"]:
    return "tasks" if tasks >= TASKS_FOR_A_BOOTSTRAP else "trials"


def _some(tasks: NDArray[np.intp], most: int) -> NDArray[np.intp]:
    """At most so many tasks, at equal distances."""
    return tasks[np.unique(np.linspace(0, len(tasks) - 1, min(len(tasks), most)).astype(np.intp))]


# Surfaces


@dataclass(frozen=True, kw_only=True, eq=False)
class _Data:
    """Runs with a value, and the design, as trees see them."""

    X: NDArray[np.float32]  # (n, ·)
    y: Array  # (n,)
    tasks: NDArray[np.intp]  # (n,) ascending
    design: Array  # (m, d)
    Z: NDArray[np.float32]  # (m, ·)
    choices: tuple[int, ...]

    def rows(self, task: int) -> NDArray[np.intp]:
        return np.arange(np.searchsorted(self.tasks, task), np.searchsorted(self.tasks, task, side="right"))


def _features(points: Array, choices: Sequence[int]) -> NDArray[np.float32]:
    """What trees split: a number's coordinate, and each choice."""
    columns = []
    for x, count in zip(points.T, choices, strict=True):
        if count > 2:
            columns += [(x == choice).astype(np.float32) for choice in range(count)]
        else:
            columns.append(np.where(np.isnan(x), INACTIVE, x).astype(np.float32))
    return np.ascontiguousarray(np.stack(columns, axis=1))


def _surface(data: _Data, rows: NDArray[np.intp], trees: int, rng: np.random.Generator) -> Array:
    """The mean of trees, each fitted to a bootstrap sample of the rows, at the design: shape (m,)."""
    from sklearn.tree import DecisionTreeRegressor  # noqa: PLC0415 - 90 MB that nothing else needs

    total = np.zeros(len(data.Z))
    for _ in range(trees):
        sample = rows[rng.integers(len(rows), size=min(len(rows), RUNS_OF_A_TREE))]
        tree = DecisionTreeRegressor(min_samples_leaf=LEAST_LEAF, random_state=int(rng.integers(1 << 31)))
        tree.fit(data.X[sample], data.y[sample], check_input=False)
        total += tree.predict(data.Z, check_input=False)
    surface: Array = total / trees
    return surface


def _of_halves_of_tasks(
    data: _Data, tasks: NDArray[np.intp], rng: np.random.Generator
) -> tuple[Array, list[tuple[int, int]]]:
    """Shares by all tasks, then in each bag."""
    surfaces = [_surface(data, np.arange(len(data.y)), TREES_OF_ALL, rng)]
    for _ in range(BAGS):
        half = rng.permutation(tasks)[: len(tasks) // 2]
        surfaces.append(_surface(data, np.flatnonzero(np.isin(data.tasks, half)), TREES_OF_A_BAG, rng))
    return _shares(np.array(surfaces), data.design, data.choices)


def _of_halves_of_runs(
    data: _Data, tasks: NDArray[np.intp], rng: np.random.Generator
) -> tuple[Array, list[tuple[int, int]]]:
    """Shares by all runs, then in each bag, averaged over the tasks."""
    surfaces = []
    for task in tasks:
        rows = data.rows(task)
        surfaces.append(_surface(data, rows, TREES_OF_ALL, rng))
        taken = max(min(len(rows) // 2, RUNS_OF_A_TREE), 1)
        surfaces += [_surface(data, rng.permutation(rows)[:taken], TREES_OF_A_BAG, rng) for _ in range(BAGS)]
    shares, pairs = _shares(np.array(surfaces), data.design, data.choices)
    return _mean_over(shares.reshape(len(tasks), BAGS + 1, -1)), pairs


def _mean_over(shares: Array) -> Array:
    known = np.isfinite(shares)
    count = known.sum(0)
    mean: Array = np.where(count > 0, np.where(known, shares, 0.0).sum(0) / np.maximum(count, 1), np.nan)
    return mean


# Their variance, and what explains it


def _shares(surfaces: Array, design: Array, choices: Sequence[int]) -> tuple[Array, list[tuple[int, int]]]:
    """Per surface (s, m) the shares of main effects, then of the pairs that are returned: shape (s, d + ·)."""
    total = surfaces.var(axis=1)
    scaled = surfaces - surfaces.mean(axis=1, keepdims=True)
    mains = np.stack([_main(scaled, _bins(x, count, MAIN_BINS)) for x, count in zip(design.T, choices, strict=True)], 1)
    largest = np.sort(np.argsort(-mains.mean(0), kind="stable")[:PAIRED])
    pairs = [(int(i), int(j)) for i, j in combinations(largest, 2)]
    coarse = {int(j): _bins(design[:, j], choices[j], PAIR_BINS) for j in largest}
    together = [_interaction(scaled, coarse[i], coarse[j]) for i, j in pairs]
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = (
            np.concatenate([mains, np.array(together).reshape(len(pairs), len(surfaces)).T], axis=1) / total[:, None]
        )
    return np.where(total[:, None] > VANISHING, shares, np.nan), pairs


def _bins(x: Array, count: int, bins: int) -> NDArray[np.intp]:
    """The bin of each point, -1 where inactive."""
    if count:
        return np.where(np.isnan(x), -1, np.nan_to_num(x)).astype(np.intp)
    return np.where(np.isnan(x), -1, np.clip(np.floor(np.nan_to_num(x) * bins), 0, bins - 1)).astype(np.intp)


def _means(surfaces: Array, bins: NDArray[np.intp]) -> tuple[Array, Array]:
    """The mean of each surface in each bin that holds points (s, b), and their shares of all points (b,)."""
    present, place = np.unique(bins, return_inverse=True)
    member = np.zeros((len(bins), len(present)))
    member[np.arange(len(bins)), place] = 1.0
    counts = member.sum(0)
    means, weights = surfaces @ member / counts, counts / len(bins)
    is_active = present >= 0
    return means[:, is_active], weights[is_active]


def _main(surfaces: Array, bins: NDArray[np.intp]) -> Array:
    """The variance of the main effect (s,), about the mean of where the parameter is active."""
    means, weights = _means(surfaces, bins)
    if not len(weights):
        return np.zeros(len(surfaces))
    centre = (means * weights).sum(1, keepdims=True) / weights.sum()
    variance: Array = (weights * (means - centre) ** 2).sum(1)
    return variance


def _interaction(surfaces: Array, first: NDArray[np.intp], second: NDArray[np.intp]) -> Array:
    """The variance of what two parameters do only together (s,), where both are active."""
    active = np.flatnonzero((first >= 0) & (second >= 0))
    if not len(active):
        return np.zeros(len(surfaces))
    F, a, b = surfaces[:, active], first[active], second[active]
    A, B = a.max() + 1, b.max() + 1
    means, weights = _means(F, a * B + b)
    present = np.unique(a * B + b)
    rows, columns = np.zeros((len(present), A)), np.zeros((len(present), B))
    rows[np.arange(len(present)), present // B] = 1.0
    columns[np.arange(len(present)), present % B] = 1.0
    centre = (means * weights).sum(1, keepdims=True)
    of_row = (means * weights) @ rows / np.maximum(weights @ rows, 1e-300)
    of_column = (means * weights) @ columns / np.maximum(weights @ columns, 1e-300)
    rest = means - of_row @ rows.T - of_column @ columns.T + centre
    total = (F**2).mean(1)
    by_chance = (len(present) - A - B + 1) / len(active) * np.maximum(total - (weights * means**2).sum(1), 0.0)
    variance: Array = np.maximum((weights * rest**2).sum(1) - by_chance, 0.0) * len(active) / surfaces.shape[1]
    return variance


# How sure


def _around(whole: Array, bags: Array, ratio: float) -> tuple[Array, Array]:
    """The shares (c,) with 95% intervals, from those in bags (g, c); ratio: variance of the whole over a bag's."""
    known = bags[np.isfinite(bags).all(axis=1)]
    if len(known) < 2:
        return whole, np.full((len(whole), 2), np.nan)
    half = stdtrit(len(known) - 1, (1 + LEVEL) / 2) * known.std(0, ddof=1) * np.sqrt(ratio)
    return whole, np.clip(np.stack([whole - half, whole + half], axis=-1), 0.0, 1.0)


def _bootstrapped(shares: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """Means over tasks (t, c), and percentile intervals expanded as Student's are for few tasks (Hesterberg 2015)."""
    known = shares[np.isfinite(shares).all(axis=1)]
    t = len(known)
    if t < 2:
        return np.full(shares.shape[1], np.nan), np.full((shares.shape[1], 2), np.nan)
    weights = rng.multinomial(t, np.full(t, 1.0 / t), size=BOOTSTRAP) / t
    tail = float(ndtr(-np.sqrt(t / (t - 1)) * stdtrit(t - 1, (1 + LEVEL) / 2)))
    ends = np.quantile(weights @ known, [tail, 1.0 - tail], axis=0)
    return known.mean(0), ends.T
