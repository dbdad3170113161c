r"""What will a trial cost? From what past tasks have cost, from the first trial on, and from this study's own trials.

The logarithm of a cost is a level of the task, a shape that all tasks share, a departure of the task's own, and noise:
Gaussian processes with one kernel k,

    $cov = a^2 [t = t'] + s^2 k(x, x') (\rho + (1 - \rho) [t = t']) + noise [same trial]$.

So past tasks tell which configurations are dear, and the study's own trials tell how dear a trial is here. Which $\rho$
is to be believed is told by how far past tasks share their shape (Bonilla, Chai and Williams, Multi-task Gaussian
Process Prediction, NIPS 2007, with the one number for all pairs of tasks). In case this task is not like them it counts
beside a process that knows this study's costs alone, each by its evidence.

Notation: t past tasks, n costs, m points, d parameters. Logarithms are natural.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, solve_triangular
from scipy.special import expit, ndtri

from hpo.arrays import Array, Mask
from hpo.surrogates.gaussian_process import GaussianProcess, Kernel, cholesky, fit_kernel

LEAST_OWN = 3  # costs of this study, before those of other trials are foreseen without a past
LEAST_OF_A_TASK = 4  # costs of a past task that says something
TASKS, COSTS_OF_A_TASK = 32, 12  # of the past, at most: a proposal looks at them all
FITTED_TASKS = 8  # for the kernel
KINSHIPS = (0.0, 0.5, 0.8, 0.9, 0.95, 0.99)
USUAL_KINSHIP = 0.8  # where one past task cannot tell (heuristic)
FIRST_LEVEL_DEVIATION = 1.5  # prior of the log level around past ones: a factor of 4.5 either way (heuristic) ...
LEVEL_TASKS = 2.0  # ... which counts as so many past tasks
DOUBT = 0.1  # that this task's costs have nothing in common with past ones (heuristic)
LEAST_SPREAD = 1e-3  # of log costs: a thousandth
LEAST_NOISE = 1e-4  # variance, in spreads
INTERVAL = 0.9


@dataclass(frozen=True, kw_only=True, eq=False)
class TaskCosts:
    """What trials of one task have cost."""

    X: Array  # (n, d)
    logs: Array  # (n,)

    @classmethod
    def of(cls, X: Array, costs: Array) -> TaskCosts:
        """Without those that are unknown, or no cost: NaN, infinite, zero or less."""
        known = np.isfinite(costs) & (costs > 0.0)
        return cls(X=X[known], logs=np.log(costs[known]))


@dataclass(frozen=True, kw_only=True, eq=False)
class PastCosts:
    """The costs of past tasks, and what was learned from them."""

    tasks: Sequence[TaskCosts]  # t, at least one
    kernel: Kernel  # its noise in spreads
    kinship: float  # rho

    @cached_property
    def levels(self) -> Array:
        """The mean log cost of each task, shape (t,)."""
        return np.array([task.logs.mean() for task in self.tasks])

    @cached_property
    def spread(self) -> float:
        """s: the standard deviation of a task's log costs."""
        within = np.concatenate([task.logs - task.logs.mean() for task in self.tasks])
        return max(float(np.sqrt(np.mean(within**2))), LEAST_SPREAD)

    @property
    def level(self) -> float:
        """The log cost of a usual task."""
        return float(self.levels.mean())

    @cached_property
    def level_deviation(self) -> float:
        """a: of the level of a new task."""
        squares = float(((self.levels - self.level) ** 2).sum())
        return float(np.sqrt((squares + LEVEL_TASKS * FIRST_LEVEL_DEVIATION**2) / (len(self.levels) + LEVEL_TASKS)))


@dataclass(frozen=True, kw_only=True, eq=False)
class CostModel:
    """What trials of this study will cost: an average of processes in log costs."""

    parts: Sequence[tuple[float, _Process]]  # with their weights, which sum to one

    def mean_log(self, points: Array) -> Array:
        """Expected log cost at points (m, d): shape (m,)."""
        return np.asarray(np.sum([weight * process.mean_log(points) for weight, process in self.parts], axis=0))

    def predict(self, point: Array) -> tuple[float, tuple[float, float]]:
        """The median of the next cost at a point (d,), and its 90% interval."""
        weights = np.array([weight for weight, _ in self.parts])
        means, variances = np.array([process.next_log(point) for _, process in self.parts]).T
        mean = float(weights @ means)
        deviation = float(np.sqrt(weights @ (variances + (means - mean) ** 2)))
        far = float(ndtri((1.0 + INTERVAL) / 2.0)) * deviation
        return float(np.exp(mean)), (float(np.exp(mean - far)), float(np.exp(mean + far)))


def learn_costs(tasks: Sequence[TaskCosts], categorical: Mask, rng: np.random.Generator) -> PastCosts | None:
    """What past tasks' costs teach; None where none has enough of them. The latest tasks come last."""
    telling = telling_tasks(tasks)
    if not telling:
        return None
    unfitted = PastCosts(tasks=telling, kernel=Kernel.prior_mode(categorical), kinship=USUAL_KINSHIP)
    sample = [telling[i] for i in rng.permutation(len(telling))[:FITTED_TASKS]]
    centred = [(task.X, (task.logs - task.logs.mean()) / unfitted.spread) for task in sample]
    kernel = fit_kernel(centred, categorical, rng, restarts=1)
    if len(telling) == 1:
        return replace(unfitted, kernel=kernel)
    return max(
        (replace(unfitted, kernel=kernel, kinship=kinship) for kinship in KINSHIPS),
        key=lambda past: _Related.of(past, past.tasks).log_density,
    )


def telling_tasks(tasks: Sequence[TaskCosts]) -> list[TaskCosts]:
    """Those that are learned from."""
    return [task for task in tasks if len(task.logs) >= LEAST_OF_A_TASK][-TASKS:]


def cost_model(own: TaskCosts, past: PastCosts | None, categorical: Mask, rng: np.random.Generator) -> CostModel | None:
    """What further trials cost, given the study's own so far and the past; None where that is too little to say."""
    alone = _Alone.of(own, categorical, rng) if len(own.logs) >= LEAST_OWN else None
    if past is None:
        return None if alone is None else CostModel(parts=[(1.0, alone)])
    related = _Related.of(past, [*past.tasks, own])
    if alone is None:
        return CostModel(parts=[(1.0, related)])
    # weighed against the same process without the past: a kernel that these few costs chose would look too likely
    log_odds = related.log_density - _Related.of(past, past.tasks).log_density - _Related.of(past, [own]).log_density
    trust = float(expit(log_odds + np.log((1.0 - DOUBT) / DOUBT)))
    return CostModel(parts=[(trust, related), (1.0 - trust, alone)])


def before_the_first(past: PastCosts) -> CostModel:
    """What the past alone leads to expect of a new study."""
    nothing = TaskCosts(X=past.tasks[0].X[:0], logs=np.empty(0))
    return CostModel(parts=[(1.0, _Related.of(past, [*past.tasks, nothing]))])


class _Process(Protocol):
    def mean_log(self, points: Array) -> Array:
        """Expected log cost at points (m, d): shape (m,)."""
        ...

    def next_log(self, point: Array) -> tuple[float, float]:
        """Mean and variance of the next log cost at a point (d,), noise included."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class _Related:
    """The costs of some tasks together; what is predicted is that of the last one."""

    past: PastCosts
    X: Array  # (n, d) of all tasks
    y: Array  # (n,) log costs from the usual level, in spreads
    owners: NDArray[np.intp]  # (n,) whose
    last: int  # the task that is predicted

    @classmethod
    def of(cls, past: PastCosts, tasks: Sequence[TaskCosts]) -> _Related:
        return cls(
            past=past,
            X=np.vstack([task.X for task in tasks]),
            y=(np.concatenate([task.logs for task in tasks]) - past.level) / past.spread,
            owners=np.repeat(np.arange(len(tasks)), [len(task.logs) for task in tasks]),
            last=len(tasks) - 1,
        )

    @cached_property
    def log_density(self) -> float:
        """Of the standardised log costs."""
        half = solve_triangular(self._factor, self.y, lower=True, check_finite=False)
        n = len(self.y)
        return float(-0.5 * half @ half - np.log(np.diag(self._factor)).sum() - 0.5 * n * np.log(2.0 * np.pi))

    def mean_log(self, points: Array) -> Array:
        mean: Array = self.past.level + self.past.spread * self._cross(points) @ self._alpha
        return mean

    def next_log(self, point: Array) -> tuple[float, float]:
        cross = self._cross(point[None, :])[0]
        half = solve_triangular(self._factor, cross, lower=True, check_finite=False)
        variance = self._level_variance + 1.0 - float(half @ half) + self._noise
        return float(self.mean_log(point[None, :])[0]), self.past.spread**2 * max(variance, LEAST_NOISE)

    def _cross(self, points: Array) -> Array:
        """Covariance of the last task at points (m, d) with all that is known: shape (m, n)."""
        is_own = (self.owners == self.last)[None, :]
        return self._covariance(self.past.kernel.correlation(points, self.X), is_own)

    def _covariance(self, correlation: Array, is_same_task: Mask) -> Array:
        kinship = self.past.kinship
        covariance: Array = correlation * np.where(is_same_task, 1.0, kinship) + self._level_variance * is_same_task
        return covariance

    @property
    def _level_variance(self) -> float:
        return (self.past.level_deviation / self.past.spread) ** 2

    @property
    def _noise(self) -> float:
        return max(self.past.kernel.noise, LEAST_NOISE)

    @cached_property
    def _factor(self) -> Array:
        correlation = self.past.kernel.correlation(self.X, self.X)
        covariance = self._covariance(correlation, self.owners[:, None] == self.owners[None, :])
        return cholesky(covariance + self._noise * np.eye(len(self.y)))

    @cached_property
    def _alpha(self) -> Array:
        return np.asarray(cho_solve((self._factor, True), self.y, check_finite=False))


@dataclass(frozen=True, kw_only=True, eq=False)
class _Alone:
    """The study's own costs, as if there were no past."""

    process: GaussianProcess
    centre: float
    spread: float

    @classmethod
    def of(cls, own: TaskCosts, categorical: Mask, rng: np.random.Generator) -> _Alone:
        centre, spread = float(own.logs.mean()), max(float(own.logs.std()), LEAST_SPREAD)
        y = (own.logs - centre) / spread
        kernel = fit_kernel([(own.X, y)], categorical, rng, restarts=1)
        return cls(process=GaussianProcess(X=own.X, y=y, kernel=kernel), centre=centre, spread=spread)

    def mean_log(self, points: Array) -> Array:
        return self.centre + self.spread * self.process.mean(points)

    def next_log(self, point: Array) -> tuple[float, float]:
        mean, deviation = self.process.predict(point[None, :])
        variance = float(deviation[0]) ** 2 + self.process.kernel.noise
        return self.centre + self.spread * float(mean[0]), self.spread**2 * variance
