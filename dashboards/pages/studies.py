"""`/studies`: which studies are there, and how do they stand?"""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from dashboards.frame import PageReader, page
from hpo.api.access import ServiceState
from storage import history

router = APIRouter()


@router.get("/studies")
def get_studies(request: Request, who: PageReader, service: ServiceState) -> HTMLResponse:
    """The list of studies."""
    return page(request, "studies.html", who, studies=history.list_studies(service.store))
