r"""What do past tasks say about a new one, and how sure is that?

Every past task has a Gaussian process on its own scale. At a point x it gives a posterior $(\mu_t, s_t^2)$ from the
prior N(0, 1), which is worth one measurement $y_t = \mu_t / (1 - s_t^2)$ with variance $v_t = s_t^2 / (1 - s_t^2)$.
Tasks differ from what they have in common, g(x) ~ N(0, 1), by a variance $\tau^2$:

    $g | history \sim N(m, 1 / P)$, $P = 1 + \sum_t w_t / (v_t + \tau^2)$, $m = \sum_t w_t y_t / (v_t + \tau^2) / P$.

The new task is then a Gaussian process with mean m and covariance
    $\sigma(x) \sigma(x') k(x, x') + b^2 m(x) m(x') + a^2$, $\sigma^2 = 1 / P + \tau^2$:
near to history where history is sure, nothing but a prior where it knows nothing; b and a leave slope and level open.

Notation: t past tasks, n observations, m points, c candidate scales.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular

from hpo.arrays import Array
from hpo.gaussian_process import GaussianProcess, Kernel, cholesky
from hpo.priors.portfolio import PastTask
from hpo.statistics.loss_scale import LossScale

DEVIATIONS = (0.15, 0.35, 0.7)  # tau: how far a task is from what it has in common with others
SLOPE = 0.3  # b, heuristic
LEVEL = 0.5  # a, heuristic
LEAST_NOISE = 1e-2  # variance
STRETCHES = (1 / 3, 1.0, 3.0)  # of a past scale whose centre moves to where the new losses are
SHIFT = 2.0  # spreads by which the centre of a new task may well differ


@dataclass(frozen=True, kw_only=True, eq=False)
class Outlook:
    """What past tasks say at some points, as measurements."""

    values: Array  # (t, m)
    variances: Array  # (t, m)
    weights: Array  # (t,)

    def pooled(self, deviation: float) -> tuple[Array, Array]:
        """Mean and standard deviation of a new task's losses: shapes (m,), (m,)."""
        precisions = self.precisions(deviation)
        total = 1.0 + precisions.sum(0)
        return (precisions * self.values).sum(0) / total, np.sqrt(1.0 / total + deviation**2)

    def at(self, rows: NDArray[np.intp]) -> Outlook:
        """At some of the points."""
        return Outlook(values=self.values[:, rows], variances=self.variances[:, rows], weights=self.weights)

    def forgotten(self) -> Outlook:
        """As if the tasks had said nothing."""
        return Outlook(values=self.values, variances=self.variances, weights=np.zeros_like(self.weights))

    def precisions(self, deviation: float) -> Array:
        """What every task adds, shape (t, m)."""
        precisions: Array = self.weights[:, None] / (self.variances + deviation**2)
        return precisions


@dataclass(frozen=True, kw_only=True, eq=False)
class History:
    """The past tasks and the kernel that they share."""

    tasks: Sequence[PastTask]
    kernel: Kernel

    def look(self, points: Array) -> Outlook:
        """What the tasks say at points (m, d)."""
        predictions = [process.predict(points) for process in self._processes]
        means = np.array([mean for mean, _ in predictions]).reshape(len(predictions), len(points))
        squares = np.array([std for _, std in predictions]).reshape(means.shape) ** 2
        squares = np.clip(squares, 1e-9, 1.0 - 1e-9)
        return Outlook(
            values=means / (1.0 - squares),
            variances=squares / (1.0 - squares),
            weights=np.array([task.weight for task in self.tasks]),
        )

    def closest(self, X: Array, losses: Array, count: int) -> NDArray[np.intp]:
        """The `count` tasks that order the observations X (n, d), losses (n,) most alike; the latest of equals."""
        if len(self.tasks) <= count:
            return np.arange(len(self.tasks))
        agreement = np.array([rank_accuracy(process.mean(X), losses) for process in self._processes])
        order = np.lexsort((-np.arange(len(self.tasks)), -agreement))
        return order[:count]

    def only(self, chosen: NDArray[np.intp]) -> History:
        """Some of the tasks."""
        return History(tasks=[self.tasks[t] for t in chosen], kernel=self.kernel)

    @cached_property
    def _processes(self) -> list[GaussianProcess]:
        return [GaussianProcess(X=task.X, y=task.y, kernel=self.kernel) for task in self.tasks]


@dataclass(frozen=True, kw_only=True, eq=False)
class HistoryProcess:
    """The posterior of a new task under one deviation, for several scales at once."""

    X: Array  # (n, d)
    Z: Array  # (n, c) losses, standardised by each scale
    kernel: Kernel
    deviation: float
    outlook: Outlook  # at X

    def log_evidence(self) -> Array:
        """Log density of the standardised losses, shape (c,)."""
        half = solve_triangular(self._factor, self._residuals, lower=True, check_finite=False)
        n = len(self.X)
        evidence: Array = -0.5 * (half**2).sum(0) - np.log(np.diag(self._factor)).sum() - 0.5 * n * np.log(2.0 * np.pi)
        return evidence

    def predict(self, points: Array, outlook: Outlook) -> tuple[Array, Array]:
        """Means (c, m) and standard deviation (m,) of the noiseless losses at points (m, d)."""
        mean, std = outlook.pooled(self.deviation)
        own_mean, own_std = self._prior
        cross = np.outer(own_std, std) * self.kernel.correlation(self.X, points)
        cross += SLOPE**2 * np.outer(own_mean, mean) + LEVEL**2
        half = solve_triangular(self._factor, cross, lower=True, check_finite=False)
        variance = std**2 + SLOPE**2 * mean**2 + LEVEL**2 - (half**2).sum(0)
        return mean + self._alpha.T @ cross, np.sqrt(np.maximum(variance, 1e-10))

    def believing(self, points: Array, outlook: Outlook) -> HistoryProcess:
        """As if the evaluations running at points (p, d) had come out as expected."""
        means, _ = self.predict(points, outlook)
        both = Outlook(
            values=np.hstack([self.outlook.values, outlook.values]),
            variances=np.hstack([self.outlook.variances, outlook.variances]),
            weights=outlook.weights,
        )
        return HistoryProcess(
            X=np.vstack([self.X, points]),
            Z=np.vstack([self.Z, means.T]),
            kernel=self.kernel,
            deviation=self.deviation,
            outlook=both,
        )

    def keeping(self, columns: NDArray[np.intp]) -> HistoryProcess:
        """With some of its scales only."""
        return HistoryProcess(
            X=self.X, Z=self.Z[:, columns], kernel=self.kernel, deviation=self.deviation, outlook=self.outlook
        )

    @property
    def noise(self) -> float:
        """The variance of the noise."""
        return max(self.kernel.noise, LEAST_NOISE)

    @cached_property
    def _prior(self) -> tuple[Array, Array]:
        return self.outlook.pooled(self.deviation)

    @cached_property
    def _residuals(self) -> Array:
        return self.Z - self._prior[0][:, None]

    @cached_property
    def _factor(self) -> Array:
        mean, std = self._prior
        covariance = np.outer(std, std) * self.kernel.correlation(self.X, self.X)
        covariance += SLOPE**2 * np.outer(mean, mean) + LEVEL**2
        return cholesky(covariance + self.noise * np.eye(len(self.X)))

    @cached_property
    def _alpha(self) -> Array:
        half = solve_triangular(self._factor, self._residuals, lower=True, check_finite=False)
        return np.asarray(solve_triangular(self._factor, half, lower=True, trans="T", check_finite=False))


def candidate_scales(losses: Array, expected: Array, past: Sequence[LossScale]) -> tuple[list[LossScale], Array]:
    """Scales that the raw losses (n,) may have, and their log prior weights (c,).

    Those of past tasks; and those moved to where the losses are, given the `expected` standardised ones (n,), with a
    spread of the same order.
    """
    scales: list[LossScale] = []
    weights: list[float] = []
    for scale in past:
        scales.append(scale)
        weights.append(-np.log(2.0 * len(past)))
        straight = scale.straightened(expected)
        for stretch in STRETCHES:
            spread = stretch * scale.spread
            centre = float(np.median(losses - spread * straight))
            scales.append(LossScale(centre=centre, spread=spread, mean=scale.mean, deviation=scale.deviation))
            shift = (centre - scale.centre) / (SHIFT * scale.spread)
            weights.append(-np.log(2.0 * len(past) * len(STRETCHES)) - np.log1p(shift**2) - 0.5 * np.log(len(losses)))
    return scales, np.array(weights)


def rank_accuracy(expected: Array, losses: Array) -> float:
    """The share of pairs that both order alike; one half where there is nothing to order."""
    upper = np.triu_indices(len(losses), 1)
    signs = np.sign(expected[:, None] - expected[None, :]) * np.sign(losses[:, None] - losses[None, :])
    return float(0.5 + 0.5 * signs[upper].mean()) if len(upper[0]) else 0.5
