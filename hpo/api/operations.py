"""Is the service alive, is it ready, and what are its figures? For load balancers and monitoring systems."""

from __future__ import annotations

import logging
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel

from hpo.api.access import Needs, ServiceState, service_of
from hpo.api.metrics import Metrics
from hpo.api.problems import STORE_AWAY
from hpo.service.state import Service
from storage.errors import StorageError
from storage.schema import open_store

log = logging.getLogger(__name__)

PROBE_SECONDS = 1.0  # how long /readyz waits for a history that is away

router = APIRouter(tags=["operations"])
_may_read = Needs("read")


class Health(BaseModel):
    """Whether the service can do its work."""

    status: Literal["ok", "not ready"]
    reasons: list[str]  # why not


@router.get("/healthz")
async def healthz() -> Health:
    """Whether the process answers at all. Public; asks nothing."""
    return Health(status="ok", reasons=[])


@router.get("/readyz", responses={200: {"model": Health}, 503: {"model": Health, "description": "Not ready, and why."}})
def readyz(service: ServiceState) -> Response:
    """Whether the history can be reached, has this program's schema, and all parts of the service are well. Public."""
    reasons = _reasons(service)
    health = Health(status="not ready" if reasons else "ok", reasons=reasons)
    return JSONResponse(health.model_dump(), status_code=503 if reasons else 200)


def _reader_unless_open(request: Request) -> None:
    if not service_of(request).has_open_metrics:
        _may_read(request)


@router.get(
    "/metrics", response_class=Response, responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}
)
def metrics(request: Request, allowed: Annotated[None, Depends(_reader_unless_open)]) -> Response:
    """The figures for Prometheus. Takes a token that may read, unless the settings say `metrics: open`."""
    known: Metrics = request.app.state.metrics
    return Response(generate_latest(known.registry), media_type=CONTENT_TYPE_LATEST)


def _reasons(service: Service) -> list[str]:
    reasons = []
    for name, why_not in service.parts.items():
        if (why := why_not()) is not None:
            log.warning("%s: %s", name, why)
            reasons.append(f"{name}: not well; the service's log says why")
    try:
        open_store(service.store.url, upgrade=False, patience_seconds=PROBE_SECONDS).dispose()
    except StorageError as error:
        log.warning("%s", error)
        reasons.insert(0, f"history: {STORE_AWAY}")
    return reasons
