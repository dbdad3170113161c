"""What can be asked of the past, as functions that a process of its own can answer: a URL and words in, plain data out.

Each opens the history that the URL names, once per process, and works on one thread.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, cast

from typing_extensions import TypedDict

from hpo.answers.advice import RangeAdvice, advice_fields
from hpo.answers.effects import Effects, ParameterImportance, chosen_places, effects_fields, importance_fields
from hpo.answers.front import FrontFound
from hpo.answers.history import FamilyQuality, SpacesFound
from hpo.answers.plan import Plan, forecast_fields
from hpo.decisions.resemblance import PlacedTask
from hpo.errors import SpecError
from hpo.one_thread import one_thread
from storage.database import Store

if TYPE_CHECKING:
    from hpo.decisions.comparisons import Comparisons
    from hpo.decisions.winner import Best


class TaskMap(TypedDict):
    """Which past tasks resemble which: near ones have similar response surfaces."""

    target: str
    tasks: tuple[PlacedTask, ...]
    kept: float  # share of the squares of the distances that two axes show
    least: float  # the correlation of the two tasks that resemble each other least
    looked_at: int  # of how many tasks, the latest
    flat: tuple[str, ...]  # tasks whose outcome depends on nothing


def effects(
    store_url: str,
    *,
    target: str,
    where: str = "",
    parameters: Sequence[str] = (),
    pairs: bool = False,
    importance: bool = False,
    raw_units: bool = False,
) -> Effects:
    """`hpo stats`. Raises NoHistoryError, QueryError, SettingsError."""
    from hpo.decisions.past_effects import past_effects  # noqa: PLC0415 - each question imports what it takes

    with one_thread():
        found = past_effects(_store(store_url), target, where=where, raw_units=raw_units)
        return effects_fields(found, chosen_places(found, parameters), pairs=pairs, importance=importance)


def importance(store_url: str, *, target: str, where: str = "") -> ParameterImportance | None:
    """Which parameters the outcome depends on; None where too few trials tell. Raises as `effects`."""
    from hpo.decisions.past_effects import past_effects  # noqa: PLC0415

    with one_thread():
        found = past_effects(_store(store_url), target, where=where)
        return importance_fields(found, found.importance)


def resemblance(store_url: str, *, target: str, where: str = "") -> TaskMap:
    """Which past tasks resemble which. Raises as `effects`, and NoHistoryError for fewer than three tasks."""
    from hpo.decisions.past_effects import past_effects  # noqa: PLC0415
    from hpo.decisions.resemblance import resemblance as mapped  # noqa: PLC0415

    with one_thread():
        found = mapped(past_effects(_store(store_url), target, where=where))
        return cast("TaskMap", {"target": target, **vars(found)})


def quality(store_url: str, *, family: str) -> FamilyQuality:
    """What is odd about the studies of a family, and what would mend it. Raises FamilyNotFoundError."""
    from storage.repairs import oddities  # noqa: PLC0415

    with one_thread():
        return {"family": family, "oddities": oddities(_store(store_url), family)}


def best(store_url: str, *, study: str, against: int | Mapping[str, Any] | None = None) -> Best:
    """`hpo best`. Raises StudyNotFoundError, TrialNotFoundError, SettingsError."""
    from hpo.decisions.winner import best as judged  # noqa: PLC0415

    with one_thread():
        return judged(study, _store(store_url), against=against)


def front(store_url: str, *, study: str) -> FrontFound:
    """`hpo front`. Raises StudyNotFoundError, NoHistoryError, SettingsError."""
    from hpo.answers.front import front_fields  # noqa: PLC0415
    from hpo.studies.front import front as found  # noqa: PLC0415

    return front_fields(found(study, _store(store_url)))


def compare(store_url: str, *, first: str, others: Sequence[str]) -> Comparisons:
    """`hpo compare`. Raises StudyNotFoundError, TrialNotFoundError, NoHistoryError, SettingsError."""
    from hpo.decisions.comparisons import compare as compared  # noqa: PLC0415

    with one_thread():
        return compared(first, *others, storage=_store(store_url))


def plan(store_url: str, *, file: Mapping[str, Any], jobs: int = 1, price_per_hour: float | None = None) -> Plan:
    """`hpo plan` of the content of a study file. Raises SpecError."""
    from hpo.decisions.forecast import forecast  # noqa: PLC0415
    from hpo.studies.study_file import parse_spec  # noqa: PLC0415

    with one_thread():
        found = forecast(_store(store_url), parse_spec(file), jobs=jobs, price_per_hour=price_per_hour)
        return forecast_fields(found)


def forecast_of_study(store_url: str, *, study_id: int) -> Plan | None:
    """What history predicted of a study before its first trial, from its study file. Raises StudyNotFoundError.

    None where the file is not kept, or cannot be read any more.
    """
    from hpo.decisions.forecast import forecast  # noqa: PLC0415
    from hpo.studies.study_file import parse_spec  # noqa: PLC0415
    from storage.history import study_of_id  # noqa: PLC0415

    study = study_of_id(_store(store_url), study_id)
    if study.spec is None:
        return None
    try:
        spec = parse_spec(study.spec)
    except SpecError:
        return None
    with one_thread():
        return forecast_fields(forecast(_store(store_url), spec, before=study.created_at))


def advise(store_url: str, *, target: str, together: bool = False) -> RangeAdvice:
    """`hpo advise`. Raises NoHistoryError, SettingsError."""
    from hpo.decisions.range_advice import advise as advised  # noqa: PLC0415

    with one_thread():
        return advice_fields(advised(_store(store_url), target, together=together), together=together)


def spaces(store_url: str) -> SpacesFound:
    """`hpo history spaces`."""
    from hpo.answers.history import relations_fields  # noqa: PLC0415
    from hpo.spaces.related_families import related  # noqa: PLC0415
    from storage.overview import overview  # noqa: PLC0415

    families = overview(_store(store_url)).families
    return relations_fields(families, related(families))


@cache
def _store(url: str) -> Store:
    return Store(url)
