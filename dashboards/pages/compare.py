"""`/compare?studies=…&studies=…`: is one study, or one configuration, better than another, and is that sure?

Each `studies` is a name, an id, a pattern of names, or a trial as STUDY#TRIAL. How methods compare is told by replays
of the history, which are jobs with a page of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse, Response

from dashboards import questions
from dashboards.frame import PageReader, page
from hpo.api.access import ServiceState
from hpo.api.answers import already_json, as_json
from hpo.api.slow_answers import SlowRoute
from hpo.errors import SettingsError
from hpo.service.state import Service
from storage import background_jobs, history
from storage.revisions import history_mark
from storage.trial_pages import trial_numbered

MOST_SIDES = 12
NAMES_OFFERED, REPLAYS_OFFERED = 300, 5

Sides = Annotated[list[str], Query(max_length=MOST_SIDES, description="Names, ids, patterns or STUDY#TRIAL.")]

router = APIRouter(route_class=SlowRoute)


@router.get("/compare")
def get_compare(request: Request, who: PageReader, service: ServiceState, studies: Sides = []) -> HTMLResponse:  # noqa: B006  # FastAPI copies it
    """The sides at once, what is estimated as parts that follow."""
    sides = named(service, studies)
    names = history.latest_names(service.store, most=NAMES_OFFERED)
    ids = history.ids_of_studies(service.store, [side.rpartition("#")[0] or side for side in sides] + sides)
    shown = [_side(service, side, ids) for side in sides]
    is_of_trials = bool(shown) and all(side["trial"] is not None for side in shown)
    return page(
        request,
        "compare.html",
        who,
        sides=shown,
        is_of_trials=is_of_trials,
        rows=_differing(shown) if is_of_trials else [],
        names=names,
        most=MOST_SIDES,
        replays=background_jobs.list_jobs(service.store, kind="replay", state="done", limit=REPLAYS_OFFERED),
    )


@router.get("/compare/parts/result")
def get_result(request: Request, who: PageReader, service: ServiceState, studies: Sides) -> HTMLResponse:
    """The comparison in words."""
    found = _compared(service, studies)
    return page(request, "compare_result.html", who, found=found["comparison"], units=_units(found["comparison"]))


@router.get("/compare/figures/gains")
def get_gains(
    who: PageReader, service: ServiceState, studies: Sides, place: Annotated[int, Query(ge=0, le=50)] = 0
) -> Response:
    """The pairs with the interval, of all comparisons in one unit. place: which of the units."""
    charts = _compared(service, studies)["charts"]
    return as_json(charts[min(place, len(charts) - 1)])


@router.get("/compare/figures/courses")
def get_courses(who: PageReader, service: ServiceState, studies: Sides) -> Response:
    """The best so far of each side."""
    sides = named(service, studies)
    if not sides:
        raise SettingsError("name at least one study")
    return already_json(
        service.calculations.answer(
            questions.course, store_url=service.store.url, as_of=history_mark(service.store), sides=sides
        )
    )


def named(service: Service, sides: Sequence[str]) -> list[str]:
    """Sides by name: `12`, or `12#3`, is the study of that id where none is called so; each side once."""
    given = [side.strip() for side in sides if side.strip()]
    parts = {side: side.partition("#") for side in given if side.partition("#")[0].isdecimal()}
    taken = history.ids_of_studies(service.store, [*given, *(first for first, *_ in parts.values())])
    ids = {side: int(first[:18]) for side, (first, *_) in parts.items() if side not in taken and first not in taken}
    names = history.names_of_ids(service.store, [number for number in ids.values() if number < 2**31])
    found = [
        names[ids[side]] + "".join(parts[side][1:]) if side in ids and ids[side] in names else side for side in given
    ]
    return list(dict.fromkeys(found))


def _compared(service: Service, studies: Sequence[str]) -> dict[str, Any]:
    sides = named(service, studies)
    if len(sides) < 2:
        raise SettingsError("one side cannot be compared; name another")
    found: dict[str, Any] = service.calculations.say(
        questions.comparison, store_url=service.store.url, as_of=history_mark(service.store), sides=sides
    )
    return found


def _units(comparison: dict[str, Any]) -> list[str]:
    return list(dict.fromkeys(row["unit"] for row in comparison["rows"]))


def _side(service: Service, side: str, ids: dict[str, int]) -> dict[str, Any]:
    """What a side is: a trial with its configuration, a study, or a pattern."""
    study, mark, number = side.rpartition("#")
    is_trial = side not in ids and bool(mark) and number.isdecimal() and study in ids
    trial = trial_numbered(service.store, ids[study], int(number[:9])) if is_trial else None
    url = f"/studies/{ids[study]}/trials/{number}" if is_trial else f"/studies/{ids[side]}" if side in ids else None
    return {"name": side, "trial": trial, "url": url}


def _differing(sides: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Parameter by parameter the values of trials, and whether they differ; those that do come first."""
    names = dict.fromkeys(name for side in sides for name in side["trial"].params)
    rows = [{"name": name, "values": [side["trial"].params.get(name) for side in sides]} for name in names]
    for row in rows:
        row["differs"] = any(value != row["values"][0] for value in row["values"])
    return sorted(rows, key=lambda row: not row["differs"])
