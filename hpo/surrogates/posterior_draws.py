r"""What may the losses of a task be, at as many points as one likes? Functions drawn from a Gaussian process.

A draw is a function from the prior, made of F random features, moved to where the task was observed:

    $f(x) = \phi(x)^T w + k(x, X) (K + noise)^{-1} (y - \Phi w - \epsilon)$,
    $w \sim N(0, I)$, $\epsilon \sim N(0, noise)$,

so m points cost m (n + F), and not m^3 (Wilson et al., Efficiently Sampling Functions from Gaussian Process Posteriors,
ICML 2020). The features of the Matern-5/2 kernel are cosines with frequencies from a Student t distribution with 5
degrees of freedom (Rahimi and Recht, Random Features for Large-Scale Kernel Machines, NeurIPS 2007). A choice is a
corner of a simplex, for the kernel counts a categorical difference as one.

Notation: n observations, m points, d parameters, F features, s draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_solve

from hpo.arrays import Array
from hpo.surrogates.gaussian_process import Kernel, cholesky

FEATURES = 256
BLOCK = 256  # points at a time: what is small stays in the processor's cache
STUDENT_FREEDOM = 5.0  # of the spectrum of a Matern-5/2 kernel


@dataclass(frozen=True, kw_only=True, eq=False)
class Features:
    """Random features of a kernel, shared by all tasks that share the kernel."""

    kernel: Kernel
    choices: Sequence[Array]  # per categorical parameter the coordinates that its choices may have
    frequencies: Array  # (e, F), over the embedded points
    phases: Array  # (F,)

    @classmethod
    def draw(cls, kernel: Kernel, choices: Sequence[Array], rng: np.random.Generator) -> Features:
        """New features.

        choices: per categorical parameter of the kernel, in its order, every coordinate that occurs.
        """
        size = int((~kernel.categorical).sum()) + sum(map(len, choices))
        widths = np.sqrt(STUDENT_FREEDOM / rng.chisquare(STUDENT_FREEDOM, FEATURES))
        return cls(
            kernel=kernel,
            choices=choices,
            frequencies=rng.standard_normal((size, FEATURES)) * widths,
            phases=rng.uniform(0.0, 2.0 * np.pi, FEATURES),
        )

    def at(self, points: Array) -> Array:
        """The features of points (m, d): shape (m, F)."""
        angles = self._embedded(points) @ self.frequencies + self.phases
        angles -= 2.0 * np.pi * np.round(angles / (2.0 * np.pi))  # single precision does for what is small
        scale = np.sqrt(2.0 * self.kernel.scale / FEATURES)
        return np.asarray(scale * np.cos(angles.astype(np.float32)), dtype=np.float64)

    def _embedded(self, points: Array) -> Array:
        numeric = ~self.kernel.categorical
        parts = [points[:, numeric] / self.kernel.lengthscales[numeric]]
        for j, choices in zip(np.flatnonzero(self.kernel.categorical), self.choices, strict=True):
            corners = points[:, j, None] == choices
            parts.append(corners / (np.sqrt(2.0) * self.kernel.lengthscales[j]))
        return np.hstack(parts)


@dataclass(frozen=True, kw_only=True, eq=False)
class PosteriorDraws:
    """Functions drawn from the posterior of one task."""

    features: Features
    X: Array  # (n, d)
    prior: Array  # (F, s) weights of the features
    levels: Array  # (s,)
    update: Array  # (n, s)
    alpha: Array  # (n,) of the mean

    @classmethod
    def of(cls, features: Features, X: Array, y: Array, count: int, rng: np.random.Generator) -> PosteriorDraws:
        """So many draws, given X (n, d) and y (n,) of prior mean zero."""
        kernel, n = features.kernel, len(y)
        factor = (cholesky(kernel.covariance(X, X) + kernel.noise * np.eye(n)), True)
        prior = rng.standard_normal((FEATURES, count))
        levels = np.sqrt(kernel.level) * rng.standard_normal(count)
        imagined = features.at(X) @ prior + levels + np.sqrt(kernel.noise) * rng.standard_normal((n, count))
        return cls(
            features=features,
            X=X,
            prior=prior,
            levels=levels,
            update=cho_solve(factor, y[:, None] - imagined, check_finite=False),
            alpha=cho_solve(factor, y, check_finite=False),
        )

    def mean(self, points: Array) -> Array:
        """The posterior mean at points (m, d): shape (m,)."""
        return self._moved_by(points, self.alpha)

    def at(self, points: Array) -> Array:
        """Every draw at points (m, d): shape (m, s)."""
        blocks = [self.features.at(points[start : start + BLOCK]) @ self.prior for start in _starts(points)]
        return np.concatenate(blocks) + self.levels + self._moved_by(points, self.update)

    def _moved_by(self, points: Array, weights: Array) -> Array:
        kernel = self.features.kernel
        blocks = [kernel.covariance(points[start : start + BLOCK], self.X) @ weights for start in _starts(points)]
        return np.concatenate(blocks)


def _starts(points: Array) -> range:
    return range(0, len(points), BLOCK)
