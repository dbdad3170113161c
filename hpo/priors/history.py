r"""What do past tasks say about a new one, and how sure is that?

Every past task has a Gaussian process on its own scale. At a point x it gives a posterior $(\mu_t, s_t^2)$ from the
prior N(0, 1), which is worth one measurement $y_t = \mu_t / (1 - s_t^2)$ with variance $v_t = s_t^2 / (1 - s_t^2)$.
Tasks differ from what they have in common, g(x) ~ N(0, 1), by a variance $\tau^2$:

    $g | history \sim N(m, 1 / P)$, $P = 1 + \sum_t w_t / (v_t + \tau^2)$, $m = \sum_t w_t y_t / (v_t + \tau^2) / P$.

The new task is then a Gaussian process with mean m and covariance
    $\sigma(x) \sigma(x') k(x, x') + b^2 m(x) m(x') + a^2 + \lambda \sum_t w_t D_t(x) D_t(x') / (\sum_t w_t - 1)$,
    $\sigma^2 = 1 / P + \tau^2$, $D_t = (1 - s_t^2) (y_t - m)$:
near to history where history is sure, nothing but a prior where it knows nothing; b and a leave slope and level open;
and it may differ from the mean in the directions in which past tasks do, by their empirical covariance (that is how
Wang et al., Pre-trained Gaussian Processes for Bayesian Optimization, JMLR 2024, learn a prior from tasks that were
measured at the same points). Which $\tau$, b, a, $\lambda$ are to be believed is learned in `hpo.priors.beliefs`.

Notation: t past tasks, n observations, m points, c candidate scales.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.blas import dtrmm

from hpo.arrays import Array, keys
from hpo.priors.portfolio import PastTask
from hpo.statistics.loss_scale import LossScale, LossScales
from hpo.surrogates.gaussian_process import Kernel, cholesky, extended_inverse, inverse_lower
from hpo.surrogates.process_stack import ProcessStack

LEAST_NOISE = 1e-2  # variance
STRETCHES = (1 / 3, 1.0, 3.0)  # of a past scale whose centre moves to where the new losses are
SHIFT = 2.0  # spreads by which the centre of a new task may well differ


@dataclass(frozen=True, kw_only=True)
class Belief:
    """One way in which a new task may be related to the past ones."""

    deviation: float  # tau: how far a task is, point by point, from what it has in common with others
    slope: float  # b: how much steeper or flatter it may be than their mean
    level: float  # a: how much higher or lower
    kinship: float  # lambda: 1 where it differs from their mean as they do, 0 where their differences say nothing


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

    def departures(self, mean: Array) -> Array:
        """How the tasks depart from their pooled mean (m,): D, shape (t, m), such that D'D is their covariance."""
        known = 1.0 / (1.0 + self.variances)  # the share of a departure that a task's own trials show
        freedom = max(float(self.weights.sum()) - 1.0, 1.0)
        departures: Array = np.sqrt(self.weights / freedom)[:, None] * known * (self.values - mean)
        return departures

    def at(self, rows: NDArray[np.intp]) -> Outlook:
        """At some of the points."""
        return Outlook(values=self.values[:, rows], variances=self.variances[:, rows], weights=self.weights)

    def without(self, task: int) -> Outlook:
        """As if one task had not been there."""
        weights = self.weights.copy()
        weights[task] = 0.0
        return Outlook(values=self.values, variances=self.variances, weights=weights)

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
    often: Array = field(default_factory=lambda: np.empty((0, 0)))  # (o, d) points looked at again and again

    def look(self, points: Array) -> Outlook:
        """What the tasks say at points (m, d)."""
        places = np.array([self._places.get(key, -1) for key in keys(points)], dtype=np.intp)
        new = places < 0
        if new.all():
            return self._looked_at(points)
        known = self._often.at(places)
        if new.any():
            fresh = self._looked_at(points[new])
            known.values[:, new], known.variances[:, new] = fresh.values, fresh.variances
        return known

    def _looked_at(self, points: Array) -> Outlook:
        means, squares = self._processes.predict(points)
        squares = np.clip(squares, 1e-9, 1.0 - 1e-9)
        return Outlook(
            values=means / (1.0 - squares),
            variances=squares / (1.0 - squares),
            weights=np.array([task.weight for task in self.tasks]),
        )

    @cached_property
    def _often(self) -> Outlook:
        return self._looked_at(self.often)

    @cached_property
    def _places(self) -> dict[bytes, int]:
        return {key: place for place, key in enumerate(keys(self.often))}

    @cached_property
    def _processes(self) -> ProcessStack:
        return ProcessStack.of([task.process(self.kernel) for task in self.tasks])


@dataclass(frozen=True, kw_only=True, eq=False)
class HistoryProcess:
    """The posterior of a new task under one belief, for several scales at once."""

    X: Array  # (n, d)
    Z: Array  # (n, c) losses, standardised by each scale
    kernel: Kernel
    belief: Belief
    outlook: Outlook  # at X
    begun: HistoryProcess | None = None  # the same without the last observations, where that has been worked out

    def log_evidence(self) -> Array:
        """Log density of the standardised losses, shape (c,)."""
        inverse_factor, n = self._inverse_factor, len(self.X)
        log_determinant = -np.log(np.diag(inverse_factor)).sum()
        evidence: Array = -0.5 * ((inverse_factor @ self._residuals) ** 2).sum(0)
        evidence -= log_determinant + 0.5 * n * np.log(2.0 * np.pi)
        return evidence

    def predict(self, points: Array, outlook: Outlook) -> tuple[Array, Array]:
        """Means (c, m) and standard deviation (m,) of the noiseless losses at points (m, d)."""
        there = self._prior_at(outlook)
        cross = self._prior.covariance(there, self.kernel.correlation(self.X, points))
        means = there.mean + self._alpha.T @ cross
        half = dtrmm(1.0, self._inverse_factor, cross.T, side=1, lower=1, trans_a=1, overwrite_b=1)
        variance = there.variance - np.einsum("ij,ij->i", half, half)
        return means, np.sqrt(np.maximum(variance, 1e-10))

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
            belief=self.belief,
            outlook=both,
            begun=self,
        )

    def keeping(self, columns: NDArray[np.intp]) -> HistoryProcess:
        """With some of its scales only."""
        return replace(self, Z=self.Z[:, columns], begun=self)

    def at(self, rows: NDArray[np.intp]) -> HistoryProcess:
        """Given some of the observations only."""
        return HistoryProcess(
            X=self.X[rows], Z=self.Z[rows], kernel=self.kernel, belief=self.belief, outlook=self.outlook.at(rows)
        )

    @property
    def noise(self) -> float:
        """The variance of the noise."""
        return max(self.kernel.noise, LEAST_NOISE)

    def _prior_at(self, outlook: Outlook) -> _Prior:
        mean, std = outlook.pooled(self.belief.deviation)
        return _Prior(belief=self.belief, mean=mean, std=std, departures=outlook.departures(mean))

    @cached_property
    def _prior(self) -> _Prior:
        return self._prior_at(self.outlook)

    @cached_property
    def _residuals(self) -> Array:
        return self.Z - self._prior.mean[:, None]

    @cached_property
    def _inverse_factor(self) -> Array:
        """The inverse Cholesky factor of the covariance with noise, shape (n, n)."""
        known = 0 if self.begun is None else len(self.begun.X)
        if self.begun is not None and known == len(self.X):
            return self.begun._inverse_factor
        prior, X = self._prior.at(slice(known, None)), self.X[known:]
        covariance = prior.covariance(prior, self.kernel.correlation(X, X))
        covariance.flat[:: len(X) + 1] += self.noise
        if self.begun is None:
            return inverse_lower(cholesky(covariance))
        cross = prior.covariance(self.begun._prior, self.kernel.correlation(X, self.begun.X))
        return extended_inverse(self.begun._inverse_factor, cross, covariance)

    @cached_property
    def _alpha(self) -> Array:
        alpha: Array = self._inverse_factor.T @ (self._inverse_factor @ self._residuals)
        return alpha


@dataclass(frozen=True, kw_only=True, eq=False)
class _Prior:
    """A new task at some points, before any of its losses."""

    belief: Belief
    mean: Array  # (m,)
    std: Array  # (m,)
    departures: Array  # (t, m)

    def at(self, columns: slice) -> _Prior:
        """At some of the points."""
        return _Prior(
            belief=self.belief,
            mean=self.mean[columns],
            std=self.std[columns],
            departures=self.departures[:, columns],
        )

    def covariance(self, other: _Prior, correlation: Array) -> Array:
        """With the same task at other points, given the kernel's correlation (m, m')."""
        covariance: Array = np.outer(self.std, other.std)
        covariance *= correlation
        covariance += self.belief.slope**2 * np.outer(self.mean, other.mean) + self.belief.level**2
        if self.belief.kinship:
            covariance += self.belief.kinship * self.departures.T @ other.departures
        return covariance

    @property
    def variance(self) -> Array:
        """At each point, shape (m,)."""
        belief = self.belief
        variance: Array = self.std**2 + belief.slope**2 * self.mean**2 + belief.level**2
        if belief.kinship:
            variance = variance + belief.kinship * (self.departures**2).sum(0)
        return variance


def candidate_scales(losses: Array, expected: Array, past: Sequence[LossScale]) -> tuple[LossScales, Array]:
    """Scales that the raw losses (n,) may have, and their log prior weights (c,).

    Those of past tasks; and those moved to where the losses are, given the `expected` standardised ones (n,), with a
    spread of the same order.
    """
    known = LossScales.of(past)
    straight = known.straightened(expected[:, None])
    parts, weights = [known], [np.full(len(past), -np.log(2.0 * len(past)))]
    for stretch in STRETCHES:
        spreads = stretch * known.spreads
        centres = np.median(losses[:, None] - spreads * straight, axis=0)
        parts.append(replace(known, centres=centres, spreads=spreads))
        shifts = (centres - known.centres) / (SHIFT * known.spreads)
        weights.append(-np.log(2.0 * len(past) * len(STRETCHES)) - np.log1p(shifts**2) - 0.5 * np.log(len(losses)))
    return LossScales.together(parts), np.concatenate(weights)
