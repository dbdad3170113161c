"""`/studies/{id}/promote`: a trial's model becomes the champion, if that is meant. A job does it, and shows it."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Form, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse

from dashboards.frame import PageOperator, back_to, page
from hpo.api.access import ServiceState
from hpo.api.routes import jobs as job_routes
from hpo.api.routes.studies import StudyId
from hpo.api.wire_jobs import PromotionRequest
from hpo.decisions.promotion import refuse_unusable, registry_name
from hpo.errors import SettingsError
from storage import history
from storage.history import StudySummary, TrialRecord
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
    has_mlflow = study.mlflow_uri is not None or service.mlflow_uri is not None
    content: dict[str, Any] = {"study": study, "trial": chosen, "name": registry_name(study.task or study.name)}
    return page(request, "promote.html", who, **content, has_mlflow=has_mlflow, why_not=_why_not(study, chosen))


@router.post("/promote")
def post_promote(
    request: Request,
    who: PageOperator,
    service: ServiceState,
    study_id: StudyId,
    trial: Annotated[int, Form(ge=0, le=2**31 - 1)],
    name: Annotated[str, Form(max_length=200)] = "",
) -> RedirectResponse:
    """Let it be registered, with the alias `champion`; on to the job that does it, which says what came of it."""
    job = job_routes.start_promotion(who, service, study_id, PromotionRequest(trial=trial, name=name.strip() or None))
    return back_to(f"/imports/{job.id}")


def _why_not(study: StudySummary, trial: TrialRecord) -> str | None:
    """Why there is no model to register; None where there is one."""
    try:
        refuse_unusable(study, trial)
    except SettingsError as error:
        return str(error)
    return None
