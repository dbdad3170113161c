"""What does a study's own model say along one hyperparameter, or over two, around its best configuration?

A Gaussian process on the complete trials of the study, without history: what can be seen in the study itself. A slice
goes through the best configuration by that model; where the hyperparameter does not matter there, through the best one
in which it does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpo.arrays import Array, best_and_some
from hpo.decisions.winner import encoding_of
from hpo.errors import NoHistoryError, SettingsError
from hpo.one_thread import one_thread
from hpo.spaces.encoding import Encoding, decode_value
from hpo.statistics.loss_scale import LossScale
from hpo.studies.replicates import is_usable, value_of
from hpo.surrogates.gaussian_process import GaussianProcess, fit_kernel
from storage import history
from storage.database import Store
from storage.history import StudySummary, TrialRecord

FEWEST_TRIALS = 4  # complete ones: with fewer a surface says nothing (heuristic)
FITTED_TRIALS = 200  # the best, and some of the others
POINTS = 64  # of a slice
SIDE = 24  # points of a plane along each of its axes
TWO_SIDED_95 = 1.959964


@dataclass(frozen=True, kw_only=True)
class Slice:
    """What is expected along one hyperparameter, all others as at the best."""

    parameter: str
    values: list[Any]  # (m,) of the hyperparameter
    expected: list[float]  # (m,) of the metric
    low: list[float]  # (m,) 95% interval of the expectation
    high: list[float]
    others: dict[str, Any]  # the configuration that the slice goes through


@dataclass(frozen=True, kw_only=True)
class Plane:
    """The same over two."""

    parameters: tuple[str, str]
    values: tuple[list[Any], list[Any]]  # (a,), (b,)
    expected: list[list[float]]  # (b, a)
    low: list[list[float]]
    high: list[list[float]]
    others: dict[str, Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class Surface:
    """The model of one study."""

    study: StudySummary
    encoding: Encoding
    process: GaussianProcess
    scale: LossScale
    sign: float  # of the metric against its loss
    fitted: int  # trials

    def along(self, parameter: str) -> Slice:
        """One hyperparameter. Raises SettingsError for one that the study has not."""
        column = self._column(parameter)
        point = self._best_with([column])
        coordinates = self._coordinates(column, POINTS)
        points = np.repeat(point[None, :], len(coordinates), axis=0)
        points[:, column] = coordinates
        expected, low, high = self._predict(points)
        return Slice(
            parameter=parameter,
            values=self._values(column, coordinates),
            expected=expected.tolist(),
            low=low.tolist(),
            high=high.tolist(),
            others=self.encoding.decode(point),
        )

    def over(self, first: str, second: str) -> Plane:
        """Two hyperparameters. Raises SettingsError for one that the study has not, and for twice the same."""
        if first == second:
            raise SettingsError(f"{first!r} twice makes no plane; name two hyperparameters")
        columns = [self._column(first), self._column(second)]
        point = self._best_with(columns)
        across, up = (self._coordinates(column, SIDE) for column in columns)
        points = np.repeat(point[None, :], len(across) * len(up), axis=0)
        points[:, columns[0]], points[:, columns[1]] = np.tile(across, len(up)), np.repeat(up, len(across))
        shape = len(up), len(across)
        expected, low, high = (each.reshape(shape).tolist() for each in self._predict(points))
        return Plane(
            parameters=(first, second),
            values=(self._values(columns[0], across), self._values(columns[1], up)),
            expected=expected,
            low=low,
            high=high,
            others=self.encoding.decode(point),
        )

    def _column(self, parameter: str) -> int:
        if parameter not in self.encoding.names:
            names = ", ".join(self.encoding.names)
            raise SettingsError(f"study {self.study.name!r} has no hyperparameter {parameter!r}; it has: {names}")
        return self.encoding.names.index(parameter)

    def _best_with(self, columns: Sequence[int]) -> Array:
        """The best tried point by the model, of those where all of these matter if there are any."""
        mean = self.process.mean(self.process.X)
        active = self.encoding.active(self.process.X)[:, columns].all(axis=1)
        best: Array = self.process.X[np.argmin(np.where(active, mean, np.inf) if active.any() else mean)]
        return best

    def _coordinates(self, column: int, most: int) -> Array:
        grid = self.encoding.grid[column]
        if grid is None:
            return np.linspace(0.0, 1.0, most)
        places = np.unique(np.linspace(0, len(grid) - 1, min(most, len(grid))).round().astype(np.intp))
        chosen: Array = grid[places]
        return chosen

    def _values(self, column: int, coordinates: Array) -> list[Any]:
        distribution = list(self.encoding.space.distributions.values())[column]
        return [decode_value(distribution, float(coordinate)) for coordinate in coordinates]

    def _predict(self, points: Array) -> tuple[Array, Array, Array]:
        """Expectation, lower and upper end, each (m,), in the metric's units."""
        mean, deviation = self.process.predict(points)
        middle, one, other = (
            self.sign * self.scale.restore(mean + z * deviation) for z in (0.0, -TWO_SIDED_95, TWO_SIDED_95)
        )
        return middle, np.minimum(one, other), np.maximum(one, other)


def study_surface(store: Store, study_id: int) -> Surface:
    """The model of a study as it stands.

    Raises StudyNotFoundError; NoHistoryError where too few trials tell; SettingsError for several objectives.
    """
    study = history.study_of_id(store, study_id)
    if len(study.directions) > 1:
        raise SettingsError(f"study {study.name!r} has {len(study.directions)} objectives: there is no one surface")
    trials = history.list_trials(store, study_id)
    return surface_of(study, trials)


def surface_of(study: StudySummary, trials: Sequence[TrialRecord]) -> Surface:
    """The same from its trials."""
    complete = [trial for trial in trials if is_usable(trial) and trial.params]
    sign = -1.0 if study.directions[0] == "maximize" else 1.0
    losses = np.array([sign * value_of(trial) for trial in complete])
    if len(complete) < FEWEST_TRIALS or np.ptp(losses) == 0.0:
        raise NoHistoryError(
            f"study {study.name!r} has {len(complete)} complete trials that differ in their values; its surface can be "
            f"told from {FEWEST_TRIALS}"
            if len(complete) < FEWEST_TRIALS
            else f"all {len(complete)} complete trials of study {study.name!r} came out the same: there is no surface"
        )
    rng = np.random.default_rng(0)
    rows = best_and_some(losses, FITTED_TRIALS, rng)
    encoding, scale = encoding_of(study, trials), LossScale.of(losses)
    X = encoding.encode([complete[row].params for row in rows])
    y = scale.standardise(losses[rows])
    with one_thread():
        kernel = fit_kernel([(X, y)], encoding.categorical, rng, restarts=1)
        process = GaussianProcess(X=X, y=y, kernel=kernel)
    return Surface(study=study, encoding=encoding, process=process, scale=scale, sign=sign, fitted=len(rows))
