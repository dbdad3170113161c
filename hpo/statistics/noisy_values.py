r"""What is each configuration of a study worth, judged by trials that are noisy?

Notation
    n, d, p     trials, parameters, points: the configurations in question, among them every one that was tried
    y           (n,) standardised losses, y_i = f(x_i) + e_i
    f           a Gaussian process with a Matern-5/2 kernel around a constant level: `hpo.surrogates.gaussian_process`
    e_i         noise, Normal(0, s^2 r w_i): r relative to the process's variance s^2, w_i = 1, or drawn for tails
                heavier than a normal's: w_i ~ InvGamma(nu / 2, nu / 2) makes e_i Student's t with nu degrees of freedom
    C           correlations (n, n) of the process and its level; R = C + r diag(w)

Nothing is taken at its likeliest value: length scales, r, s, nu and w are drawn from their posterior, so that what is
not known about them widens the intervals. A mean that is drawn towards what the neighbours say is free of the winner's
curse as far as the model holds: who is chosen by it is not expected to do worse than it says.
Elliptical slice sampling for the length scales and r (Murray, Adams and MacKay, AISTATS 2010), Gibbs steps for the rest
(Gelman et al., Bayesian Data Analysis, 3rd ed., chapters 12 and 17).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, solve_triangular
from scipy.special import gammaln, ndtr

from hpo.arrays import Array, Mask
from hpo.surrogates.gaussian_process import LEVEL, SCALE_SHAPE, SMALLEST_ARC, Kernel, cholesky

LENGTHSCALE_MEDIAN, LENGTHSCALE_DEVIATION = 0.5, 1.0  # prior: median in units of sqrt d, deviation of the log
NOISE_MEAN, NOISE_DEVIATION = -2.0, 1.5  # prior of log r: noise of a third of the process's size, give or take
TAILS = (3.0, 4.0, 6.0, 10.0, np.inf)  # degrees of freedom nu; infinite: normal
TAIL_ODDS = (0.125, 0.125, 0.125, 0.125, 0.5)
WARM_UP, KEPT = 40, 160  # sweeps
DRAWS_OF_A_SWEEP = 12
JITTER = 1e-8  # relative, so that drawn functions exist at neighbouring points


@dataclass(frozen=True, kw_only=True)
class NoisePrior:
    """What is known of the noise before a study's trials: log of its variance, relative to the spread of losses."""

    mean: float = NOISE_MEAN
    deviation: float = NOISE_DEVIATION


@dataclass(frozen=True, kw_only=True, eq=False)
class NoisyValues:
    """The posterior of p values: s sweeps, of each a normal; standardised losses."""

    means: Array  # (s, p)
    deviations: Array  # (s, p)
    draws: Array  # (m, p) joint draws
    noise: Array  # (s,) standard deviation of one trial
    tails: Array  # (s,) degrees of freedom; infinite: normal

    @property
    def mean(self) -> Array:
        """Posterior mean, shape (p,)."""
        return np.asarray(self.means.mean(axis=0))

    def quantiles(self, point: int, shares: Sequence[float]) -> Array:
        """Quantiles of the value at one point, by bisection of the mixture's distribution function: shape (q,)."""
        means, deviations = self.means[:, point], np.maximum(self.deviations[:, point], 1e-12)
        low = np.full(len(shares), float((means - 9.0 * deviations).min()))
        high = np.full(len(shares), float((means + 9.0 * deviations).max()))
        for _ in range(60):
            middle = (low + high) / 2.0
            below = ndtr((middle[:, None] - means) / deviations).mean(axis=1) < np.asarray(shares)
            low, high = np.where(below, middle, low), np.where(below, high, middle)
        return np.asarray((low + high) / 2.0)


def noisy_values(
    points: Array,
    at: NDArray[np.intp],
    y: Array,
    categorical: Mask,
    rng: np.random.Generator,
    *,
    noise: NoisePrior | None = None,
    sweeps: int = KEPT,
) -> NoisyValues:
    """The values at points (p, d), of which trial i tried number `at`[i] and came out at y[i], standardised.

    Points that nobody tried may follow after those that were: they change nothing of what is drawn for these.
    """
    chain = _Chain(points=points, at=at, y=y, categorical=categorical, noise=noise or NoisePrior())
    for _ in range(WARM_UP):
        chain.sweep(rng)
    found = []
    for eye in rng.spawn(sweeps):
        chain.sweep(rng)
        found.append(chain.look(eye))
    means, deviations, draws, noises, tails = zip(*found, strict=True)
    return NoisyValues(
        means=np.array(means),
        deviations=np.array(deviations),
        draws=np.concatenate(draws),
        noise=np.array(noises),
        tails=np.array(tails),
    )


@dataclass(kw_only=True, eq=False)
class _Chain:
    """Where the sampler is."""

    points: Array
    at: NDArray[np.intp]
    y: Array
    categorical: Mask
    noise: NoisePrior
    weights: Array = field(init=False)  # (n,) w
    tail: float = field(init=False, default=np.inf)  # nu
    theta: Array = field(init=False)  # log length scales, log r
    scale: float = field(init=False, default=1.0)  # s^2

    def __post_init__(self) -> None:
        d, X = self.points.shape[1], self.points[self.at]
        self.weights = np.ones(len(self.y))
        self.location = np.r_[np.full(d, np.log(LENGTHSCALE_MEDIAN) + np.log(max(d, 1)) / 2.0), self.noise.mean]
        self.deviation = np.r_[np.full(d, LENGTHSCALE_DEVIATION), self.noise.deviation]
        self.theta = self.location.copy()
        difference = X[:, None, :] - X[None, :, :]
        self.parts = np.where(self.categorical, difference != 0.0, difference**2)

    def sweep(self, rng: np.random.Generator) -> None:
        """Kernel and noise given the weights, then functions, tails and weights given those."""
        self._slice(rng)
        _, shape, rate = self._evidence(self.theta)
        self.scale = rate / rng.gamma(shape)
        residuals = self._draw_noise(rng)
        self._draw_tail(residuals, rng)

    def look(self, rng: np.random.Generator) -> tuple[Array, Array, Array, float, float]:
        """Mean, deviation and joint draws at the points, the noise's standard deviation, and its tail."""
        kernel = self._kernel()
        tried = self.points[self.at]
        factor = cholesky(kernel.covariance(tried, tried) + kernel.noise * np.diag(self.weights))
        cross = kernel.covariance(self.points, tried)
        half = solve_triangular(factor, cross.T, lower=True, check_finite=False)
        mean = half.T @ solve_triangular(factor, self.y, lower=True, check_finite=False)
        covariance = kernel.covariance(self.points, self.points) - half.T @ half
        deviation = np.sqrt(np.maximum(np.diag(covariance), 0.0))
        root = cholesky(covariance + JITTER * kernel.scale * np.eye(len(covariance)))
        draws = mean + rng.standard_normal((len(mean), DRAWS_OF_A_SWEEP)).T @ root.T
        spread = self.tail / (self.tail - 2.0) if np.isfinite(self.tail) else 1.0
        return mean, deviation, draws, float(np.sqrt(kernel.noise * spread)), self.tail

    def _kernel(self) -> Kernel:
        return Kernel(
            lengthscales=np.exp(self.theta[:-1]),
            noise=float(self.scale * np.exp(self.theta[-1])),
            categorical=self.categorical,
            scale=self.scale,
            level=self.scale * LEVEL,
        )

    def _slice(self, rng: np.random.Generator) -> None:
        direction = self.deviation * rng.standard_normal(len(self.theta))
        threshold = self._evidence(self.theta)[0] + np.log1p(-rng.random())
        angle = rng.uniform(0.0, 2.0 * np.pi)
        low, high = angle - 2.0 * np.pi, angle
        while high - low > SMALLEST_ARC:
            moved = self.location + (self.theta - self.location) * np.cos(angle) + direction * np.sin(angle)
            if self._evidence(moved)[0] > threshold:
                self.theta = moved
                return
            low, high = (angle, high) if angle < 0.0 else (low, angle)
            angle = rng.uniform(low, high)

    def _evidence(self, theta: Array) -> tuple[float, float, float]:
        r"""Log p(y | theta, w) with s integrated out; shape and rate of the inverse gamma that s^2 then follows."""
        K = self._correlation(theta)
        K[np.diag_indices_from(K)] += np.exp(theta[-1]) * self.weights
        L = cholesky(K)
        half = solve_triangular(L, self.y, lower=True, check_finite=False)
        shape, rate = SCALE_SHAPE + len(self.y) / 2.0, SCALE_SHAPE + float(half @ half) / 2.0
        return float(-shape * np.log(rate) - np.log(np.diag(L)).sum()), shape, rate

    def _correlation(self, theta: Array) -> Array:
        root = np.sqrt(5.0 * (self.parts @ np.exp(-2.0 * theta[:-1])))
        correlation: Array = (1.0 + root + root**2 / 3.0) * np.exp(-root) + LEVEL
        return correlation

    def _draw_noise(self, rng: np.random.Generator) -> Array:
        """A draw of e given y by Matheron's rule, in units of the noise's deviation: shape (n,)."""
        n, r = len(self.y), np.exp(self.theta[-1])
        C = self._correlation(self.theta)
        R = C + r * np.diag(self.weights)
        deviation = np.sqrt(self.scale)
        f = deviation * cholesky(C + JITTER * np.eye(n)) @ rng.standard_normal(n)
        e = deviation * np.sqrt(r * self.weights) * rng.standard_normal(n)
        e = e + r * self.weights * cho_solve((cholesky(R), True), self.y - f - e, check_finite=False)
        return np.asarray(e / np.sqrt(self.scale * r))

    def _draw_tail(self, residuals: Array, rng: np.random.Generator) -> None:
        squared = residuals**2
        log_odds = np.log(TAIL_ODDS) + np.array([_log_density(squared, nu) for nu in TAILS])
        odds = np.exp(log_odds - log_odds.max())
        self.tail = float(rng.choice(TAILS, p=odds / odds.sum()))
        if np.isfinite(self.tail):
            shape, rate = (self.tail + 1.0) / 2.0, (self.tail + squared) / 2.0
            self.weights = rate / rng.gamma(shape, size=len(squared))
        else:
            self.weights = np.ones(len(squared))


def _log_density(squared: Array, nu: float) -> float:
    """Of standard Student's t with nu degrees of freedom at residuals whose squares are given, summed."""
    if not np.isfinite(nu):
        return float(-0.5 * (squared + np.log(2.0 * np.pi)).sum())
    constant = gammaln((nu + 1.0) / 2.0) - gammaln(nu / 2.0) - 0.5 * np.log(nu * np.pi)
    return float((constant - (nu + 1.0) / 2.0 * np.log1p(squared / nu)).sum())
