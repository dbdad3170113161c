"""Which configuration of a study is best, how good is it really, and how sure is that?

The best of many noisy values is too good: it was chosen for its luck as well (the winner's curse). So the values are
judged together: `hpo.statistics.noisy_values`. Inside everything is a loss.

Notation: n trials, p configurations (points), u of them tried, m joint draws.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hpo.arrays import Array, Mask
from hpo.statistics.loss_scale import LARGEST, LARGEST_LOG, centre_and_spread
from hpo.statistics.noisy_values import NoisePrior, noisy_values

FEWEST_TRIALS = 10  # with fewer, noise and differences cannot be told apart
MOST_TRIALS = 250  # that are judged together: the time grows with the third power
LEADERS = 20  # the apparently best, around which those are taken
KNEE = 3.0  # spreads above the median from which on losses grow like logarithms: a diverged run is just bad
LEVEL = (0.025, 0.975)  # of the intervals
WIDENING = 1.08  # of the intervals: no function is quite what the kernel takes it for; measured on simulated studies


@dataclass(frozen=True, kw_only=True)
class LossUnits:
    r"""A scale for losses whose best half keeps its shape: linear up to `KNEE` spreads above the median.

    $u = (y - c) / s$, $v = u$ for $u \le k$ and $k + \log(1 + u - k)$ beyond, $z = (v - \bar v) / sd(v)$.
    """

    centre: float  # median raw loss
    spread: float  # root mean square distance of the better half from it, > 0
    mean: float
    deviation: float  # > 0

    @classmethod
    def of(cls, losses: Array) -> LossUnits | None:
        """The units of losses (n,), finite; None where all are equal."""
        losses = np.clip(losses, -LARGEST, LARGEST)
        centre, spread = centre_and_spread(losses)
        if spread is None:
            return None
        bent = _bend((losses - centre) / spread)
        return cls(centre=centre, spread=spread, mean=float(bent.mean()), deviation=float(bent.std()))

    @property
    def unit(self) -> float:
        """One standardised unit in raw losses, among good ones."""
        return self.spread * self.deviation

    def standardise(self, losses: Array) -> Array:
        """Raw losses to standardised ones, any shape."""
        losses = np.clip(losses, -LARGEST, LARGEST)
        bent: Array = (_bend((losses - self.centre) / self.spread) - self.mean) / self.deviation
        return bent

    def restore(self, standardised: Array) -> Array:
        """The inverse of `standardise`."""
        bent = np.asarray(standardised) * self.deviation + self.mean
        straight = np.where(bent <= KNEE, bent, KNEE + np.expm1(np.clip(bent - KNEE, 0.0, LARGEST_LOG)))
        return np.asarray(np.minimum(straight, LARGEST / self.spread) * self.spread + self.centre)


@dataclass(frozen=True, kw_only=True, eq=False)
class Judgement:
    """What the trials of a study say of its configurations, in raw losses."""

    winner: int  # of the tried points, that of the smallest expected loss
    losses: Array  # (p,) expected
    intervals: Array  # (p, 2) 95%
    probabilities: Array  # (p,) that a point is the best of those that may win; 0 for the others
    draws: Array  # (m, p) joint
    noise: float  # standard deviation between trials of one configuration
    noise_interval: tuple[float, float]  # 95%
    heavy_tails: float  # probability that the noise has heavier tails than a normal's

    def better(self, point: int, other: int) -> float:
        """The probability that one point has a smaller loss than another."""
        return float(np.mean(self.draws[:, point] < self.draws[:, other]))

    def difference(self, point: int, other: int) -> tuple[float, float, float]:
        """How much smaller the loss at one point is than at another: the mean, and its 95% interval."""
        gains = self.draws[:, other] - self.draws[:, point]
        gain = float(self.losses[other] - self.losses[point])
        low, high = gain + WIDENING * (np.quantile(gains, LEVEL) - gain)
        return gain, float(low), float(high)


def judge(  # noqa: PLR0917
    points: Array,
    at: NDArray[np.intp],
    losses: Array,
    may_win: Mask,
    categorical: Mask,
    rng: np.random.Generator,
    *,
    noise: NoisePrior | None = None,
) -> Judgement | None:
    """Judge the points (p, d), of which trial i tried number `at`[i] and had the loss `losses`[i], raw and finite.

    may_win: (p,) which of them count as the best. None where the losses are all equal, or fewer than `FEWEST_TRIALS`.
    noise: in terms of `LossUnits.unit`.
    """
    units = LossUnits.of(losses) if len(losses) >= FEWEST_TRIALS else None
    if units is None:
        return None
    found = noisy_values(points, at, units.standardise(losses), categorical, rng, noise=noise)
    candidates = np.flatnonzero(may_win)
    firsts = candidates[found.draws[:, candidates].argmin(axis=1)]
    low, high = np.quantile(found.noise, LEVEL) * units.unit
    quantiles = np.array([found.quantiles(point, LEVEL) for point in range(len(points))])
    intervals = units.restore(found.mean[:, None] + WIDENING * (quantiles - found.mean[:, None]))
    return Judgement(
        winner=int(candidates[found.mean[candidates].argmin()]),
        losses=units.restore(found.mean),
        intervals=intervals,
        probabilities=np.bincount(firsts, minlength=len(points)) / len(firsts),
        draws=units.restore(found.draws),
        noise=float(np.median(found.noise)) * units.unit,
        noise_interval=(float(low), float(high)),
        heavy_tails=float(np.isfinite(found.tails).mean()),
    )


def around_the_best(X: Array, losses: Array, categorical: Mask) -> NDArray[np.intp]:
    """Rows of at most `MOST_TRIALS` of X (n, d): the apparently best, and the nearest to any of them, lucky or not."""
    n = len(losses)
    if n <= MOST_TRIALS:
        return np.arange(n)
    leaders = np.argsort(losses, kind="stable")[:LEADERS]
    difference = X[:, None, :] - X[None, leaders, :]
    distance = np.where(categorical, difference != 0.0, difference**2).sum(axis=2).min(axis=1)
    return np.sort(np.argsort(distance, kind="stable")[:MOST_TRIALS])


def pooled_noise(losses: Array, configuration: NDArray[np.intp]) -> tuple[float, int]:
    """The variance between trials of one configuration, pooled, and its degrees of freedom (0: there are no two)."""
    counts = np.bincount(configuration)
    means = np.bincount(configuration, losses) / np.maximum(counts, 1)
    freedom = int(np.maximum(counts - 1, 0).sum())
    squares = float(((losses - means[configuration]) ** 2).sum())
    return (squares / freedom, freedom) if freedom else (float("nan"), 0)


def _bend(u: Array) -> Array:
    bent: Array = np.where(u <= KNEE, u, KNEE + np.log1p(np.maximum(u - KNEE, 0.0)))
    return bent
