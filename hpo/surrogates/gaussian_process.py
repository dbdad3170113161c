r"""What do a few evaluations say about all the others? A Gaussian process with a Matern-5/2 kernel.

Notation
    n, m, d     observations, candidates, parameters
    X           (n, d) points; numbers in units of their range, categories as an index
    y           (n,) standardised losses (smaller is better), prior mean zero
    r^2         sum_j (x_j - x'_j)^2 / l_j^2, where a categorical difference counts as 0 (same) or 1 (other)
    k(x, x')    (1 + sqrt(5) r + 5/3 r^2) exp(-sqrt(5) r)
    l, noise    length scales (d,) and noise variance: their maximum a posteriori, or samples of their posterior
    scale       variance of the process around its mean; one for the maximum, integrated out for the samples
    level       variance of that mean, a constant; zero for the maximum
    L, alpha    Cholesky factor of K + noise I, and (K + noise I)^-1 y, with K = scale k + level

Rasmussen and Williams, Gaussian Processes for Machine Learning, MIT Press 2006, chapters 2 and 5.
Priors: log l_j ~ N(sqrt 2 + log(d) / 2, 3), so that distances do not concentrate as d grows
(Hvarfner et al., Vanilla Bayesian Optimization Performs Great in High Dimensions, ICML 2024); log noise ~ N(-4, 1).
One kernel fitted to a few trials is overconfident, samples are less so: they have log l_j ~ N(log(sqrt(d) / 2), 1), of
the values tried the best on average over four tables of tuning runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.linalg.blas import dtrmm
from scipy.linalg.lapack import dpotri, dtrtri, dtrtrs
from scipy.optimize import minimize
from scipy.special import gammaln

from hpo.arrays import Array, Mask

Floats = TypeVar("Floats", NDArray[np.float32], NDArray[np.float64])
Observations: TypeAlias = tuple[Array, Array]  # X (n, d), y (n,)

NOISE_MEAN, NOISE_DEVIATION = -4.0, 1.0  # of the log noise variance, as in BoTorch 0.12
LENGTHSCALE_DEVIATION = np.sqrt(3.0)  # Hvarfner et al. 2024
LOG_LENGTHSCALE_BOUNDS = (np.log(0.01), np.log(100.0))  # beyond them the kernel does not change
LOG_NOISE_BOUNDS = (np.log(1e-6), np.log(1.0))
SAMPLED_LENGTHSCALE, SAMPLED_DEVIATION = 0.5, 1.0  # median in units of sqrt d, and deviation of the log: where sampled
KIN_DEVIATION = 0.5  # of the log length scales around those of past tasks
LEVEL = 1.0  # prior variance of the mean loss, in units of the output scale
SCALE_SHAPE = 3.0  # of the output scale's inverse gamma prior, around 1
SMALLEST_ARC = 1e-3  # radians
JITTERS = (0.0, 1e-8, 1e-6, 1e-4)  # added to the diagonal until the Cholesky factor exists
BLOCK = 1 << 15  # covariances at a time: they stay in the processor's cache


@dataclass(frozen=True, kw_only=True, eq=False)
class Kernel:
    """The hyperparameters of a Gaussian process."""

    lengthscales: Array  # (d,), > 0
    noise: float  # variance, > 0
    categorical: Mask  # (d,)
    scale: float = 1.0  # variance around the level, > 0
    level: float = 0.0  # variance of the level, a constant

    @classmethod
    def prior_mode(cls, categorical: Mask) -> Kernel:
        """What is most likely before any data: where a fit starts, and what it falls back to."""
        mode = _prior_mode(len(categorical))
        return cls(lengthscales=np.exp(mode[:-1]), noise=float(np.exp(mode[-1])), categorical=categorical)

    def covariance(self, A: Array, B: Array) -> Array:
        """Prior covariance between the points A (a, d) and B (b, d): shape (a, b)."""
        covariance = self.correlation(A, B)
        covariance *= self.scale
        covariance += self.level
        return covariance

    def correlation(self, A: Array, B: Array) -> Array:
        """How alike the losses at A (a, d) and B (b, d) are, 1 at the same point: shape (a, b)."""
        return matern(self._squared_distances(A, B))

    def _squared_distances(self, A: Array, B: Array) -> Array:
        numeric = ~self.categorical
        a, b = A[:, numeric] / self.lengthscales[numeric], B[:, numeric] / self.lengthscales[numeric]
        squared: Array = -2.0 * a @ b.T
        squared += (a**2).sum(1)[:, None]
        squared += (b**2).sum(1)[None, :]
        for j in np.flatnonzero(self.categorical):
            squared += (A[:, j, None] != B[None, :, j]) / self.lengthscales[j] ** 2
        np.maximum(squared, 0.0, out=squared)
        return squared


@dataclass(frozen=True, kw_only=True, eq=False)
class GaussianProcess:
    """The posterior given observations; an update makes a new one."""

    X: Array  # (n, d)
    y: Array  # (n,)
    kernel: Kernel
    begun: GaussianProcess | None = None  # the same without the last observations, where that has been worked out

    def mean(self, points: Array) -> Array:
        """Posterior mean at points (m, d): shape (m,)."""
        mean: Array = self.kernel.covariance(points, self.X) @ self.alpha
        return mean

    def predict(self, points: Array) -> tuple[Array, Array]:
        """Posterior mean and standard deviation of the noiseless loss at points (m, d): shapes (m,), (m,)."""
        mean, explained = np.empty(len(points)), np.empty(len(points))
        together = max(1, BLOCK // len(self.X))
        for start in range(0, len(points), together):
            block = slice(start, start + together)
            cross = self.kernel.covariance(points[block], self.X)
            mean[block] = cross @ self.alpha
            half = dtrmm(1.0, self.inverse_factor, cross.T, lower=1, overwrite_b=1)
            explained[block] = np.einsum("ij,ij->j", half, half)
        variance = self.kernel.scale + self.kernel.level - explained
        return mean, np.sqrt(np.maximum(variance, 1e-10))

    def joint(self, points: Array) -> tuple[Array, Array]:
        """Posterior mean (m,) and covariance (m, m) of the noiseless losses at points (m, d)."""
        cross = self.kernel.covariance(points, self.X)
        half = self.inverse_factor @ cross.T
        return cross @ self.alpha, self.kernel.covariance(points, points) - half.T @ half

    def believing_its_mean(self, pending: Array) -> GaussianProcess:
        """As if the evaluations running at `pending` (p, d) had come out as expected, so that no other goes there.

        Ginsbourger et al., Kriging Is Well-Suited to Parallelize Optimization, 2010 (the kriging believer).
        """
        if not len(pending):
            return self
        return GaussianProcess(
            X=np.vstack([self.X, pending]),
            y=np.concatenate([self.y, self.mean(pending)]),
            kernel=self.kernel,
            begun=self,
        )

    @cached_property
    def inverse_factor(self) -> Array:
        """The inverse of L, shape (n, n): for many points a product is several times faster than a solution."""
        if self.begun is None:
            return inverse_lower(cholesky(self._with_noise(self.X)))
        return extended_inverse(
            self.begun.inverse_factor,
            self.kernel.covariance(self.X[len(self.begun.X) :], self.begun.X),
            self._with_noise(self.X[len(self.begun.X) :]),
        )

    @cached_property
    def alpha(self) -> Array:
        """(K + noise I)^-1 y."""
        alpha: Array = self.inverse_factor.T @ (self.inverse_factor @ self.y)
        return alpha

    def _with_noise(self, points: Array) -> Array:
        covariance = self.kernel.covariance(points, points)
        covariance.flat[:: len(points) + 1] += self.kernel.noise
        return covariance


def fit_kernel(
    tasks: Sequence[Observations], categorical: Mask, rng: np.random.Generator, *, restarts: int = 2
) -> Kernel:
    """The kernel of the largest posterior density, shared by independent `tasks` (one of them for a plain fit).

    L-BFGS on the logarithms, from the prior's mode and `restarts` draws around it; the mode where no start ends well.
    """
    observed = [(_Pairs.of(X, categorical), y) for X, y in tasks if len(y)]
    mode = _prior_mode(len(categorical))
    starts = [mode, *(mode + rng.normal(0.0, 1.0, (restarts, len(mode))))]
    bounds = [LOG_LENGTHSCALE_BOUNDS] * len(categorical) + [LOG_NOISE_BOUNDS]
    best, best_loss = mode, np.inf
    for start in starts:
        result = minimize(
            _negative_log_posterior,
            np.clip(start, *np.transpose(bounds)),
            args=(observed,),
            jac=True,
            method="L-BFGS-B",
            bounds=bounds,
            options={"maxiter": 60},
        )
        if np.isfinite(result.fun) and result.fun < best_loss:
            best, best_loss = result.x, float(result.fun)
    return Kernel(lengthscales=np.exp(best[:-1]), noise=float(np.exp(best[-1])), categorical=categorical)


def sample_kernels(
    X: Array,
    y: Array,
    rng: np.random.Generator,
    *,
    start: Kernel,
    count: int = 8,
    steps: int = 3,
    like: Kernel | None = None,
) -> list[Kernel]:
    """Kernels from their posterior given one task's X (n, d), y (n,).

    Elliptical slice sampling (Murray, Adams and MacKay, AISTATS 2010), one of every `steps` kept.
    start: the likeliest kernel. like: one that is usual for such tasks, the centre of a narrower prior.
    """
    categorical = start.categorical
    pairs, prior = _Pairs.of(X, categorical), _sampling_prior(len(categorical), like)
    theta = np.append(np.log(start.lengthscales), np.log(start.noise))
    log_evidence = _log_evidence(theta, pairs, y)[0]
    kernels: list[Kernel] = []
    for step in range(1, count * steps + 1):
        theta, log_evidence, scale = _slice_step(theta, log_evidence, prior, pairs, y, rng)
        if step % steps == 0:
            lengthscales, noise = np.exp(theta[:-1]), float(scale * np.exp(theta[-1]))
            kernels.append(
                Kernel(
                    lengthscales=lengthscales, noise=noise, categorical=categorical, scale=scale, level=scale * LEVEL
                )
            )
    return kernels


def _slice_step(  # noqa: PLR0917
    theta: Array, log_evidence: float, prior: tuple[Array, Array], pairs: _Pairs, y: Array, rng: np.random.Generator
) -> tuple[Array, float, float]:
    """One step along an ellipse through `theta` and a draw from the prior; with its log evidence and output scale."""
    location, deviation = prior
    direction = deviation * rng.standard_normal(len(theta))
    threshold = log_evidence + np.log1p(-rng.random())
    angle = rng.uniform(0.0, 2.0 * np.pi)
    low, high = angle - 2.0 * np.pi, angle
    while True:
        moved = location + (theta - location) * np.cos(angle) + direction * np.sin(angle)
        log_evidence, scale = _log_evidence(moved, pairs, y)
        if log_evidence > threshold:
            return moved, log_evidence, scale
        if high - low < SMALLEST_ARC:  # numerically at `theta`
            return theta, *_log_evidence(theta, pairs, y)
        low, high = (angle, high) if angle < 0.0 else (low, angle)
        angle = rng.uniform(low, high)


def cholesky(covariance: Array) -> Array:
    """The lower Cholesky factor of a covariance (n, n), with the least jitter that makes it exist.

    Only the lower triangle is read.
    """
    for jitter in JITTERS:
        try:
            tried = covariance + jitter * np.eye(len(covariance)) if jitter else covariance
            return np.asarray(np.linalg.cholesky(tried), dtype=np.float64)
        except np.linalg.LinAlgError:
            continue
    eigenvalues, vectors = np.linalg.eigh(covariance)
    _, upper = np.linalg.qr((vectors * np.sqrt(np.maximum(eigenvalues, JITTERS[-1]))).T)
    factor: Array = (upper * np.sign(np.diag(upper))[:, None]).T
    return factor


def inverse_lower(factor: Array) -> Array:
    """The inverse of a lower triangular matrix (n, n), column by column in memory, as BLAS wants it."""
    inverse, _ = dtrtri(factor, lower=1)
    return np.asarray(inverse, dtype=np.float64)


def extended_inverse(inverse: Array, cross: Array, covariance: Array) -> Array:
    r"""The inverse Cholesky factor (n + p, n + p) of a covariance that has p more rows, given that of the first n.

    cross: (p, n) of the new rows with the first. covariance: (p, p) of the new rows.
    With $A = K_{21} L_{11}^{-T}$ and $L_{22} L_{22}^T = K_{22} - A A^T$, the new rows are
    $(-L_{22}^{-1} A L_{11}^{-1}, L_{22}^{-1})$.
    """
    n, p = len(inverse), len(covariance)
    half = cross @ inverse.T
    last = inverse_lower(cholesky(covariance - half @ half.T))
    extended = np.zeros((n + p, n + p), order="F")
    extended[:n, :n] = inverse
    extended[n:, :n] = -last @ (half @ inverse)
    extended[n:, n:] = last
    return extended


def matern(squared: Floats, correlation: Floats | None = None) -> Floats:
    """The correlation at squared distances r^2, any shape, in their own precision.

    The array of squared distances is used up; the result has one of its own, unless there is one for it.
    """
    squared *= 5.0  # in place from here on: most of the time of a proposal is spent here
    root: Floats = np.sqrt(squared, out=squared)
    correlation = np.divide(root, 3.0, out=correlation)
    correlation += 1.0
    correlation *= root
    correlation += 1.0
    np.negative(root, out=root)
    np.exp(root, out=root)
    correlation *= root
    return correlation


@dataclass(frozen=True, kw_only=True, eq=False)
class _Pairs:
    """The pairs of n observations, each once."""

    squared: Array  # (p, d) their squared difference in every parameter
    below: NDArray[np.intp]  # (p,) their places in a matrix (n, n), row by row, below its diagonal
    count: int  # n

    @classmethod
    def of(cls, X: Array, categorical: Mask) -> _Pairs:
        one, other = np.tril_indices(len(X), -1)
        difference = X[one] - X[other]
        squared = np.where(categorical, difference != 0.0, difference**2)
        return cls(squared=squared, below=one * len(X) + other, count=len(X))

    def lower(self, values: Array, diagonal: float) -> Array:
        """The lower triangle (n, n) of a matrix with these values (p,) and one value on its diagonal."""
        matrix = np.zeros(self.count**2)
        matrix[self.below] = values
        matrix[:: self.count + 1] = diagonal
        return matrix.reshape(self.count, self.count)


def _negative_log_posterior(theta: Array, observed: Sequence[tuple[_Pairs, Array]]) -> tuple[float, Array]:
    r"""$-\log p(\theta) - \sum_{tasks} \log p(y | X, \theta)$ and its gradient.

    $\theta = (\log l_1, \dots, \log l_d, \log noise)$. Per task $\log p = -y^T \alpha / 2 - \sum_i \log L_{ii}$,
    with gradient $tr((\alpha \alpha^T - K^{-1}) \partial K) / 2$, negated here, and
    $\partial k / \partial \log l_j = 5/3 (1 + \sqrt 5 r) e^{-\sqrt 5 r} (x_j - x'_j)^2 / l_j^2$.
    """
    value, gradient = _negative_log_prior(theta)
    precisions, noise = np.exp(-2.0 * theta[:-1]), np.exp(theta[-1])
    for pairs, y in observed:
        root = np.sqrt(5.0 * (pairs.squared @ precisions))
        decay = np.exp(-root)
        L = cholesky(pairs.lower((1.0 + root + root**2 / 3.0) * decay, 1.0 + noise))
        inverse, _ = dpotri(L.T)  # the upper triangle, column by column in memory: the lower one, row by row
        alpha = _solve_upper(L, _solve_lower(L, y))
        slack = (inverse.T - np.outer(alpha, alpha)).ravel()[pairs.below]
        value += 0.5 * float(y @ alpha) + float(np.log(np.diag(L)).sum())
        weighted = slack * (5.0 / 3.0) * (1.0 + root) * decay
        gradient[:-1] += (weighted @ pairs.squared) * precisions
        gradient[-1] += 0.5 * (np.trace(inverse) - alpha @ alpha) * noise
    return value, gradient


def _negative_log_prior(theta: Array) -> tuple[float, Array]:
    """Of lognormal length scales and noise: the densities are those of the scales, hence the last term of each."""
    location, deviation = _prior(len(theta) - 1)
    standard = (theta - location) / deviation
    return float((standard**2 / 2.0 + theta).sum()), standard / deviation + 1.0


def _prior(d: int) -> tuple[Array, Array]:
    location = np.r_[np.full(d, np.sqrt(2.0) + np.log(max(d, 1)) / 2.0), NOISE_MEAN]
    return location, np.r_[np.full(d, LENGTHSCALE_DEVIATION), NOISE_DEVIATION]


def _sampling_prior(d: int, like: Kernel | None) -> tuple[Array, Array]:
    if like is not None:
        location = np.r_[np.log(like.lengthscales), np.log(like.noise)]
        return location, np.r_[np.full(d, KIN_DEVIATION), NOISE_DEVIATION]
    location = np.r_[np.full(d, np.log(SAMPLED_LENGTHSCALE) + np.log(max(d, 1)) / 2.0), NOISE_MEAN]
    return location, np.r_[np.full(d, SAMPLED_DEVIATION), NOISE_DEVIATION]


def _log_evidence(theta: Array, pairs: _Pairs, y: Array) -> tuple[float, float]:
    r"""Log p(y) with the output scale integrated out, and its typical value.

    $s^2 \sim InvGamma(a, a)$: $p(y) \propto |K|^{-1/2} (a + y^T K^{-1} y / 2)^{-(a + n / 2)}$.
    """
    n = len(y)
    covariances = matern(pairs.squared @ np.exp(-2.0 * theta[:-1])) + LEVEL
    L = cholesky(pairs.lower(covariances, 1.0 + LEVEL + float(np.exp(theta[-1]))))
    half = _solve_lower(L, y)
    shape, rate = SCALE_SHAPE + n / 2.0, SCALE_SHAPE + float(half @ half) / 2.0
    constant = gammaln(shape) - gammaln(SCALE_SHAPE) + SCALE_SHAPE * np.log(SCALE_SHAPE) - n / 2.0 * np.log(2.0 * np.pi)
    return float(constant - shape * np.log(rate) - np.log(np.diag(L)).sum()), rate / shape


def _prior_mode(d: int) -> Array:
    location, deviation = _prior(d)
    return location - deviation**2


def _solve_lower(factor: Array, right: Array) -> Array:
    """L^-1 right; LAPACK is asked itself, for what SciPy does around it takes longer than a small solution."""
    solution, _ = dtrtrs(factor.T, right, trans=1)  # the transpose of a C array is what LAPACK reads without a copy
    return np.asarray(solution, dtype=np.float64)


def _solve_upper(factor: Array, right: Array) -> Array:
    """L^-T right."""
    solution, _ = dtrtrs(factor.T, right)
    return np.asarray(solution, dtype=np.float64)
