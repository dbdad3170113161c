"""Which trials of a study of several objectives does no other beat in all of them?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna.study._multi_objective import _is_pareto_front
from optuna.trial import TrialState

from hpo.errors import NoHistoryError, SettingsError
from storage import history
from storage.database import Store
from storage.history import StudySummary, TrialRecord


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What is measured, and which way is better."""

    metric: str
    direction: str


@dataclass(frozen=True, kw_only=True)
class Point:
    """A complete trial."""

    number: int
    values: tuple[float, ...]  # one per objective
    params: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Front:
    """The trade-offs that a study has found."""

    study: str
    objectives: tuple[Objective, ...]
    points: tuple[Point, ...]  # that no other beats, the best of the first objective first
    beaten: tuple[Point, ...]  # by number
    left_out: int  # trials without values: pruned, failed, or not finished


def front(study: str, store: Store) -> Front:
    """The front of a study. Raises StudyNotFoundError, SettingsError, NoHistoryError."""
    summary = history.get_study(store, study)
    if len(summary.directions) < 2:
        raise SettingsError(
            f"study {study!r} has one objective, {summary.objectives[0]}: `hpo best` tells which trial is best. "
            "A front needs `task.against: [{metric: …, direction: …}]` in the study file"
        )
    found = front_of(summary, history.list_trials(store, summary.study_id))
    if not found.points:
        raise NoHistoryError(f"no trial of study {study!r} has been completed yet")
    return found


def front_of(summary: StudySummary, trials: Sequence[TrialRecord]) -> Front:
    """The front of the complete trials; empty where there are none."""
    complete = [
        Point(number=trial.number, values=trial.values, params=trial.params)
        for trial in trials
        if trial.state == TrialState.COMPLETE and len(trial.values) == len(summary.directions)
    ]
    is_unbeaten = unbeaten([point.values for point in complete], summary.directions)
    points = [point for point, is_on in zip(complete, is_unbeaten, strict=True) if is_on]
    sign = -1.0 if summary.directions[0] == "maximize" else 1.0
    named = zip(summary.objectives, summary.directions, strict=True)
    return Front(
        study=summary.name,
        objectives=tuple(Objective(metric=metric, direction=direction) for metric, direction in named),
        points=tuple(sorted(points, key=lambda point: (sign * point.values[0], point.number))),
        beaten=tuple(point for point, is_on in zip(complete, is_unbeaten, strict=True) if not is_on),
        left_out=len(trials) - len(complete),
    )


def unbeaten(values: Sequence[Sequence[float]], directions: Sequence[str]) -> list[bool]:
    """For each trial, whether no other is at least as good in every objective and better in one."""
    if not values:
        return []
    signs = np.array([-1.0 if direction == "maximize" else 1.0 for direction in directions])
    losses = np.asarray(values, dtype=float) * signs
    is_on: list[bool] = _is_pareto_front(losses, assume_unique_lexsorted=False).tolist()
    return is_on
