"""`/history`: which families and tasks are there, where do they come from, and what is in quarantine?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse

from dashboards.frame import PageReader, page
from hpo.api.access import ServiceState
from hpo.api.paging import Cursor, decode_cursor, encode_cursor
from storage import sources
from storage.overview import FamilyOverview, Overview, overview
from storage.task_overview import TaskOverview, list_tasks

ROWS_SHOWN = 50

Search = Annotated[str | None, Query(max_length=200, description="Part of a name, a metric or a parameter.")]

router = APIRouter()


@dataclass(frozen=True, kw_only=True)
class _Total:
    """What there is in all."""

    families: int
    studies: int
    trials: int


@router.get("/history")
def get_history(
    request: Request,
    who: PageReader,
    service: ServiceState,
    search: Search = None,
    order: Annotated[str | None, Query(max_length=40)] = None,
    cursor: Cursor = None,
) -> HTMLResponse:
    """The families, the largest first; tasks, sources and data quality follow as parts of their own."""
    found = overview(service.store)
    shown = _ordered([family for family in found.families if _fits(family, search)], FAMILY_ORDERS, order or "-trials")
    start = decode_cursor(cursor, int) or 0
    end = start + ROWS_SHOWN
    return page(
        request,
        "history.html",
        who,
        total=_total(found),
        quarantined=len(found.quarantine),
        families=shown[start:end],
        number=len(shown),
        next=encode_cursor(end) if end < len(shown) else None,
        search=search or "",
        order=order or "-trials",
    )


@router.get("/history/parts/tasks")
def get_tasks(
    request: Request,
    who: PageReader,
    service: ServiceState,
    search: Search = None,
    family: Annotated[str | None, Query(max_length=200)] = None,
    task_order: Annotated[str | None, Query(max_length=40)] = None,
    cursor: Cursor = None,
) -> HTMLResponse:
    """The tasks, those with most trials first; all, or those of a family."""
    words = (search or "").lower()
    known = list_tasks(service.store, family=family)
    found = [task for task in known if words in task.name.lower() or words in task.metric.lower()]
    shown = _ordered(found, TASK_ORDERS, task_order or "-trials")
    start = decode_cursor(cursor, int) or 0
    end = start + ROWS_SHOWN
    return page(
        request,
        "history_tasks.html",
        who,
        tasks=shown[start:end],
        number=len(shown),
        next=encode_cursor(end) if end < len(shown) else None,
        search=search or "",
        family=family,
        order=task_order or "-trials",
    )


@router.get("/history/parts/sources")
def get_sources(request: Request, who: PageReader, service: ServiceState) -> HTMLResponse:
    """Where past runs come from."""
    return page(request, "history_sources.html", who, sources=sources.list_sources(service.store))


FAMILY_ORDERS: Mapping[str, Callable[[FamilyOverview], Any]] = {
    "name": lambda row: row.family.name.lower(),
    "parameters": lambda row: len(row.family.space),
    "tasks": lambda row: row.tasks,
    "studies": lambda row: row.studies,
    "trials": lambda row: row.trials,
    "quarantined": lambda row: row.quarantined,
}
TASK_ORDERS: Mapping[str, Callable[[TaskOverview], Any]] = {
    "name": lambda task: task.name.lower(),
    "studies": lambda task: task.studies,
    "trials": lambda task: task.trials,
    "latest": lambda task: task.latest,
}


def _ordered(rows: list[Any], orders: Mapping[str, Callable[[Any], Any]], order: str) -> list[Any]:
    key = orders.get(order.removeprefix("-"), orders["trials"])
    return sorted(rows, key=key, reverse=order.startswith("-"))


def _fits(row: FamilyOverview, search: str | None) -> bool:
    words = (row.family.name, row.family.metric or "", *row.family.space)
    return not search or any(search.lower() in word.lower() for word in words)


def _total(found: Overview) -> _Total:
    return _Total(
        families=len(found.families),
        studies=sum(row.studies for row in found.families) + found.without_family,
        trials=sum(row.trials for row in found.families),
    )
