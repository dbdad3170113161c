"""What did each past task look like, at every row that may be chosen? One Gaussian process per task.

A process is fitted once for each past task, whatever problem or seed it serves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from hpo.arrays import Array, Mask, best_and_some
from hpo.replay.problem import PastRuns, Problem
from hpo.statistics.loss_scale import LossScale
from hpo.surrogates.gaussian_process import GaussianProcess, cholesky, fit_kernel
from tests.benchmarks.rivals.remembered import Remembered, content

MODELLED_RUNS = 200  # of a task: beyond them the best half and a random one
DRAWS = 256  # of a task at all rows
EQUAL_DIGITS = 9  # coordinates closer than this are the same


@dataclass(frozen=True, kw_only=True, eq=False)
class PastModel:
    """A past task at the rows (m): on the scale of its own standardised losses."""

    process: GaussianProcess
    points: Array  # (m, d) the rows, as far as the task can tell them apart
    measured: Array  # (m,) standardised losses where the task ran the very row, else NaN

    @cached_property
    def mean(self) -> Array:
        """Posterior mean at the rows, shape (m,)."""
        return self._predicted[0]

    @cached_property
    def std(self) -> Array:
        """Posterior standard deviation at the rows, shape (m,)."""
        return self._predicted[1]

    @cached_property
    def draws(self) -> NDArray[np.float32]:
        """Joint posterior draws at the rows, shape (s, m). The time grows with the cube of m: meant for some 1,000."""
        mean, covariance = self.process.joint(self.points)
        noise = np.random.default_rng(len(mean)).standard_normal((DRAWS, len(mean)))
        return (mean + noise @ cholesky(covariance).T).astype(np.float32)

    @cached_property
    def best_known(self) -> Array:
        """The measured loss of each row, and the model's mean where there is none: shape (m,)."""
        return np.where(np.isnan(self.measured), self.mean, self.measured)

    @cached_property
    def _predicted(self) -> tuple[Array, Array]:
        return self.process.predict(self.points)


_processes: Remembered[tuple[GaussianProcess, LossScale]] = Remembered(512)
_models: Remembered[PastModel] = Remembered(256)


def past_models(problem: Problem) -> list[PastModel]:
    """The models of all past tasks that have a run."""
    categorical = problem.encoding.categorical
    rows = content(problem.points, categorical)
    return [
        _models.get(content(past.X, past.losses) + rows, lambda past=past: _model(past, problem.points, categorical))
        for past in problem.past
        if len(past.losses)
    ]


def _model(past: PastRuns, points: Array, categorical: Mask) -> PastModel:
    key = content(past.X, past.losses, categorical)
    process, scale = _processes.get(key, lambda: _fitted(past.X, past.losses, categorical))
    never_varied = np.ptp(past.X, axis=0) == 0.0  # it says nothing of such a parameter, whatever the row has
    seen = np.where(never_varied, past.X[0], points)
    return PastModel(process=process, points=seen, measured=_measured(past, scale, points))


def _fitted(X: Array, losses: Array, categorical: Mask) -> tuple[GaussianProcess, LossScale]:
    rng = np.random.default_rng(0)
    scale = LossScale.of(losses)
    chosen = best_and_some(losses, MODELLED_RUNS, rng)
    X, y = X[chosen], scale.standardise(losses[chosen])
    return GaussianProcess(X=X, y=y, kernel=fit_kernel([(X, y)], categorical, rng, restarts=0)), scale


def _measured(past: PastRuns, scale: LossScale, points: Array) -> Array:
    """The mean standardised loss of the runs at each of the points (m, d): shape (m,), NaN where there is none."""
    place = {row.tobytes(): index for index, row in enumerate(_rounded(points))}
    found = np.array([place.get(row.tobytes(), -1) for row in _rounded(past.X)], dtype=np.intp)
    y = scale.standardise(past.losses)[found >= 0]
    sums, counts = np.zeros(len(points)), np.zeros(len(points))
    np.add.at(sums, found[found >= 0], y)
    np.add.at(counts, found[found >= 0], 1.0)
    return np.where(counts > 0, sums / np.maximum(counts, 1.0), np.nan)


def _rounded(points: Array) -> Array:
    return np.ascontiguousarray(np.round(points, EQUAL_DIGITS) + 0.0)  # no negative zero


def mean_of_past(models: Sequence[PastModel]) -> Array:
    """What the past tasks say of the rows on average, all alike: shape (m,)."""
    return np.mean([model.mean for model in models], axis=0)
