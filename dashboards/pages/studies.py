"""`/studies`: which studies are there, and how do they stand?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse
from optuna.trial import TrialState

from dashboards.charts.spark import Spark, spark_of
from dashboards.frame import PageReader, page
from dashboards.study_state import STATES, Standing
from hpo.answers import questions
from hpo.api.access import ServiceState
from hpo.api.paging import Cursor, decode_cursor, encode_cursor
from hpo.api.problems import ApiError
from hpo.api.routes.studies import StudyId
from hpo.api.slow_answers import SlowRoute
from hpo.statistics.best import FEWEST_TRIALS
from storage import history
from storage.database import Store
from storage.launches import launches_of, list_launches
from storage.revisions import study_mark
from storage.study_costs import training_seconds

ROWS_SHOWN = 40

ORDERS: dict[str, Callable[[Standing], Any]] = {
    "created": lambda each: each.study.created_at,
    "name": lambda each: each.study.name.lower(),
    "state": lambda each: STATES.index(each.state),
    "trials": lambda each: each.study.trials,
    "owner": lambda each: (each.owner is None, each.owner or ""),
    "changed": lambda each: each.study.finished_at or each.study.created_at,
}

router = APIRouter(route_class=SlowRoute)


@dataclass(frozen=True, kw_only=True)
class Row:
    """A study as the list shows it."""

    standing: Standing
    spark: Spark | None
    seconds: float | None  # that its trials trained
    is_judged: bool  # whether there are enough trials to say what its best is worth


@router.get("/studies")
def get_studies(
    request: Request,
    who: PageReader,
    service: ServiceState,
    search: Annotated[str, Query(max_length=200)] = "",
    state: Annotated[str, Query(max_length=20)] = "",
    order: Annotated[str, Query(max_length=20)] = "-created",
    cursor: Cursor = None,
) -> HTMLResponse:
    """The list. search: part of a name, task or family. order: one of ORDERS, with - before it turned round."""
    launches = {launch.study_id: launch for launch in list_launches(service.store)}
    known = [
        Standing(study=study, launch=launches.get(study.study_id)) for study in history.list_studies(service.store)
    ]
    by = order.removeprefix("-")
    if by not in ORDERS:
        raise ApiError(422, "invalid-request", f"order {order!r} is unknown; use one of {', '.join(ORDERS)}")
    found = [each for each in known if _fits(each, search.strip().lower()) and state in ("", each.state)]
    found.sort(key=lambda each: each.study.study_id)
    found.sort(key=ORDERS[by], reverse=order.startswith("-"))
    shown = _after(found, decode_cursor(cursor, int))[:ROWS_SHOWN]
    is_last = not shown or shown[-1] is found[-1]
    return page(
        request,
        "studies.html",
        who,
        rows=_rows(service.store, shown),
        found=len(found),
        total=len(known),
        states=[each for each in STATES if any(standing.state == each for standing in known)],
        asked={"search": search, "state": state, "order": order},
        next=None if is_last else encode_cursor(shown[-1].study.study_id),
        is_live=any(standing.is_live for standing in known),
    )


@router.get("/studies/{study_id}/worth")
def get_worth(request: Request, who: PageReader, service: ServiceState, study_id: StudyId) -> HTMLResponse:
    """What the best of a study is really worth: a fragment, for it takes a moment."""
    study = history.study_of_id(service.store, study_id)
    found = service.calculations.say(
        questions.best, store_url=service.store.url, as_of=study_mark(service.store, study_id), study=study.name
    )
    return page(request, "study_worth.html", who, found=found)


def standing_of(store: Store, study_id: int) -> Standing:
    """How one study stands. Raises StudyNotFoundError."""
    return Standing(study=history.study_of_id(store, study_id), launch=launches_of(store, [study_id]).get(study_id))


def _fits(each: Standing, search: str) -> bool:
    return any(search in (word or "").lower() for word in (each.study.name, each.study.task, each.study.family))


def _after(found: Sequence[Standing], last: int | None) -> Sequence[Standing]:
    """What comes after the study of that id; from the beginning where that is gone."""
    at = next((at for at, each in enumerate(found) if each.study.study_id == last), -1)
    return found[at + 1 :]


def _rows(store: Store, shown: Sequence[Standing]) -> list[Row]:
    seconds = training_seconds(store, [each.study.study_id for each in shown])
    return [
        Row(
            standing=each,
            spark=_spark(store, each),
            seconds=seconds.get(each.study.study_id),
            is_judged=len(each.study.directions) == 1 and each.study.counts[TrialState.COMPLETE] >= FEWEST_TRIALS,
        )
        for each in shown
    ]


def _spark(store: Store, each: Standing) -> Spark | None:
    if len(each.study.directions) > 1 or each.study.best is None:
        return None
    values = history.completed_values(store, each.study.study_id)
    return spark_of(values, maximize=each.study.directions[0] == "maximize")
