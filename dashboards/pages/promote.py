"""`/studies/{id}/promote`: a trial's model becomes the champion. It is asked first, and shown what was registered."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, Query, Request
from fastapi.responses import HTMLResponse

from dashboards.frame import PageOperator, page
from hpo.api.access import ServiceState
from hpo.api.routes.studies import StudyId
from hpo.decisions.promotion import promote, registry_name
from storage import audit, history
from storage.trial_pages import trial_numbered

router = APIRouter(prefix="/studies/{study_id}")

Number = Annotated[int, Query(ge=0, le=2**31 - 1)]


@router.get("/promote")
def get_promote(
    request: Request, who: PageOperator, service: ServiceState, study_id: StudyId, trial: Number
) -> HTMLResponse:
    """What would be registered, and under which name."""
    study = history.study_of_id(service.store, study_id)
    chosen = trial_numbered(service.store, study_id, trial, known=service.known_sets)
    uri = study.mlflow_uri or service.mlflow_uri
    name = registry_name(study.task or study.name)
    return page(request, "promote.html", who, study=study, trial=chosen, name=name, has_mlflow=uri is not None)


@router.post("/promote")
def post_promote(
    request: Request,
    who: PageOperator,
    service: ServiceState,
    study_id: StudyId,
    trial: Annotated[int, Form(ge=0, le=2**31 - 1)],
    name: Annotated[str, Form(max_length=200)] = "",
) -> HTMLResponse:
    """Register it, with the alias `champion`; it takes as long as its model takes to load and to be tried."""
    study = history.study_of_id(service.store, study_id)
    promotion = promote(
        study.name,
        trial=trial,
        name=name.strip() or None,
        mlflow=None if study.mlflow_uri is not None else service.mlflow_uri,
        storage=service.store.url,
    )
    details = {"model": promotion.model_uri, "version": promotion.version}
    audit.note(
        service.store, who=who.owner, action="trial.promote", subject=f"study {study_id} trial {trial}", details=details
    )
    return page(request, "promoted.html", who, study=study, promotion=promotion)
