"""What is odd about past studies, what would mend it, and mending it on request: parts of the history's pages."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Form, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse

from dashboards import questions
from dashboards.frame import PageOperator, PageReader, back_to, own_path, page
from hpo.api.access import ServiceState
from hpo.api.routes import history as history_routes
from hpo.api.slow_answers import SlowRoute
from storage.overview import quarantined
from storage.revisions import history_mark

STUDIES_SHOWN = 50

Study = Annotated[str, Form(min_length=1, max_length=300)]
Next = Annotated[str, Form(max_length=2_000, description="The page to come back to.")]

router = APIRouter(route_class=SlowRoute)


@router.get("/history/parts/quality")
def get_quarantine(request: Request, who: PageReader, service: ServiceState) -> HTMLResponse:
    """The studies that nobody learns from, and why."""
    found = quarantined(service.store, most=STUDIES_SHOWN + 1)
    content = {"studies": found[:STUDIES_SHOWN], "has_more": len(found) > STUDIES_SHOWN}
    return page(request, "history_quality.html", who, **content, may_change=who.may("operate"))  # type: ignore[arg-type]


@router.get("/history/parts/oddities")
def get_oddities(
    request: Request,
    who: PageReader,
    service: ServiceState,
    family: Annotated[str, Query(min_length=1, max_length=400)],
) -> HTMLResponse:
    """What is odd about the studies of a family, each with its evidence and what would mend it."""
    as_of = history_mark(service.store)
    found = service.calculations.say(questions.quality, store_url=service.store.url, as_of=as_of, target=family)
    return page(request, "target_quality.html", who, oddities=found, family=family, may_change=who.may("operate"))


@router.post("/history/trust")
def post_trust(who: PageOperator, service: ServiceState, study: Study, next: Next = "/history") -> RedirectResponse:
    """Let the tuner learn again from a study."""
    history_routes.trust_study(who, service, history_routes.TrustRequest(study=study))
    return back_to(own_path(next, otherwise="/history"))


@router.post("/history/quarantine")
def post_quarantine(
    who: PageOperator,
    service: ServiceState,
    study: Study,
    reason: Annotated[str, Form(min_length=1, max_length=1_000)],
    next: Next = "/history",
) -> RedirectResponse:
    """Let nobody learn from a study."""
    history_routes.put_in_quarantine(who, service, history_routes.QuarantineRequest(study=study, reason=reason))
    return back_to(own_path(next, otherwise="/history"))


@router.post("/history/repair")
def post_repair(
    who: PageOperator,
    service: ServiceState,
    study: Study,
    kind: Annotated[Literal["scale break", "reversed direction"], Form()],
    next: Next = "/history",
) -> RedirectResponse:
    """Mend what is odd about a study, as was shown before."""
    history_routes.repair_study(who, service, history_routes.RepairRequest(study=study, kind=kind))
    return back_to(own_path(next, otherwise="/history"))
