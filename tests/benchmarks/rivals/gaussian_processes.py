"""A Gaussian process on the new task alone, after three kinds of start: what a tuner with history must beat.

`plain-gp` starts with rows far from each other, `plain-gp+portfolio` with four rows that cover the past tasks,
`history-mean` with what the past tasks say on average, which stays the process's prior mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from hpo.arrays import Array, Mask
from hpo.priors.portfolio import greedy_cover, normalised_regret
from hpo.replay.problem import Choice, Problem
from hpo.statistics.loss_scale import LossScale
from hpo.surrogates.acquisition import log_expected_improvement
from hpo.surrogates.gaussian_process import GaussianProcess, fit_kernel
from tests.benchmarks.rivals.past_models import PastModel, mean_of_past, past_models
from tests.benchmarks.rivals.rows import RowChooser, at_trial, best_untried, farthest_untried, interval90

FIRST_ROWS = 4
LEAST_SPREAD = (
    0.3  # of the history's mean at the rows tried, where the new task's losses are put on its scale; heuristic
)


class PlainGP:
    """Four rows far from each other, then expected improvement under one kernel of maximum posterior."""

    name = "plain-gp"

    def begin(self, problem: Problem, seed: int) -> RowChooser:
        """Start on a problem; the seed decides the first rows."""
        return RowChooser(next_row=partial(self._next, problem, seed))

    def _next(self, problem: Problem, seed: int, rows: Sequence[int], losses: Array) -> Choice:
        categorical, rng = problem.encoding.categorical, at_trial(problem, seed, rows)
        if len(rows) < FIRST_ROWS:
            return Choice(row=farthest_untried(problem.points, categorical, rows, rng))
        return most_improving(problem.points, categorical, rows, losses, rng)


class GPPortfolio:
    """Four rows of a greedy portfolio, then as the plain process: the honest baseline of tuning with history."""

    name = "plain-gp+portfolio"

    def begin(self, problem: Problem, seed: int) -> RowChooser:
        """Start on a problem; the seed decides only where the fit of the kernel starts."""
        models = past_models(problem)
        first = portfolio(models, FIRST_ROWS) if models else []
        return RowChooser(next_row=partial(self._next, problem, first, seed))

    def _next(self, problem: Problem, first: Sequence[int], seed: int, rows: Sequence[int], losses: Array) -> Choice:
        categorical, rng = problem.encoding.categorical, at_trial(problem, seed, rows)
        if len(rows) < FIRST_ROWS:
            left = [row for row in first if row not in set(rows)]
            return Choice(row=left[0] if left else farthest_untried(problem.points, categorical, rows, rng))
        return most_improving(problem.points, categorical, rows, losses, rng)


class HistoryMean:
    """The past tasks' mean as prior mean of a Gaussian process (the simplest of what HyperBO learns).

    Wang et al., Pre-trained Gaussian Processes for Bayesian Optimization, JMLR 2024, with the average of one process
    per past task for the mean and a stationary kernel fitted to the new task.
    """

    name = "history-mean"

    def begin(self, problem: Problem, seed: int) -> RowChooser:
        """Start on a problem; the seed decides only where the fit of the kernel starts."""
        models = past_models(problem)
        mean = mean_of_past(models) if models else None
        return RowChooser(next_row=partial(self._next, problem, mean, seed))

    def _next(self, problem: Problem, mean: Array | None, seed: int, rows: Sequence[int], losses: Array) -> Choice:
        categorical, rng = problem.encoding.categorical, at_trial(problem, seed, rows)
        if mean is None and len(rows) < FIRST_ROWS:
            return Choice(row=farthest_untried(problem.points, categorical, rows, rng))
        if mean is not None and not rows:
            return Choice(row=int(np.argmin(mean)))
        return most_improving(problem.points, categorical, rows, losses, rng, prior_mean=mean)


def portfolio(models: Sequence[PastModel], count: int) -> list[int]:
    """Rows one by one, each the best addition to those before for the past tasks (Wistuba et al., ICDM 2015)."""
    regret = normalised_regret(np.array([model.best_known for model in models]))
    return greedy_cover(regret, np.ones(len(models)), count)[0]


def most_improving(
    points: Array,
    categorical: Mask,
    rows: Sequence[int],
    losses: Array,
    rng: np.random.Generator,
    *,
    prior_mean: Array | None = None,
) -> Choice:
    """The untried row of the largest expected improvement, under a kernel fitted to what was tried.

    prior_mean: (m,) at all rows, in standard deviations of a task's losses. The new task's are put on that scale by
    their mean and spread at the rows tried: a few good rows do not look like the whole task.
    """
    tried = list(rows)
    scale = LossScale.of(losses)
    y = scale.standardise(losses)
    shift, spread, mean = 0.0, 1.0, np.zeros(len(points))
    if prior_mean is not None:
        mean = prior_mean
        shift, spread = float(mean[tried].mean()), max(float(mean[tried].std()), LEAST_SPREAD)
    y = shift + spread * y
    residual = y - mean[tried]
    kernel = fit_kernel([(points[tried], residual)], categorical, rng, restarts=1)
    change, std = GaussianProcess(X=points[tried], y=residual, kernel=kernel).predict(points)
    row = best_untried(log_expected_improvement(mean + change, std, float(y.min())), rows)
    if len(rows) < 2:
        return Choice(row=row)  # one loss has no scale
    expected, deviation = (mean[row] + change[row] - shift) / spread, np.hypot(std[row], np.sqrt(kernel.noise)) / spread
    return Choice(row=row, interval90=interval90(scale, float(expected), float(deviation)))
