"""`/studies`: which there are, and how each stands."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Path, Query

from hpo.api.access import Reader, ServiceState
from hpo.api.paging import Cursor, Limit, Page, decode_cursor, encode_cursor
from hpo.api.wire import Study, StudyInFull, study_in_full, study_of
from storage import history
from storage.launches import find_launch, launches_of

StudyId = Annotated[int, Path(ge=1, le=2**31 - 1, description="Of the study; `GET /studies?name=` tells it.")]

router = APIRouter(prefix="/studies", tags=["studies"])


@router.get("")
def list_studies(
    who: Reader,
    service: ServiceState,
    name: Annotated[str | None, Query(max_length=200, description="Exactly this name.")] = None,
    search: Annotated[str | None, Query(max_length=200, description="Part of the name, task or family.")] = None,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> Page[Study]:
    """The studies of the history, the newest first."""
    after = decode_cursor(cursor, int)
    found = history.newest_studies(service.store, limit=limit + 1, name=name, search=search, before=after)
    shown = found[:limit]
    more = encode_cursor(shown[-1].study_id) if len(found) > limit else None
    launched = launches_of(service.store, [summary.study_id for summary in shown])
    return Page(items=[study_of(summary, launched.get(summary.study_id)) for summary in shown], next=more)


@router.get("/{study_id}")
def get_study(who: Reader, service: ServiceState, study_id: StudyId) -> StudyInFull:
    """One study, with its study file."""
    from hpo.tuning.stopping import stopped_reason  # noqa: PLC0415 - numerical libraries, which a server need not start with

    summary = history.study_of_id(service.store, study_id)
    stopped = stopped_reason(service.store, study_id)
    launch = find_launch(service.store, study_id)
    return study_in_full(summary, None if stopped is None else asdict(stopped), launch)
