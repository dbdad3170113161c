"""What do a study's pages ask that takes seconds? As in `dashboards.questions`: a URL and ids in, plain data out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.trial import TrialState

from dashboards.charts.effects import importance_chart
from dashboards.charts.look import Chart
from dashboards.charts.surface import Tried, plane_chart, slice_chart
from hpo.decisions.past_effects import past_effects
from hpo.decisions.study_surface import study_surface
from hpo.decisions.worth_course import worth_course
from hpo.errors import NoHistoryError
from hpo.one_thread import one_thread
from hpo.tuning.pruner import HistoryPruner
from storage.database import Store
from storage.history import StudySummary, study_of_id
from storage.optuna_storage import HistoryStorage
from storage.study_columns import StudyColumns, study_columns


def worth(store_url: str, *, study_id: int) -> list[dict[str, Any]]:
    """What the best was worth at some stages. Raises StudyNotFoundError."""
    with one_thread():
        return [asdict(stage) for stage in worth_course(_store(store_url), study_id)]


def slices(store_url: str, *, study_id: int, parameters: Sequence[str]) -> Chart:
    """A study's surface along one hyperparameter or over two. Raises as `hpo.decisions.study_surface`."""
    store = _store(store_url)
    surface = study_surface(store, study_id)
    study, metric = surface.study, surface.study.objectives[0]
    points, space = tried(study_columns(store, study_id)), surface.encoding.space.distributions
    if len(parameters) == 1:
        found = surface.along(parameters[0])
        return slice_chart(found, points, space[parameters[0]], metric=metric)
    first, second = parameters
    plane = surface.over(first, second)
    maximize = study.directions[0] == "maximize"
    return plane_chart(plane, points, [space[first], space[second]], metric=metric, maximize=maximize)


def importance(store_url: str, *, study_id: int) -> Chart:
    """What a study's outcome depends on, by its own trials. Raises StudyNotFoundError, NoHistoryError."""
    store = _store(store_url)
    study = study_of_id(store, study_id)
    quoted = study.name.replace("'", "''")
    with one_thread():
        found = past_effects(store, study.task or study.family, where=f"study = '{quoted}'")
        if found.importance is None:
            raise NoHistoryError("too few trials with different outcomes tell what they depend on")
        return importance_chart([axis.name for axis in found.axes.axes], found.importance)


def endings(store_url: str, *, study_id: int, numbers: Sequence[int]) -> dict[str, Any]:
    """Where running trials are heading, as the pruner that learns from history sees it, by their numbers."""
    import optuna  # noqa: PLC0415 - each question imports what it takes

    store = _store(store_url)
    study = study_of_id(store, study_id)
    if len(study.directions) > 1:
        return {}
    opened = optuna.load_study(study_name=study.name, storage=_storage(store_url))
    running = [trial for trial in opened.get_trials(deepcopy=False) if trial.number in numbers]
    with one_thread():
        found = {trial.number: _pruner(store_url).outlook(opened, trial) for trial in running}
    return {str(number): asdict(outlook) for number, outlook in found.items() if outlook is not None}


def tried(columns: StudyColumns) -> list[Tried]:
    """The trials that have a value, complete or pruned, by number."""
    names = list(columns.params)
    return [
        (
            number,
            state.name.lower(),
            value,
            {name: columns.params[name][at] for name in names if columns.params[name][at] is not None},
        )
        for at, (number, state, value) in enumerate(zip(columns.numbers, columns.states, columns.values, strict=True))
        if math.isfinite(value) and state in (TrialState.COMPLETE, TrialState.PRUNED)
    ]


def space_of(study: StudySummary, distributions: dict[str, BaseDistribution]) -> dict[str, BaseDistribution]:
    """The hyperparameters of a study in the order in which it declares them."""
    declared = [name for name in study.space or {} if name in distributions]
    return {name: distributions[name] for name in [*declared, *(n for n in distributions if n not in declared)]}


@cache
def _store(url: str) -> Store:
    return Store(url)


@cache
def _storage(url: str) -> HistoryStorage:
    return HistoryStorage(url)


@cache
def _pruner(url: str) -> HistoryPruner:
    return HistoryPruner(_storage(url))
