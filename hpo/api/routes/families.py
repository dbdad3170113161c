"""`/families`: tasks that share a space, the metric and the direction, and whether their studies are in order."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Response

from hpo.answers import questions
from hpo.answers.history import FamilyInFull, FamilyQuality, FamilySummary, family_fields
from hpo.api.access import Reader, ServiceState
from hpo.api.answers import already_json, as_json, says
from hpo.api.slow_answers import SlowRoute
from hpo.service.state import Service
from storage.errors import FamilyNotFoundError
from storage.overview import FamilyOverview, overview
from storage.revisions import history_mark
from storage.task_overview import list_tasks

FamilyName = Annotated[str, Path(min_length=1, max_length=300, description="`GET /families` lists them.")]

QUALITY = {
    "family": "val_acc-1a2b3c4d",
    "oddities": [
        {
            "study": "churn/old",
            "study_id": 12,
            "kind": "scale break",
            "evidence": "20 values lie in 0.61 … 0.9 and 20 in 58 … 91: percentages among fractions?",
            "quarantine": "scale break: 20 values lie in 0.61 … 0.9 and 20 in 58 … 91: percentages among fractions?",
            "remedy": {
                "kind": "scale",
                "factor": 0.01,
                "offset": 0.0,
                "above": 1.0,
                "trials": 20,
                "sentence": "the 20 values above 1 are divided by 100",
            },
        }
    ],
}

router = APIRouter(prefix="/families", tags=["families"], route_class=SlowRoute)


@router.get("", responses=says(list[FamilySummary]))
def list_families(
    who: Reader,
    service: ServiceState,
    search: Annotated[str | None, Query(max_length=200, description="Part of the name, or of a parameter's.")] = None,
) -> Response:
    """The families with their sizes and their spaces, oldest first; as `hpo history list --json`."""
    return as_json([family_fields(each) for each in overview(service.store).families if _fits(each, search)])


@router.get("/{name:path}/quality", responses=says(FamilyQuality, QUALITY))
def get_quality(who: Reader, service: ServiceState, name: FamilyName) -> Response:
    """What is odd about the studies of a family, and what is in quarantine, each with its evidence.

    `remedy` says what `POST /history/repair` would do: to how many trials, by which factor and offset.
    """
    as_of = history_mark(service.store)
    return already_json(
        service.calculations.answer(questions.quality, store_url=service.store.url, as_of=as_of, family=name)
    )


@router.get("/{name:path}", responses=says(FamilyInFull))
def get_family(who: Reader, service: ServiceState, name: FamilyName) -> Response:
    """One family with its space and its tasks."""
    tasks = list_tasks(service.store, family=name)
    told: FamilyInFull = {**family_fields(_family(service, name)), "members": tasks}
    return as_json(told)


def _family(service: Service, name: str) -> FamilyOverview:
    found = overview(service.store).families
    for each in found:
        if each.family.name == name:
            return each
    raise FamilyNotFoundError.named(name, [each.family.name for each in found])


def _fits(family: FamilyOverview, search: str | None) -> bool:
    return search is None or any(search.lower() in word.lower() for word in (family.family.name, *family.family.space))
