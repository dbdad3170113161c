"""`/families/…` and `/tasks?name=…`: what is known of a family or a task, and what does that say of a new one?

A page comes at once with what is counted quickly; what is estimated follows as parts and figures of their own, which
`dashboards.questions` answers in another process.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby, islice
from typing import Annotated, Any, Literal
from urllib.parse import quote, urlencode

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import HTMLResponse, Response, StreamingResponse

from dashboards import questions
from dashboards.frame import PageReader, page
from hpo.answers import questions as answers
from hpo.answers.trial_table import columns_of, text_chunks
from hpo.api.access import ServiceState
from hpo.api.answers import already_json, as_json
from hpo.api.paging import Cursor, decode_cursor, encode_cursor
from hpo.api.slow_answers import SlowRoute
from hpo.errors import NoHistoryError
from hpo.service.calculations import Question
from hpo.service.state import Service
from storage import history, queries
from storage.errors import did_you_mean
from storage.families import Family, list_families
from storage.overview import FamilyOverview, known_names, overview
from storage.query_language import And, Comparison, Condition, Field, parse
from storage.target_arrays import target_revisions
from storage.task_overview import TaskOverview, list_tasks

ROWS_SHOWN = 50
COLUMNS_SHOWN = 8  # of parameters, in the table of trials
OUT_OF_SIGHT = 0.6  # times what means span: so far a prediction is followed

Target = Annotated[str, Query(min_length=1, max_length=400, description="The name of a family or a task.")]
Where = Annotated[str, Query(max_length=10_000, description="Only trials that meet a condition.")]
View = Annotated[Literal["effects", "advice", "map", "trials", "quality"], Query(description="What of it is shown.")]
Kind = Annotated[Literal["family", "task"], Query(description="Which of them the target is.")]
Parameter = Annotated[str | None, Query(max_length=400, description="The parameter that is looked at.")]

router = APIRouter(route_class=SlowRoute)


@dataclass(frozen=True, kw_only=True)
class _About:
    """What a page says at once of a family or a task."""

    kind: Literal["family", "task"]
    name: str
    metrics: tuple[str, ...]  # with their directions
    families: tuple[str, ...]  # of a task
    tasks: int
    studies: int
    trials: int
    quarantined: int
    space: Mapping[str, Mapping[str, Any]]


@router.get("/families/{name:path}")
def get_family(
    request: Request,
    who: PageReader,
    service: ServiceState,
    name: Annotated[str, Path(max_length=400)],
    view: View = "effects",
    where: Where = "",
    parameter: Parameter = None,
    place: Annotated[int | None, Query(ge=0, le=10_000)] = None,
    together: bool = False,
    order: Annotated[str | None, Query(max_length=400)] = None,
    cursor: Cursor = None,
) -> HTMLResponse:
    """A family. Raises NoHistoryError."""
    found = next((row for row in overview(service.store).families if row.family.name == name), None)
    if found is None:
        raise _nothing(service, "family", name)
    asked = _Asked(view=view, where=where, parameter=parameter, place=place, together=together, order=order)
    return _shown(request, who, service, _about_family(found), asked, cursor)


@router.get("/tasks")
def get_task(
    request: Request,
    who: PageReader,
    service: ServiceState,
    name: Annotated[str, Query(min_length=1, max_length=400)],
    view: View = "effects",
    where: Where = "",
    parameter: Parameter = None,
    place: Annotated[int | None, Query(ge=0, le=10_000)] = None,
    together: bool = False,
    order: Annotated[str | None, Query(max_length=400)] = None,
    cursor: Cursor = None,
) -> HTMLResponse:
    """A task, with all its metrics. Raises NoHistoryError."""
    found = list_tasks(service.store, name=name)
    if not found:
        raise _nothing(service, "task", name)
    asked = _Asked(view=view, where=where, parameter=parameter, place=place, together=together, order=order)
    return _shown(request, who, service, _about_task(service, found), asked, cursor)


# Parts and figures


@router.get("/history/parts/effects")
def get_effects(
    request: Request,
    who: PageReader,
    service: ServiceState,
    target: Target,
    kind: Kind,
    where: Where = "",
    parameter: Parameter = None,
) -> HTMLResponse:
    """What each range of each parameter, or of one, is worth: as a table."""
    wanted = [] if parameter is None else [parameter]
    found = _answered(service, answers.effects, target=target, where=where, parameters=wanted)
    rows = []
    for _, group in groupby(found["effects"], key=lambda each: each["parameter"]):
        rows += [each | {"place": place} for place, each in enumerate(group) if each["trials"] + each["failed"]]
    links = partial(_page_url, kind, target, where=where)
    return page(request, "target_effects.html", who, found=found, rows=rows, whisker=_whisker(rows), link=links)


@router.get("/history/parts/advice")
def get_advice(
    request: Request, who: PageReader, service: ServiceState, target: Target, together: bool = False
) -> HTMLResponse:
    """Where a good value of each parameter lies for a new task."""
    advice = _answered(service, questions.advice, target=target, together=together)
    content = {"advice": advice, "strips": [_strip(each) for each in advice["parameters"]]}
    return page(request, "target_advice.html", who, **content, lines=_as_study_file(advice["parameters"]))


@router.get("/history/parts/worth")
def get_worth(request: Request, who: PageReader, service: ServiceState, target: Target) -> HTMLResponse:
    """What a configuration is worth in a new task; its parameters are given as `p.NAME=value`."""
    asked = request.query_params.multi_items()
    params = {name.removeprefix("p."): value for name, value in asked if name.startswith("p.") and value != ""}
    told = _answered(service, questions.worth, target=target, where="", params=params)
    return page(request, "target_worth.html", who, worth=told)


@router.get("/history/parts/map")
def get_map(
    request: Request, who: PageReader, service: ServiceState, target: Target, where: Where = ""
) -> HTMLResponse:
    """Which tasks resemble which, as a table."""
    found = _answered(service, questions.task_map, target=target, where=where)["map"]
    names = [task["task"] for task in found["tasks"]]
    known = {task.name for task in list_tasks(service.store)}
    studies = history.ids_of_studies(service.store, (name for name in names if name not in known))
    links = {
        name: _page_url("task", name) if name in known else f"/studies/{studies[name]}"
        for name in names
        if name in known or name in studies
    }
    return page(request, "target_map.html", who, map=found, links=links)


@router.get("/history/figures/curve")
def get_curve(who: PageReader, service: ServiceState, target: Target, parameter: str, where: Where = "") -> Response:
    """What each value of a parameter is worth."""
    return _figure(service, questions.curve, target=target, where=where, parameter=parameter)


@router.get("/history/figures/forest")
def get_forest(
    who: PageReader,
    service: ServiceState,
    target: Target,
    parameter: str,
    place: Annotated[int | None, Query(ge=0, le=10_000)] = None,
    where: Where = "",
) -> Response:
    """What each task says of a range of a parameter."""
    return _figure(service, questions.forest, target=target, where=where, parameter=parameter, place=place)


@router.get("/history/figures/importance")
def get_importance(who: PageReader, service: ServiceState, target: Target, where: Where = "") -> Response:
    """Which parameters the outcome depends on."""
    return _figure(service, questions.importance, target=target, where=where)


@router.get("/history/figures/map")
def get_map_figure(who: PageReader, service: ServiceState, target: Target, where: Where = "") -> Response:
    """Which tasks resemble which."""
    return as_json(_answered(service, questions.task_map, target=target, where=where)["chart"])


@router.get("/history/figures/advice")
def get_advice_figure(
    who: PageReader, service: ServiceState, target: Target, parameter: str, together: bool = False
) -> Response:
    """What each task found good of a parameter."""
    return _figure(service, questions.advice_chart, target=target, together=together, parameter=parameter)


@router.get("/history/trials.{form}")
def get_trials(
    who: PageReader,
    service: ServiceState,
    form: Literal["csv", "json"],
    target: Target,
    kind: Kind,
    where: Where = "",
    order: Annotated[str | None, Query(max_length=400)] = None,
) -> StreamingResponse:
    """The trials that a table shows some of, all of them."""
    by, descending = _order(order)
    condition = _condition(kind, target, where)
    queries.query_trials(service.store, condition, order_by=by)  # what cannot be read is told before anything is sent

    def written() -> Iterator[str]:
        with queries.select_trials(service.store, condition, order_by=by, descending=descending) as found:
            yield from text_chunks(found.rows, columns_of(found.parameters, nested=form == "json"), form)

    media = {"csv": "text/csv; charset=utf-8", "json": "application/json"}[form]
    return StreamingResponse(
        written(), media_type=media, headers={"Content-Disposition": f'attachment; filename="trials.{form}"'}
    )


# How it is put together


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """The state of the page, as its URL says it."""

    view: str
    where: str
    parameter: str | None
    place: int | None  # of a range of that parameter
    together: bool
    order: str | None


def _shown(
    request: Request, who: Any, service: Service, about: _About, asked: _Asked, cursor: str | None
) -> HTMLResponse:
    parse(asked.where)  # a condition that cannot be read is told before anything else
    content: dict[str, Any] = {"about": about, "asked": asked}
    if asked.view == "trials":
        content |= _trials(service, about, asked, cursor)
    return page(request, "target.html", who, **content)


def _trials(service: Service, about: _About, asked: _Asked, cursor: str | None) -> dict[str, Any]:
    by, descending = _order(asked.order)
    found = queries.page_of_trials(
        service.store,
        _condition(about.kind, about.name, asked.where),
        order_by=by,
        descending=descending,
        after=decode_cursor(cursor, int),
        limit=ROWS_SHOWN,
    )
    return {
        "trials": found.rows,
        "study_ids": history.ids_of_studies(service.store, {row.study for row in found.rows}),
        "fields": {name: str(Field(room="params", name=name)) for name in islice(about.space, COLUMNS_SHOWN)},
        "next": None if found.end is None else encode_cursor(found.end),
        "order": asked.order or "best",
    }


def _order(order: str | None) -> tuple[str, bool]:
    name = order or "best"
    return name.removeprefix("-"), name.startswith("-")


def _condition(kind: str, name: str, where: str) -> Condition:
    of_target = Comparison(field=Field(room="column", name=kind), operator="=", value=name)
    return And(parts=(of_target, parse(where))) if where.strip() else of_target


def _about_family(row: FamilyOverview) -> _About:
    return _About(
        kind="family",
        name=row.family.name,
        metrics=(_metric(row.family),),
        families=(),
        tasks=row.tasks,
        studies=row.studies,
        trials=row.trials,
        quarantined=row.quarantined,
        space=row.family.space,
    )


def _about_task(service: Service, found: list[TaskOverview]) -> _About:
    families = tuple(dict.fromkeys(name for task in found for name in task.families))
    known = {family.name: family for family in list_families(service.store)}
    return _About(
        kind="task",
        name=found[0].name,
        metrics=tuple(f"{task.metric} ({task.direction})" for task in found),
        families=families,
        tasks=1,
        studies=sum(task.studies for task in found),
        trials=sum(task.trials for task in found),
        quarantined=sum(task.quarantined for task in found),
        space={name: fields for family in families if family in known for name, fields in known[family].space.items()},
    )


def _metric(family: Family) -> str:
    return f"{family.metric or 'value'} ({', '.join(family.directions)})"


def _nothing(service: Service, kind: str, name: str) -> NoHistoryError:
    return NoHistoryError(f"there is no {kind} named {name!r}.{did_you_mean(name, known_names(service.store))}")


def _answered(service: Service, question: Question, *, target: str, **options: Any) -> Any:
    """The answer about a family or a task, from memory for as long as none of its trials has changed."""
    as_of = target_revisions(service.store, target)
    return service.calculations.say(question, store_url=service.store.url, as_of=as_of, target=target, **options)


def _figure(service: Service, question: Question, *, target: str, **options: Any) -> Response:
    as_of = target_revisions(service.store, target)
    return already_json(
        service.calculations.answer(question, store_url=service.store.url, as_of=as_of, target=target, **options)
    )


def _page_url(kind: str, name: str, **state: Any) -> str:
    """The page of a family or a task."""
    path = f"/families/{quote(name)}" if kind == "family" else "/tasks"
    query = ({"name": name} if kind == "task" else {}) | {
        key: value for key, value in state.items() if value not in (None, "")
    }
    return f"{path}?{urlencode(query)}" if query else path


# Advice in words and strips


def _strip(region: Mapping[str, Any]) -> tuple[float, float] | None:
    """Where a region of numbers lies in its range: percent from the left, and from the right; None for choices."""
    ends = [*region["range"], *region["likely"]]
    if len(region["range"]) != 2 or len(ends) != 4 or not all(_is_number(end) for end in ends):
        return None
    low, high, first, last = (math.log(end) if region["log"] else float(end) for end in ends)
    if high <= low:
        return None
    return round(100 * (first - low) / (high - low), 2), round(100 * (high - last) / (high - low), 2)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _as_study_file(regions: Sequence[Mapping[str, Any]]) -> str:
    """The advice in the words of a study file, to be copied into one."""
    lines = [
        f"{json.dumps(each['name'], ensure_ascii=False)}: {{likely: {json.dumps(each['likely'])}}}"
        for each in regions
        if each["kept"] < 1
    ]
    return "\n".join(["space:", *(f"  {line}" for line in lines)]) if lines else ""


# Intervals as lines in a table


Whisker = Callable[[float | None], float | None]


def _whisker(effects: Sequence[Mapping[str, Any]]) -> Whisker:
    """From an effect to its place in the column, in percent: all that is known of means is in sight."""
    told: list[Mapping[str, Any]] = [effect["adjusted"] or effect["went_along"] for effect in effects]
    known = [0.0, *(end for each in told for end in each["interval"] or ()), *(each["mean"] or 0.0 for each in told)]
    reach = OUT_OF_SIGHT * max(max(known) - min(known), 1e-9)
    bounds = min(known) - reach, max(known) + reach
    predicted = [min(max(end, bounds[0]), bounds[1]) for each in told for end in each["prediction"] or ()]
    low, high = float(min([*known, *predicted])), float(max([*known, *predicted]))

    def place(value: float | None) -> float | None:
        if value is None:
            return None
        share = (value - low) / max(high - low, 1e-9)
        return round(100.0 * min(max(share, 0.0), 1.0), 2)

    return place
