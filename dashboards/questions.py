"""What do pages ask of the past that takes seconds? Functions that a process of its own can answer.

As in `hpo.answers.questions`: a URL and words in, plain data out. Charts come as `dashboards.charts` makes them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache
from typing import Any

import numpy as np

from dashboards.charts import advice as advice_charts
from dashboards.charts import comparison as comparison_charts
from dashboards.charts import effects as effect_charts
from dashboards.charts.look import Chart
from dashboards.charts.task_map import task_map_chart
from hpo.answers.advice import RangeAdvice, advice_fields
from hpo.decisions.champions import list_champions
from hpo.decisions.comparisons import compare
from hpo.decisions.configuration_worth import worth as worth_of
from hpo.decisions.past_effects import PastEffects, past_effects
from hpo.decisions.range_advice import Advice, advise
from hpo.decisions.resemblance import resemblance
from hpo.decisions.study_courses import courses
from hpo.errors import NoHistoryError, SettingsError
from hpo.one_thread import one_thread
from storage.database import Store
from storage.repairs import oddities
from storage.target_arrays import target_revisions

REMEMBERED = 4  # pieces of advice, by the state of the history that they were given for

# Effects


def curve(store_url: str, *, target: str, where: str, parameter: str) -> Chart:
    """What each value of a parameter is worth. Raises NoHistoryError, QueryError, SettingsError."""
    with one_thread():
        found = _adjusted(store_url, target, where)
        return effect_charts.curve_chart(found, found.place_of(parameter))


def forest(store_url: str, *, target: str, where: str, parameter: str, place: int | None) -> Chart:
    """What each task says of a range of a parameter; without one, of its likeliest best. Raises as `curve`."""
    with one_thread():
        found = _adjusted(store_url, target, where)
        j = found.place_of(parameter)
        there = len(found.axes.axes[j].labels)
        if place is not None and place >= there:
            raise SettingsError(f"place = {place}: {parameter!r} has {there} ranges, from place 0 to {there - 1}")
        return effect_charts.forest_chart(found, j, likeliest_best(found, j) if place is None else place)


def likeliest_best(found: PastEffects, j: int) -> int:
    """The range of a parameter that is most probably its best."""
    assert found.best is not None
    start = sum(found.runs.sizes[:j])
    return int(np.argmax(np.nan_to_num(found.best[start : start + found.runs.sizes[j]], nan=-1.0)))


def importance(store_url: str, *, target: str, where: str) -> Chart:
    """What the outcome depends on. Raises as `curve`."""
    with one_thread():
        found = past_effects(_store(store_url), target, where=where)
        if found.importance is None:
            raise NoHistoryError("too few trials with different outcomes tell what they depend on")
        return effect_charts.importance_chart([axis.name for axis in found.axes.axes], found.importance)


def task_map(store_url: str, *, target: str, where: str) -> dict[str, Any]:
    """Which tasks resemble which: the chart, and the same in words. Raises as `curve`."""
    with one_thread():
        found = resemblance(past_effects(_store(store_url), target, where=where))
    return {"chart": task_map_chart(found), "map": asdict(found)}


def worth(store_url: str, *, target: str, where: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """What a configuration is worth in a new task. Raises as `curve`."""
    with one_thread():
        return asdict(worth_of(_adjusted(store_url, target, where), params))


def _adjusted(store_url: str, target: str, where: str) -> PastEffects:
    found = past_effects(_store(store_url), target, where=where)
    if found.adjustment is None:
        raise NoHistoryError(f"no task of {target!r} has two different outcomes, so there is nothing to draw")
    return found


# Data quality


def quality(store_url: str, *, target: str) -> list[dict[str, Any]]:
    """What is odd about the studies of a family, and what would mend it. Raises FamilyNotFoundError."""
    with one_thread():
        return [asdict(each) for each in oddities(_store(store_url), target)]


# Advice


def advice(store_url: str, *, target: str, together: bool) -> RangeAdvice:
    """Where a good value of each parameter lies. Raises NoHistoryError, SettingsError."""
    return advice_fields(_advice(store_url, target, together), together=together)


def advice_chart(store_url: str, *, target: str, together: bool, parameter: str) -> Chart:
    """What each task found good of a parameter. Raises NoHistoryError, SettingsError."""
    found = _advice(store_url, target, together)
    region = next((region for region in found.regions if region.name == parameter), None)
    if region is None:
        names = ", ".join(region.name for region in found.regions)
        raise NoHistoryError(f"nothing is advised for {parameter!r}; there is advice for: {names}")
    return advice_charts.advice_chart(region)


_advised: OrderedDict[Any, Advice] = OrderedDict()


def _advice(store_url: str, target: str, together: bool) -> Advice:
    store = _store(store_url)
    key = store_url, target, together, target_revisions(store, target)
    if key not in _advised:
        with one_thread():
            _advised[key] = advise(store, target, together=together)
        if len(_advised) > REMEMBERED:
            _advised.popitem(last=False)
    return _advised[key]


# Comparisons


def comparison(store_url: str, *, sides: Sequence[str]) -> dict[str, Any]:
    """How the first of several sides compares with the others: in words, and a chart for each unit.

    Raises StudyNotFoundError, TrialNotFoundError, NoHistoryError, SettingsError.
    """
    with one_thread():
        found = compare(*sides, storage=_store(store_url))
    units = list(dict.fromkeys(row.unit for row in found.rows))
    charts = [comparison_charts.gain_chart([row for row in found.rows if row.unit == unit]) for unit in units]
    return {"comparison": found.to_json(), "charts": charts}


def course(store_url: str, *, sides: Sequence[str]) -> Chart:
    """The best so far of each side. Raises StudyNotFoundError, NoHistoryError, SettingsError."""
    found, metric = courses(_store(store_url), sides)
    return comparison_charts.course_chart(found, metric=metric)


# Models


def champions(store_url: str, *, mlflow_uri: str) -> list[dict[str, Any]]:
    """The champions of MLflow's registry. Raises MlflowUnavailableError where MLflow does not answer."""
    return [asdict(champion) | {"model_uri": champion.model_uri} for champion in list_champions(mlflow_uri)]


@cache
def _store(url: str) -> Store:
    return Store(url)
