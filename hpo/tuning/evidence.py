"""What do Optuna's trials say? Points, losses and what is still running, as arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from hpo.arrays import Array, Mask, best_and_some
from hpo.priors.costs import TaskCosts
from hpo.priors.portfolio import PastTask
from hpo.spaces.encoding import Encoding
from hpo.spaces.space_mapping import SpaceMapping
from hpo.statistics.loss_scale import LossScale
from storage.arrays import TrialArrays, counted_values
from storage.summaries import StudySample

CONSTRAINTS = "constraints"  # the trial system attribute of Optuna's samplers


@dataclass(frozen=True, kw_only=True, eq=False)
class Evidence:
    """What a study knows at the moment it is asked for a trial."""

    X: Array  # (n, d) finished trials
    losses: Array  # (n,) raw losses, finite
    pending: Array  # (p, d) running trials whose parameters are known
    tried: Array  # (q, d) every trial with parameters, whatever became of it
    waiting: int  # running trials with a lower number that have no parameters yet
    constraints: Array | None = None  # (n, c) at most 0 where they hold; NaN where unknown
    costs: Array | None = None  # (n,) of the finished trials; NaN where unknown

    @property
    def feasible(self) -> Mask:
        """Which finished trials keep all constraints, as far as that is known: shape (n,)."""
        if self.constraints is None:
            return np.ones(len(self.losses), dtype=bool)
        return np.asarray((self.constraints <= 0.0).all(axis=1), dtype=bool)

    def fingerprint(self, space: str) -> bytes:
        """The same for the same finished trials of a space, whatever else runs."""
        parts = [self.X, self.losses] if self.constraints is None else [self.X, self.losses, self.constraints]
        return sha256(b"".join([space.encode(), *(part.tobytes() for part in parts)])).digest()

    def at(self, rows: NDArray[np.intp]) -> Evidence:
        """Some of the finished trials."""
        return replace(
            self,
            X=self.X[rows],
            losses=self.losses[rows],
            constraints=None if self.constraints is None else self.constraints[rows],
            costs=None if self.costs is None else self.costs[rows],
        )

    @property
    def position(self) -> int:
        """How many trials go before the one that is asked for."""
        return len(self.tried) + self.waiting


@dataclass(frozen=True, kw_only=True, eq=False)
class PastStudy:
    """A finished study of another task, seen from the current space."""

    study_id: int
    name: str
    task: PastTask
    landmarks: Array  # (m, d) some of its configurations, moved to where the current space has them
    costs: TaskCosts | None = None  # of some of its trials, where they count


def gather(
    trials: Iterable[FrozenTrial],
    direction: StudyDirection,
    encoding: Encoding,
    number: int,
    *,
    objective: int = 0,
    cost: Callable[[FrozenTrial], float] | None = None,
) -> Evidence:
    """The evidence for trial `number` in the other `trials` of its study.

    objective: the place of its direction among several. cost: of a finished trial, NaN if unknown.
    """
    others = [trial for trial in trials if trial.number != number and trial.state != TrialState.WAITING]
    begun = [trial for trial in others if trial.params]
    finished, losses = losses_of(begun, direction, objective)
    return Evidence(
        X=encode_trials(finished, encoding),
        losses=losses,
        pending=encode_trials([trial for trial in begun if not trial.state.is_finished()], encoding),
        tried=encode_trials(begun, encoding),
        waiting=sum(1 for trial in others if trial.number < number and _is_without_parameters_yet(trial)),
        constraints=_constraints(finished),
        costs=None if cost is None else np.array([_cost_of(trial, cost) for trial in finished]),
    )


def look_back(
    study: StudySample,
    mapping: SpaceMapping,
    encoding: Encoding,
    *,
    most_trials: int,
    most_landmarks: int,
    rng: np.random.Generator,
) -> PastStudy | None:
    """A past study in the current space: at most so many of its trials. None if it says nothing.

    mapping: from the study's space to the current one. The study weighs by the square of the share of current
    parameters that it knows.
    """
    sign = _sign(StudyDirection[study.direction.upper()])
    translated = [mapping.translate(study.params(row)) for row in range(min(most_trials, len(study.values)))]
    said = [row for row, params in enumerate(translated) if params]
    if not said:
        return None
    points = encoding.raw([params for params in translated if params])
    known = float(np.mean(~np.isnan(points).all(axis=0)))
    if known == 0.0:
        return None
    scale = LossScale.of(sign * (study.values if len(study.values) == study.finished else study.quantiles))
    y = scale.standardise(sign * study.values[said])
    placed = encoding.project(np.where(np.isnan(points), encoding.moderate(len(points), rng), points))
    return PastStudy(
        study_id=study.study_id,
        name=study.name,
        task=PastTask(X=encoding.canonical(points), y=y, weight=known**2, scale=scale),
        landmarks=placed[best_and_some(y, most_landmarks, rng)],
    )


def past_costs(arrays: TrialArrays, mapping: SpaceMapping, encoding: Encoding) -> TaskCosts | None:
    """What trials of a past study have cost, in the current space; None where none of their parameters is known."""
    translated = [mapping.translate(arrays.params(row)) for row in range(len(arrays))]
    said = np.array([bool(params) for params in translated], dtype=bool)
    if not said.any():
        return None
    points = encoding.raw([params for params in translated if params])
    return TaskCosts.of(encoding.canonical(points), arrays.costs[said])


def encode_trials(trials: Sequence[FrozenTrial], encoding: Encoding) -> Array:
    """The trials as canonical points, shape (n, d)."""
    return encoding.encode([trial.params for trial in trials])


def losses_of(
    trials: Iterable[FrozenTrial], direction: StudyDirection, objective: int = 0
) -> tuple[list[FrozenTrial], Array]:
    """The finished trials that say something, with their losses (n,): smaller is better from here on."""
    finished = [trial for trial in trials if trial.state.is_finished()]
    states = np.array([trial.state.value for trial in finished], dtype=np.int64)
    values = np.array([_last_value(trial, objective) for trial in finished])
    sign = _sign(direction)
    losses = sign * counted_values(states, values, maximize=sign < 0)
    return ([], np.empty(0)) if np.isnan(losses).all() else (finished, losses)


def _cost_of(trial: FrozenTrial, cost: Callable[[FrozenTrial], float]) -> float:
    """Of a trial that went to its end: what was cut short is no cheaper for that."""
    return cost(trial) if trial.state == TrialState.COMPLETE else float("nan")


def _constraints(trials: Sequence[FrozenTrial]) -> Array | None:
    """What was noted of the constraints, shape (n, c); None where nothing was."""
    noted = [trial.system_attrs.get(CONSTRAINTS) for trial in trials]
    most = max((len(values) for values in noted if values is not None), default=0)
    if not most:
        return None
    known = np.array([values if values is not None and len(values) == most else [np.nan] * most for values in noted])
    return known if np.isfinite(known).all(axis=1).any() else None


def _sign(direction: StudyDirection) -> float:
    return -1.0 if direction == StudyDirection.MAXIMIZE else 1.0


def _is_without_parameters_yet(trial: FrozenTrial) -> bool:
    return not trial.params and not trial.state.is_finished()


def _last_value(trial: FrozenTrial, objective: int) -> float:
    if trial.state == TrialState.COMPLETE and trial.values is not None and len(trial.values) > objective:
        return float(trial.values[objective])
    if trial.state == TrialState.PRUNED and trial.intermediate_values:
        return float(trial.intermediate_values[max(trial.intermediate_values)])
    return float("nan")
