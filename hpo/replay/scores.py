r"""How good was each method, and is the difference real?

Regret of a run after n choices, with the best loss so far $b_n$ and the least, median and greatest loss of the task:

    min-max regret $(b_n - min) / (max - min)$,   median regret $clip((b_n - min) / (median - min), 0, 1)$.

Every figure is a mean over tasks of a mean over the seeds of a task; tasks are the unit of every interval, for the
seeds of one task say nothing about another. Notation: t tasks, n = budget choices.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from hpo.arrays import Array
from hpo.replay.runs import Run

POINTS = (1, 3, 5, 10, 20, 30)  # choices after which regret is told
RANKED = (5, 10, 30)  # ... and methods are ranked
COMPARED = (5, 10, 25)  # ... and differ
CLOSE = 0.05  # the regret that counts as found
BUCKETS = ((2, 4), (5, 9), (10, 19), (20, None))  # of the number of losses known when an interval was given
DRAWS = 10_000  # of the bootstrap
KINDS = ("minmax", "median")


@dataclass(frozen=True, kw_only=True)
class IntervalScore:
    """How good 90% intervals were when `first` to `last` losses were known."""

    first: int
    last: int | None
    count: int  # intervals
    coverage: float | None  # share that held the loss
    width: float | None  # mean, in units of median - least loss of the task


@dataclass(frozen=True, kw_only=True)
class MethodScore:
    """One method over all tasks."""

    method: str
    tasks: int
    runs: int
    regret: Mapping[str, Mapping[int, float]]  # by kind and number of choices
    trials_to_close: Mapping[str, float]  # by kind; one more than the budget where it was never reached
    reached: Mapping[str, float]  # by kind: the share of runs that came close
    rank: Mapping[int, float]  # by number of choices; 1 is best
    intervals: IntervalScore | None  # None: it gave none
    buckets: Sequence[IntervalScore]
    seconds: Mapping[str, float]  # for a choice: median and 95th percentile


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A method's mean regret less the baseline's: negative is better than the baseline."""

    kind: str
    at: int  # choices
    mean: float
    interval95: tuple[float, float] | None  # None for fewer than two tasks
    p: float | None  # two-sided, from the bootstrap
    p_holm: float | None  # the same for all points of this kind together


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A method beside the baseline, on the same tasks."""

    method: str
    baseline: str
    tasks: int
    differences: Sequence[Difference]
    trials_ratio: Mapping[str, float]  # by kind: mean trials to come close, over the baseline's; above 1 is slower
    trials_ratio_interval95: Mapping[str, tuple[float, float] | None]


def score_methods(runs: Sequence[Run]) -> list[MethodScore]:
    """Every method, in the order in which the runs name them."""
    ranks = _mean_ranks(runs)
    return [_score(method, _of(runs, method), ranks.get(method, {})) for method in methods_of(runs)]


def compare(runs: Sequence[Run], baseline: str) -> list[Comparison]:
    """Every other method beside the baseline, on the tasks that both were run on."""
    return [_comparison(runs, method, baseline) for method in methods_of(runs) if method != baseline]


def methods_of(runs: Sequence[Run]) -> list[str]:
    """The methods in the order in which the runs name them."""
    return list(dict.fromkeys(run.method for run in runs))


def regret(run: Run, kind: str) -> Array:
    """Regret after each choice, shape (n,)."""
    span = run.greatest - run.least if kind == "minmax" else run.median - run.least
    above = run.incumbent - run.least
    if not span > 0:  # half of the rows are as good as the best
        return np.where(above > 0, 1.0, 0.0)
    ratio: Array = np.clip(above / span, 0.0, 1.0)
    return ratio


def trials_to(curve: Array, close: float = CLOSE) -> int:
    """How many choices a curve of regret (n,) took to come so close: n + 1 where it never did."""
    found = np.flatnonzero(curve <= close)
    return int(found[0]) + 1 if len(found) else len(curve) + 1


def curves(runs: Sequence[Run], kind: str) -> Array:
    """Regret of one method, per task the mean over seeds: shape (t, n)."""
    return np.array([np.mean([regret(run, kind) for run in mine], axis=0) for mine in _by_task(runs).values()])


def bootstrap_means(values: Array, seed: int = 0) -> Array:
    """Means over tasks drawn with replacement, of values (t, k): shape (DRAWS, k); always the same draws."""
    rng = np.random.default_rng(seed)
    t = len(values)
    counts = rng.multinomial(t, np.full(t, 1.0 / t), size=DRAWS)
    means: Array = counts @ values / t
    return means


def percentile_interval(draws: Array) -> tuple[float, float]:
    """The middle 95% of draws (s,)."""
    low, high = np.quantile(draws, (0.025, 0.975))
    return float(low), float(high)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values of several questions asked together. Holm, A Simple Sequentially Rejective Procedure, 1979."""
    order = np.argsort(p_values, kind="stable")
    adjusted = np.empty(len(p_values))
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return [float(p) for p in adjusted]


# One method


def _score(method: str, runs: Sequence[Run], rank: Mapping[int, float]) -> MethodScore:
    found = {kind: [regret(run, kind) for run in runs] for kind in KINDS}
    mean_curves = {kind: curves(runs, kind).mean(axis=0) for kind in KINDS}
    given = _intervals(runs)
    seconds = np.concatenate([run.seconds for run in runs])
    return MethodScore(
        method=method,
        tasks=len(_by_task(runs)),
        runs=len(runs),
        regret={kind: {n: float(mean_curves[kind][n - 1]) for n in _within(POINTS, runs)} for kind in KINDS},
        trials_to_close={kind: float(_per_task(runs, _trials(kind)).mean()) for kind in KINDS},
        reached={kind: float(np.mean([curve[-1] <= CLOSE for curve in found[kind]])) for kind in KINDS},
        rank=rank,
        intervals=_interval_score(given, 2, None) if len(given) else None,
        buckets=[_interval_score(given, first, last) for first, last in BUCKETS] if len(given) else [],
        seconds={"p50": float(np.quantile(seconds, 0.5)), "p95": float(np.quantile(seconds, 0.95))},
    )


def _trials(kind: str) -> Callable[[Run], float]:
    return lambda run: float(trials_to(regret(run, kind)))


def _intervals(runs: Sequence[Run]) -> Array:
    """Of each interval: how many losses were known, whether it held the next one, its width. Shape (i, 3)."""
    found = []
    for run in runs:
        unit = run.median - run.least if run.median > run.least else run.greatest - run.least
        for known, (ends, loss) in enumerate(zip(run.intervals, run.losses, strict=True)):
            if ends is not None:
                found.append((known, float(ends[0] <= loss <= ends[1]), (ends[1] - ends[0]) / unit))
    return np.array(found).reshape(-1, 3)


def _interval_score(given: Array, first: int, last: int | None) -> IntervalScore:
    inside = given[(given[:, 0] >= first) & (given[:, 0] <= (np.inf if last is None else last))]
    return IntervalScore(
        first=first,
        last=last,
        count=len(inside),
        coverage=float(inside[:, 1].mean()) if len(inside) else None,
        width=float(inside[:, 2].mean()) if len(inside) else None,
    )


# Several methods


def _mean_ranks(runs: Sequence[Run]) -> dict[str, dict[int, float]]:
    """By method and number of choices; over the tasks and seeds that all methods were run on."""
    methods = methods_of(runs)
    entries: dict[tuple[str, str, str], dict[int, dict[str, Run]]] = {}
    for run in runs:
        entries.setdefault(run.place, {}).setdefault(run.seed, {})[run.method] = run
    found: dict[str, dict[int, float]] = {method: {} for method in methods}
    for n in _within(RANKED, runs):
        per_task = []
        for seeds in entries.values():
            ranks = [
                rankdata([mine[method].incumbent[n - 1] for method in methods])
                for mine in seeds.values()
                if len(mine) == len(methods)
            ]
            if ranks:
                per_task.append(np.mean(ranks, axis=0))
        if per_task:
            for method, rank in zip(methods, np.mean(per_task, axis=0), strict=True):
                found[method][n] = float(rank)
    return found


def _comparison(runs: Sequence[Run], method: str, baseline: str) -> Comparison:
    mine, theirs = _by_task(_of(runs, method)), _by_task(_of(runs, baseline))
    common = [place for place in theirs if place in mine]
    both = [run for place in common for run in (*mine[place], *theirs[place])]
    own, other = _of(both, method), _of(both, baseline)
    differences = []
    ratios: dict[str, float] = {}
    ratio_intervals: dict[str, tuple[float, float] | None] = {}
    for kind in KINDS:
        points = _within(COMPARED, both)
        columns = [n - 1 for n in points]
        paired = curves(own, kind)[:, columns] - curves(other, kind)[:, columns]
        differences += _differences(kind, points, paired)
        trials = np.stack([_per_task(own, _trials(kind)), _per_task(other, _trials(kind))], axis=1)
        ratios[kind] = float(trials[:, 0].mean() / trials[:, 1].mean())
        draws = bootstrap_means(trials)
        enough = len(common) > 1
        ratio_intervals[kind] = percentile_interval(draws[:, 0] / draws[:, 1]) if enough else None
    return Comparison(
        method=method,
        baseline=baseline,
        tasks=len(common),
        differences=differences,
        trials_ratio=ratios,
        trials_ratio_interval95=ratio_intervals,
    )


def _differences(kind: str, points: Sequence[int], paired: Array) -> list[Difference]:
    """The differences of tasks (t, points) in the mean, with what the bootstrap says of them."""
    if len(paired) < 2:
        return [
            Difference(kind=kind, at=n, mean=float(paired[:, j].mean()), interval95=None, p=None, p_holm=None)
            for j, n in enumerate(points)
        ]
    draws = bootstrap_means(paired)
    p_values = [two_sided_p(draws[:, j]) for j in range(len(points))]
    return [
        Difference(
            kind=kind,
            at=n,
            mean=float(paired[:, j].mean()),
            interval95=percentile_interval(draws[:, j]),
            p=p_values[j],
            p_holm=adjusted,
        )
        for j, (n, adjusted) in enumerate(zip(points, holm(p_values), strict=True))
    ]


def two_sided_p(draws: Array) -> float:
    """How rarely bootstrapped means (s,) are on the other side of zero, twice; never quite 0."""
    rarer = min(int((draws <= 0).sum()), int((draws >= 0).sum()))
    return min(1.0, 2.0 * (rarer + 1) / (len(draws) + 1))


def _within(points: Sequence[int], runs: Sequence[Run]) -> list[int]:
    budget = min(run.budget for run in runs)
    return [n for n in points if n <= budget]


def _of(runs: Sequence[Run], method: str) -> list[Run]:
    return [run for run in runs if run.method == method]


def _by_task(runs: Sequence[Run]) -> dict[tuple[str, str, str], list[Run]]:
    found: dict[tuple[str, str, str], list[Run]] = {}
    for run in runs:
        found.setdefault(run.place, []).append(run)
    return found


def _per_task(runs: Sequence[Run], value: Callable[[Run], float]) -> Array:
    """The mean over the seeds of each task, shape (t,)."""
    return np.array([np.mean([value(run) for run in mine]) for mine in _by_task(runs).values()])
