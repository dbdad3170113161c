r"""Which past tasks rank the rows as the new task does? Their mixture says what to try next (RGPE).

Feurer, Letham and Bakshy, Scalable Meta-Learning for Bayesian Optimization using Ranking-Weighted Gaussian Process
Ensembles, AutoML workshop at ICML 2018, with their rule against weight dilution.

Notation: t sources, s joint draws, n rows tried, m rows. Losses are standardised within each task. The loss of a draw
is the number of pairs of tried rows that it puts in the wrong order; a source weighs the share of draws in which its
loss is the smallest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hpo.arrays import Array
from hpo.replay.problem import Choice, Problem
from hpo.statistics.loss_scale import LossScale
from hpo.surrogates.acquisition import log_expected_improvement
from hpo.surrogates.gaussian_process import GaussianProcess, cholesky, fit_kernel
from tests.benchmarks.rivals.past_models import DRAWS, PastModel, past_models
from tests.benchmarks.rivals.rows import at_trial, best_untried, interval90, random_untried

LEAST_FOR_A_TARGET = 3  # rows, before the new task has a process of its own: of two, one is left to predict the other


class RGPE:
    """The rank-weighted mixture of one Gaussian process per past task and one of the new task."""

    name = "rgpe"

    def begin(self, problem: Problem, seed: int) -> RankWeighted:
        """Start on a problem; the seed decides the draws of the new task's process."""
        return RankWeighted(problem=problem, sources=past_models(problem), seed=seed)


@dataclass(frozen=True, kw_only=True, eq=False)
class RankWeighted:
    """RGPE on one problem."""

    problem: Problem
    sources: Sequence[PastModel]
    seed: int

    def choose(self, rows: Sequence[int], losses: Array) -> Choice:
        """The untried row of the best mixed mean at first, then of the largest expected improvement."""
        rng = at_trial(self.problem, self.seed, rows)
        if len(rows) >= LEAST_FOR_A_TARGET:
            return self._most_improving(list(rows), losses, rng)
        if not self.sources:
            return Choice(row=random_untried(len(self.problem.points), rows, rng))
        weights = shares_of_smallest(self._misordered(list(rows), losses))
        return Choice(row=best_untried(-weights @ np.array([source.mean for source in self.sources]), rows))

    def _most_improving(self, rows: list[int], losses: Array, rng: np.random.Generator) -> Choice:
        scale = LossScale.of(losses)
        X, y = self.problem.points[rows], scale.standardise(losses)
        kernel = fit_kernel([(X, y)], self.problem.encoding.categorical, rng, restarts=1)
        target = GaussianProcess(X=X, y=y, kernel=kernel)
        weights = self._weights(target, rows, losses, rng)
        predicted = [(source.mean, source.std) for source in self.sources] + [target.predict(self.problem.points)]
        means, stds = (np.array(parts) for parts in zip(*predicted, strict=True))
        mean, std = weights @ means, np.sqrt(weights**2 @ stds**2)
        row = best_untried(log_expected_improvement(mean, std, float(mean[rows].min())), rows)
        spread = np.sqrt(weights @ (stds[:, row] ** 2 + (means[:, row] - mean[row]) ** 2) + kernel.noise)
        return Choice(row=row, interval90=interval90(scale, float(mean[row]), float(spread)))

    def _weights(self, target: GaussianProcess, rows: list[int], losses: Array, rng: np.random.Generator) -> Array:
        """Of the sources and the target, shape (t + 1,); sources clearly worse than the target are left out."""
        own = misordered_by_itself(target, losses, rng)
        theirs = self._misordered(rows, losses)
        useless = np.median(theirs, axis=1) > np.quantile(own, 0.95)
        theirs = np.where(useless[:, None], np.inf, theirs)
        # the target wins ties
        return shares_of_smallest(np.vstack([theirs, own - 0.5]))

    def _misordered(self, rows: list[int], losses: Array) -> Array:
        """Pairs of tried rows in the wrong order, per source and draw: shape (t, s)."""
        total = np.zeros((len(self.sources), DRAWS))
        draws = np.array([source.draws[:, rows] for source in self.sources]).reshape(
            len(self.sources), DRAWS, len(rows)
        )
        for i in range(1, len(rows)):
            truth = losses[i] < losses[:i]
            total += ((draws[:, :, i, None] < draws[:, :, :i]) != truth).sum(axis=2)
        return total


def shares_of_smallest(misordered: Array) -> Array:
    """How often each of the rows (t, s) is the smallest of its column, ties shared: shape (t,), sums to 1."""
    smallest = misordered == misordered.min(axis=0)
    shares: Array = (smallest / smallest.sum(axis=0)).mean(axis=1)
    return shares


def misordered_by_itself(target: GaussianProcess, losses: Array, rng: np.random.Generator) -> Array:
    """Pairs that the new task's process gets wrong when it predicts one of them without having seen it: shape (s,).

    Each ordered pair of a draw from the leave-one-out prediction and a seen loss counts half.
    Leave-one-out by Rasmussen and Williams 2006, eq. 5.12.
    """
    n = len(losses)
    factor = cholesky(target.kernel.covariance(target.X, target.X) + target.kernel.noise * np.eye(n))
    inverse = np.linalg.inv(factor @ factor.T)
    variance = 1.0 / np.diag(inverse)
    draws = target.y - (inverse @ target.y) * variance + rng.standard_normal((DRAWS, n)) * np.sqrt(variance)
    wrong: NDArray[np.bool_] = (draws[:, :, None] < target.y) != (losses[:, None] < losses)
    wrong[:, np.arange(n), np.arange(n)] = False
    return wrong.sum(axis=(1, 2)) / 2.0
