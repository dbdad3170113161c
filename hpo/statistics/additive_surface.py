r"""What did each value of a hyperparameter do to the outcome, apart from where a tuner chose to look?

The outcomes of task t are a sum of smooth curves, one of each parameter, of products of two parameters, and of noise:
$y = B \beta_t + e$, where B holds a level per choice, six joints of a broken line per number, a level for "inactive",
and the products of two numbers, or of a number and a choice, as long as those are few. Tasks spread about a mean:
$\beta_t \sim N(\bar\beta, T)$, T one variance per parameter times a smooth kernel; $\bar\beta$ by generalised least
squares, T and the noise by expectation maximisation.

A contrast $a'\beta_t$, say the mean over a range less the mean over the whole space, is then measured in each task: how
much its variance falls from c0 under a prior to c tells what the task's runs alone say, a measurement that leans on the
prior for other directions only. The prior is $N(\bar\beta, t V)$, V the covariance of $\bar\beta$: so wide that t
tasks know no more together than $\bar\beta$ does. The measurement's own error is taken under the spread T; what it owes
to the error of $\bar\beta$ is common to all tasks, and is accounted for apart.

This adjusts for where the other parameters were when a value was tried, as far as curves and products describe what
they do. What is left of combinations is noise here, and a tuner that follows it can still mislead.

Notation: n runs, t tasks, d parameters, p columns of B, c contrasts, m points of a design of the space.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from hpo.arrays import Array
from hpo.statistics.kinship import Kinship

JOINTS = 6  # of a number's curve
MOST_PRODUCTS = 64  # each costs as much as a joint
SMOOTHNESS = 0.35  # length scale of the curves, in ranges (heuristic)
PRIOR_DEVIATION = 1.0  # of the mean curves, in units of the outcomes
ROUNDS = 8  # of expectation maximisation
LEARNED_TASKS = 96  # from which mean and spread are learned
LEAST_VARIANCE = 1e-4  # of the spread over tasks, in units of the outcomes
NOISE_RUNS = 6.0  # for so many runs counts what the other tasks say of a task's noise (heuristic)
LEAST_NOISE = 1e-6
LEAST_INFORMATION = 0.03  # share of a contrast's prior variance that a task takes away, to say anything at all
FEWEST_TASKS = 3  # that tell mean and spread apart
RUNS_AT_A_TIME = 1 << 14


@dataclass(frozen=True, kw_only=True, eq=False)
class Basis:
    """The columns of B: the level, those of each parameter, and products."""

    choices: tuple[int, ...]  # per parameter how many, 0 for a number
    starts: tuple[int, ...]  # (d + 1) the first column of each parameter, whose last one is "inactive"; of products
    products: tuple[tuple[int, int], ...]  # of columns of `_factors`
    size: int  # p

    @classmethod
    def of(cls, choices: tuple[int, ...]) -> Basis:
        """The columns for parameters with so many choices, 0 for a number."""
        starts = np.cumsum([1, *(1 + (count or JOINTS) for count in choices)]).tolist()
        products = _products(choices)
        return cls(choices=choices, starts=tuple(starts), products=products, size=starts[-1] + len(products))

    def rows(self, points: Array) -> Array:
        """B at points (n, d) in coordinates, a choice as its index and NaN where inactive: shape (n, p)."""
        rows = np.zeros((len(points), self.size))
        rows[:, 0] = 1.0
        for x, count, start in zip(points.T, self.choices, self.starts, strict=False):
            inactive = np.isnan(x)
            rows[:, start + (count or JOINTS)] = inactive
            active = np.flatnonzero(~inactive)
            if count:
                rows[active, start + np.clip(x[active], 0, count - 1).astype(np.intp)] = 1.0
                continue
            place = np.clip(x[active], 0.0, 1.0) * (JOINTS - 1)
            left = np.minimum(place.astype(np.intp), JOINTS - 2)
            rows[active, start + left] = 1.0 - (place - left)
            rows[active, start + left + 1] = place - left
        if self.products:
            factors = _factors(points, self.choices)
            first, second = np.array(self.products).T
            rows[:, self.starts[-1] :] = factors[:, first] * factors[:, second]
        return rows

    @property
    def groups(self) -> NDArray[np.intp]:
        """Which columns share a variance, (p,): 0 is the level, j + 1 parameter j, d + 1 the products."""
        widths = [1, *np.diff(self.starts), len(self.products)]
        return np.repeat(np.arange(len(widths)), widths)

    @property
    def roots(self) -> Array:
        """L with L L' the smooth kernel of the columns, (p, p)."""
        roots = np.eye(self.size)
        joints = np.linspace(0.0, 1.0, JOINTS)
        kernel = np.exp(-0.5 * ((joints[:, None] - joints) / SMOOTHNESS) ** 2) + 1e-4 * np.eye(JOINTS)
        root = np.linalg.cholesky(kernel)
        for start, count in zip(self.starts, self.choices, strict=False):
            if not count:
                roots[start : start + JOINTS, start : start + JOINTS] = root
        return roots


def _factors(points: Array, choices: tuple[int, ...]) -> Array:
    """What products are made of: numbers about the middle of their range with variance 1 over it, and choices."""
    columns = []
    for x, count in zip(points.T, choices, strict=True):
        if count:
            columns += [(x == choice).astype(np.float64) for choice in range(count)]
        else:
            columns.append(np.where(np.isnan(x), 0.0, np.sqrt(12.0) * (np.clip(x, 0.0, 1.0) - 0.5)))
    return np.stack(columns, axis=1)


def _products(choices: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """Numbers with numbers, and with choices too where all that is not more than `MOST_PRODUCTS`."""
    owners = [j for j, count in enumerate(choices) for _ in range(count or 1)]
    pairs = [(a, b) for a, b in combinations(range(len(owners)), 2) if owners[a] != owners[b]]
    of_numbers = [(a, b) for a, b in pairs if not choices[owners[a]] and not choices[owners[b]]]
    with_choices = [(a, b) for a, b in pairs if not (choices[owners[a]] and choices[owners[b]])]
    return tuple(next((some for some in (with_choices, of_numbers) if len(some) <= MOST_PRODUCTS), []))


@dataclass(frozen=True, kw_only=True, eq=False)
class Moments:
    """All that the fit needs of the runs of t tasks."""

    count: Array  # (t,)
    gram: Array  # (t, p, p)
    product: Array  # (t, p)
    square: Array  # (t,)

    @classmethod
    def of(cls, basis: Basis, tasks: NDArray[np.intp], points: Array, outcomes: Array) -> Moments:
        """The moments of finite outcomes (n,) at points (n, d), tasks (n,) ascending and without gaps from 0 on."""
        roots = basis.roots
        starts = np.flatnonzero(np.diff(tasks, prepend=-1))
        ends = np.append(starts[1:], len(tasks))
        t = len(starts)
        gram, product = np.zeros((t, basis.size, basis.size)), np.zeros((t, basis.size))
        first = 0
        while first < t:  # some tasks at a time: their rows stay in the cache
            last = max(first + 1, int(np.searchsorted(ends, starts[first] + RUNS_AT_A_TIME, side="right")))
            rows = basis.rows(points[starts[first] : ends[last - 1]]) @ roots
            y = outcomes[starts[first] : ends[last - 1]]
            for task in range(first, last):
                mine = slice(starts[task] - starts[first], ends[task] - starts[first])
                gram[task] = rows[mine].T @ rows[mine]
                product[task] = rows[mine].T @ y[mine]
            first = last
        return cls(
            count=(ends - starts).astype(np.float64),
            gram=gram,
            product=product,
            square=np.bincount(tasks, outcomes**2, minlength=t).astype(np.float64),
        )

    def some(self, chosen: NDArray[np.intp]) -> Moments:
        """Those of some tasks."""
        return Moments(
            count=self.count[chosen],
            gram=self.gram[chosen],
            product=self.product[chosen],
            square=self.square[chosen],
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Measurements:
    """What each task says of c contrasts."""

    estimates: Array  # (t, c), NaN where a task says next to nothing
    variances: Array  # (t, c) of their own errors
    shared: Array  # (c,) variance of the error that all have in common
    plausible: Array  # (c,) variance of the contrast in the mean task before anything is known
    kinship: Kinship | None = None  # of contrasts that vary over tasks together


@dataclass(frozen=True, kw_only=True, eq=False)
class AdditiveSurface:
    """How curves of tasks are distributed, in the coordinates that `Basis.roots` whitens."""

    basis: Basis
    mean: Array  # (p,)
    mean_covariance: Array  # (p, p) of the error of the mean
    spread: Array  # (p,) variances of tasks about the mean
    prior: Array  # (p, p) under which a task's runs are measured
    noise: float  # variance of outcomes about the curves, over all tasks

    @classmethod
    def fit(cls, basis: Basis, moments: Moments) -> AdditiveSurface:
        """Learn from at most `LEARNED_TASKS` of t >= 1 tasks, evenly chosen."""
        t = len(moments.count)
        chosen = np.unique(np.linspace(0, t - 1, min(t, LEARNED_TASKS)).astype(np.intp))
        return _fitted(basis, moments.some(chosen), t)

    def measure(self, moments: Moments, contrasts: Array, kins: tuple[int, ...]) -> Measurements:
        """What the runs of each task say of contrasts (c, p) of the columns, of which so many in a row are kin."""
        A = contrasts @ self.basis.roots
        before = ((A @ self.prior) * A).sum(1)
        expected = A @ self.mean
        precision = np.linalg.inv(self.prior)
        t = len(moments.count)
        estimates, variances = np.full((t, len(A)), np.nan), np.full((t, len(A)), np.nan)
        leaning, weights = np.zeros_like(A), np.zeros(len(A))
        for task in range(t):
            noise = self.noise
            for _ in range(2):  # the noise of the task follows from the fit
                covariance = np.linalg.inv(moments.gram[task] / noise + precision)
                mean = covariance @ (moments.product[task] / noise + precision @ self.mean)
                noise = _noise_of(moments, task, mean, covariance, self.noise)
            reduced = A @ covariance
            taken = before - (reduced * A).sum(1)
            says = taken > LEAST_INFORMATION * before
            scale = np.where(says, before / np.where(says, taken, 1.0), 0.0)
            gain = scale[:, None] * (reduced @ moments.gram[task]) / noise
            missed = A - gain
            by_noise = scale**2 * (((reduced @ moments.gram[task]) * reduced).sum(1) / noise)
            by_others = (missed**2 * self.spread).sum(1)
            estimates[task, says] = (expected + scale * (A @ mean - expected))[says]
            variances[task, says] = (by_noise + by_others)[says]
            weight = np.where(says, 1.0 / np.maximum(by_noise + by_others, LEAST_NOISE), 0.0)
            leaning += weight[:, None] * missed
            weights += weight
        leaning /= np.maximum(weights, 1e-300)[:, None]
        shared = ((leaning @ self.mean_covariance) * leaning).sum(1)
        plausible = PRIOR_DEVIATION**2 * (A**2).sum(1)
        kinship = Kinship(sizes=kins, directions=A * np.sqrt(self.spread))
        return Measurements(
            estimates=estimates, variances=variances, shared=shared, plausible=plausible, kinship=kinship
        )

    def of_tasks(self, moments: Moments, rows: Array) -> tuple[Array, Array]:
        """The surface of each task at m points, given as rows of the basis (m, p): shape (t, m), as far as it is known.

        It is the mean of all tasks where the runs of a task say nothing. With it, how much of what tasks differ by its
        own runs tell: shape (t,), 0 for nothing.
        """
        A = rows @ self.basis.roots
        before = float(((A * self.spread) * A).sum())
        surfaces, told = np.empty((len(moments.count), len(A))), np.empty(len(moments.count))
        for task, gram in enumerate(moments.gram):
            noise = self.noise
            for _ in range(2):  # the noise of the task follows from the fit
                covariance = np.linalg.inv(gram / noise + np.diag(1.0 / self.spread))
                mean = covariance @ (moments.product[task] / noise + self.mean / self.spread)
                noise = _noise_of(moments, task, mean, covariance, self.noise)
            surfaces[task] = A @ mean
            told[task] = 1.0 - float(((A @ covariance) * A).sum()) / before
        return surfaces, told


def _noise_of(moments: Moments, task: int, mean: Array, covariance: Array, noise: float) -> float:
    gram = moments.gram[task]
    rest = moments.square[task] - 2.0 * mean @ moments.product[task] + mean @ gram @ mean + (gram * covariance).sum()
    return max(float(rest + NOISE_RUNS * noise) / float(moments.count[task] + NOISE_RUNS), LEAST_NOISE)


def _fitted(basis: Basis, moments: Moments, tasks: int) -> AdditiveSurface:
    t, p = moments.product.shape
    groups = basis.groups
    sizes = np.maximum(np.bincount(groups), 1)
    spread = np.full(len(sizes), 0.25)  # variance over tasks, per group
    noise = np.full(t, 0.5)
    mean, V = np.zeros(p), np.eye(p) * PRIOR_DEVIATION**2
    knows_spread = t >= FEWEST_TASKS
    for _ in range(ROUNDS):
        variance = spread[groups]
        gram = moments.gram / noise[:, None, None]
        product = moments.product / noise[:, None]
        covariance = np.linalg.inv(gram + np.diag(1.0 / variance))  # (t, p, p)
        gain = gram @ covariance
        if knows_spread:  # the mean, by generalised least squares
            information = gram - gain @ gram
            V = np.linalg.inv(np.eye(p) / PRIOR_DEVIATION**2 + information.sum(0))
            mean = V @ (product - (gain @ product[:, :, None])[:, :, 0]).sum(0)
        own = (covariance @ (product + mean / variance)[:, :, None])[:, :, 0]  # (t, p)
        known = (own - mean) ** 2 + np.einsum("tpp->tp", covariance)
        if knows_spread:
            known = known + ((V @ gain) * gain).sum(1)  # as the mean is uncertain
        spread = np.maximum(np.bincount(groups, known.mean(0)) / sizes, LEAST_VARIANCE)
        rest = (
            moments.square
            - 2.0 * (own * moments.product).sum(1)
            + ((moments.gram @ own[:, :, None])[:, :, 0] * own).sum(1)
        )
        rest = np.maximum(rest + (moments.gram * covariance).sum((1, 2)), 0.0)
        pooled = max(rest.sum() / moments.count.sum(), LEAST_NOISE)
        noise = np.maximum((rest + NOISE_RUNS * pooled) / (moments.count + NOISE_RUNS), LEAST_NOISE)
    prior = t * V if knows_spread else np.diag(spread[groups])
    return AdditiveSurface(
        basis=basis,
        mean=mean,
        mean_covariance=V * (t / tasks) if knows_spread else np.zeros((p, p)),
        spread=spread[groups],
        prior=prior,
        noise=float(pooled),
    )
