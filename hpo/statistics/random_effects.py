r"""What do the estimates of several tasks say of the mean task, of how much tasks differ, and of the next task?

Estimate $d_t$ of task t has the known variance $v_t$ about the task's own effect, and the effects of tasks spread about
their mean $\mu$ with variance $\tau^2$. With $w_t = 1 / (v_t + \tau^2)$:

- $\hat\tau^2$ solves $Q(\tau^2) = \sum w_t (d_t - \hat\mu)^2 = t - 1$ (Paule and Mandel 1982), 0 without a root;
- the interval for the mean is Hartung and Knapp's, $\hat\mu \pm t_{t-1} \sqrt{Q / ((t - 1) \sum w)}$, and never
  narrower than the plain $\hat\mu \pm 1.96 / \sqrt{\sum w}$ (the guard of Wiksten, Rücker and Schwarzer, Statistics
  in Medicine 2016);
- the prediction interval for the effect of a new task takes $\tau^2$ as uncertain as it is: at the true one, Q is
  chi-squared with t - 1 degrees of freedom, so $1 - F_{\chi^2}(Q(\tau^2))$ is a confidence distribution of $\tau^2$,
  and the new effect is a mixture of normal distributions over it (Viechtbauer, Statistics in Medicine 2007; Nagashima,
  Noma and Furukawa, Statistical Methods in Medical Research 2019). With equally exact estimates it is Student's, and so
  it is taken to be for `MANY_TASKS`.
  The interval $\hat\mu \pm t_{t-2} \sqrt{\hat\tau^2 + se^2}$ of Higgins, Thompson and Spiegelhalter needs a good
  $\hat\tau^2$, which few tasks do not give.

Where effects have kin (`hpo.statistics.kinship`), Q and its degrees of freedom are those of all of them together. An
error that all tasks have in common is known, not estimated from them: the sum has Satterthwaite's degrees of freedom.

Notation: t tasks, c effects side by side, g values of $\tau^2$ beside 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import chdtrc, ndtr, ndtri, stdtrit

from hpo.arrays import Array, Mask
from hpo.statistics.kinship import Kinship

LEVEL = 0.95  # of every interval
FEWEST_TASKS = 3  # that say how much tasks differ
MANY_TASKS = 200  # that leave no doubt of tau^2 worth the time
STEPS = 16  # of Newton's method, which is exact after one where no estimate has an error
GRID = 60  # values of tau^2, in equal steps of its logarithm
REACH = (
    1e-5,
    1e6,
)  # of the grid, in units of the spread of the estimates: the tails of two degrees of freedom are long
HALVINGS = 26  # of a bracket for a quantile
LEAST_Q = 1e-9  # of estimates that agree
MOST_FREEDOM = 1e6  # from there on Student's is normal
AT_A_TIME = 1 << 17  # estimates: what is small stays in the processor's cache


@dataclass(frozen=True, kw_only=True, eq=False)
class RandomEffects:
    """What c effects are over tasks; NaN where there are too few tasks to say so."""

    tasks: Array  # (c,) that have an estimate
    mean: Array  # (c,) of tasks; from one task on
    interval: Array  # (c, 2) 95% for the mean; from `FEWEST_TASKS` on, as all below
    tau: Array  # (c,) standard deviation of the tasks' effects
    prediction: Array  # (c, 2) 95% for the effect of a new task
    spread: Array  # (c,) standard deviation of the predictive distribution's body: half of its 68% interval


def random_effects(
    estimates: Array, variances: Array, shared: Array | None = None, kinship: Kinship | None = None
) -> RandomEffects:
    """The random effects of estimates (t, c) with variances (t, c); what is not finite is not there.

    A variance of zero is an estimate without error. shared: variance (c,) of an error that all tasks have in common.
    kinship: of effects that tell of each other how much tasks differ; not needed from `MANY_TASKS` on.
    """
    c = estimates.shape[1]
    shared = np.zeros(c) if shared is None else shared
    if kinship is not None and len(estimates) < MANY_TASKS:
        return _some(estimates, variances, shared, kinship)
    step = max(AT_A_TIME // max(len(estimates), 1), 1)
    slices = [slice(start, start + step) for start in range(0, max(c, 1), step)]
    parts = [_some(estimates[:, some], variances[:, some], shared[some], None) for some in slices]
    joined = {name: np.concatenate([getattr(part, name) for part in parts]) for name in RandomEffects.__annotations__}
    return RandomEffects(**joined)


def predictive_interval(fitted: RandomEffects, variances: Array, factor: Array | float = 1.0) -> Array:
    """Where new estimates with these variances (..., c) would be, (..., c, 2): the effect there, and their own error.

    factor: by which the interval is wider than the model says.
    """
    middle = fitted.prediction.mean(axis=-1)
    half = np.sqrt((np.diff(fitted.prediction, axis=-1)[..., 0] / 2.0) ** 2 + ndtri((1 + LEVEL) / 2) ** 2 * variances)
    interval: Array = np.stack([middle - factor * half, middle + factor * half], axis=-1)
    return interval


def _some(estimates: Array, variances: Array, shared: Array, kinship: Kinship | None) -> RandomEffects:
    there = np.isfinite(estimates) & np.isfinite(variances)
    data = np.where(there, estimates, 0.0), np.where(there, variances, 1.0), there
    tasks = there.sum(axis=0)
    enough = tasks >= FEWEST_TASKS
    if kinship is None:
        freedom = np.maximum(tasks - 1.0, 1.0)
        moment = _paule_mandel(*data, freedom)
        w, mu, q, _ = _at(*data, moment)
        looked = None
    else:
        looked = _Look.of(data, kinship)
        freedom = looked.freedom
        moment = looked.root()
        w, mu, _, _ = _at(*data, moment)
        q = np.minimum(looked.Q[0], freedom)
    plain = np.sqrt(1.0 / w + shared)
    half = np.maximum(_students(q / freedom / w, shared, freedom), ndtri((1 + LEVEL) / 2) * plain)
    if (tasks[enough] >= MANY_TASKS).all():
        deviation = np.sqrt(moment + 1.0 / w + shared)
        quantile = stdtrit(freedom, (1 + LEVEL) / 2)
        low, high, spread = mu - quantile * deviation, mu + quantile * deviation, deviation
    else:
        low, high, spread = (looked or _Look.of(data, None)).mixed(shared)

    def known(values: Array) -> Array:
        return np.where(enough, values, np.nan)

    return RandomEffects(
        tasks=tasks.astype(np.float64),
        mean=np.where(tasks > 0, mu, np.nan),
        interval=np.stack([known(mu - half), known(mu + half)], axis=-1),
        tau=known(np.sqrt(moment)),
        prediction=np.stack([known(low), known(high)], axis=-1),
        spread=known(spread),
    )


def _students(variance: Array, shared: Array, freedom: Array) -> Array:
    """The half-width (c,) of an interval whose variance is estimated but for a share that is known."""
    total = variance + shared
    with np.errstate(invalid="ignore", divide="ignore"):
        freedom = np.where(variance > 0, freedom * (total / variance) ** 2, freedom)
    half: Array = stdtrit(np.minimum(freedom, MOST_FREEDOM), (1 + LEVEL) / 2) * np.sqrt(total)
    return half


def _paule_mandel(d: Array, v: Array, there: Mask, freedom: Array) -> Array:
    """Where Q is as large as expected, (c,), by Newton's method on 1 / Q: concave, it is reached from below."""
    tau2 = np.zeros(d.shape[1])
    for _ in range(STEPS):
        _, _, Q, slope = _at(d, v, there, tau2)
        tau2 = np.maximum(tau2 + np.where(slope > 0, Q / freedom * (Q - freedom) / np.maximum(slope, 1e-300), 0.0), 0.0)
    return tau2


@dataclass(frozen=True, kw_only=True, eq=False)
class _Look:
    """What follows from each value of tau^2, in ascending order: g + 1 of them, the first is 0."""

    tau2: Array  # (g + 1, c)
    precision: Array  # (g + 1, c) the sum of the weights
    mean: Array  # (g + 1, c)
    Q: Array  # (g + 1, c)
    freedom: Array  # (c,) of Q

    @classmethod
    def of(cls, data: tuple[Array, Array, Mask], kinship: Kinship | None) -> _Look:
        d, v, there = data
        tasks = there.sum(axis=0)
        count = np.maximum(tasks, 1)
        centre = d.sum(axis=0) / count
        unit = np.where(there, (d - centre) ** 2 + v, 0.0).sum(axis=0) / count
        unit = np.where(unit > 0, unit, 1.0)  # estimates that agree without error
        if kinship is not None:
            unit = kinship.units(unit, tasks)
        tau2 = np.concatenate([[0.0], np.geomspace(*REACH, GRID)])[:, None] * unit
        at = np.array([_at(d, v, there, row) for row in tau2])  # (g + 1, 4, c)
        Q, freedom = at[:, 2], np.maximum(tasks - 1.0, 1.0)
        if kinship is not None:
            Q, freedom = kinship.pooled(Q, tasks)
        return cls(tau2=tau2, precision=at[:, 0], mean=at[:, 1], Q=Q, freedom=freedom)

    def root(self) -> Array:
        """Where Q is as large as expected, (c,), 0 where it never is: between values 1 / Q is nearly straight."""
        is_above = self.freedom < self.Q
        after = np.clip(is_above.sum(axis=0), 1, len(self.Q) - 1)
        cells = np.arange(self.Q.shape[1])
        inverse = 1.0 / np.maximum(self.Q, LEAST_Q)
        low, high = inverse[after - 1, cells], inverse[after, cells]
        share = np.clip((1.0 / self.freedom - low) / np.where(high > low, high - low, 1.0), 0.0, 1.0)
        start, end = self.tau2[after - 1, cells], self.tau2[after, cells]
        root: Array = np.where(is_above[0], start + share * (end - start), 0.0)
        return root

    def mixed(self, shared: Array) -> tuple[Array, Array, Array]:
        """Both ends and the spread of the effect in a new task, (c,) each, over what is believed of tau^2."""
        tau2, mean, precision = self.tau2, self.mean, self.precision
        weights = _confidence(self.Q, self.freedom)
        middles = np.sqrt(tau2[:-1] * tau2[1:])  # the first is 0
        nodes = np.concatenate([middles, tau2[-1:]])
        m = np.concatenate([mean[:1], (mean[1:-1] + mean[2:]) / 2.0, mean[-1:]])
        se2 = 1.0 / np.concatenate([precision[:1], np.sqrt(precision[1:-1] * precision[2:]), precision[-1:]])
        deviations = np.sqrt(nodes + se2 + shared)
        low, high, below, above = (
            _quantile(weights, m, deviations, p) for p in ((1 - LEVEL) / 2, (1 + LEVEL) / 2, ndtr(-1.0), ndtr(1.0))
        )
        return low, high, (above - below) / 2.0


def _at(d: Array, v: Array, there: Mask, tau2: Array) -> tuple[Array, Array, Array, Array]:
    """The sum of the weights, the weighted mean, Q, and how fast Q falls, at tau^2 (c,): each (c,)."""
    floor = 1e-12 * np.maximum(v.max(axis=0, initial=0.0), np.abs(d).max(axis=0, initial=0.0) ** 2) + 1e-300
    w = np.where(there, 1.0 / np.maximum(v + tau2, floor), 0.0)
    total = np.maximum(w.sum(axis=0), 1e-100)
    mean = (w * d).sum(axis=0) / total
    squares = w * (d - mean) ** 2
    return total, mean, squares.sum(axis=0), (w * squares).sum(axis=0)


def _confidence(Q: Array, freedom: Array) -> Array:
    """The confidence distribution of tau^2: at 0, between the values of the grid, and beyond, (g + 1, c)."""
    below = chdtrc(freedom, Q)  # P(chi^2 > Q), which rises with tau^2
    weights: Array = np.diff(below, axis=0, prepend=0.0, append=1.0)
    weights = np.concatenate([weights[:1] + weights[1:2], weights[2:]])  # up to the first value counts as none
    return np.maximum(weights, 0.0)


def _quantile(weights: Array, means: Array, deviations: Array, p: float) -> Array:
    """The quantile of mixtures of normal distributions, (g, c) each: shape (c,)."""
    low = (means - 40.0 * deviations).min(axis=0)
    high = (means + 40.0 * deviations).max(axis=0)
    body = deviations[np.argmax(weights, axis=0), np.arange(weights.shape[1])]
    centre = (weights * means).sum(axis=0)
    for scale in (10.0, 100.0, 1000.0):  # the bracket begins with the body: halving 1e3 deviations costs ten steps
        near = centre - scale * body, centre + scale * body
        is_inside = (_below(weights, means, deviations, near[0]) < p) & (
            _below(weights, means, deviations, near[1]) > p
        )
        low = np.where(is_inside, np.maximum(low, near[0]), low)
        high = np.where(is_inside, np.minimum(high, near[1]), high)
    for _ in range(HALVINGS):
        middle = (low + high) / 2.0
        is_low = _below(weights, means, deviations, middle) < p
        low, high = np.where(is_low, middle, low), np.where(is_low, high, middle)
    quantile: Array = (low + high) / 2.0
    return quantile


def _below(weights: Array, means: Array, deviations: Array, x: Array) -> Array:
    share: Array = (weights * ndtr((x - means) / deviations)).sum(axis=0)
    return share
