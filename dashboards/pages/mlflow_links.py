"""Where in MLflow is the run of a study, or of a trial? Its runs link back to our pages in their description."""

from __future__ import annotations

from urllib.parse import quote

import httpx2
from fastapi import APIRouter
from fastapi.responses import RedirectResponse

from dashboards.frame import PageReader, back_to
from hpo.api.access import ServiceState
from hpo.api.mlflow_proxy import PREFIX
from hpo.api.problems import ApiError
from hpo.api.routes.studies import StudyId
from hpo.api.routes.trials import TrialNumber
from hpo.service.state import Service
from storage import history
from storage.masking import without_secrets
from storage.mlflow_runs import known_run
from storage.trial_pages import trial_numbered

SECONDS = 5.0  # that MLflow may take to say which experiment a run is in
ANY_EXPERIMENT = "0"  # MLflow finds a run by its own id

router = APIRouter(prefix="/studies/{study_id}")


@router.get("/mlflow")
def get_study_run(who: PageReader, service: ServiceState, study_id: StudyId) -> RedirectResponse:
    """To the run of the study."""
    return _to_run(service, study_id, None, None)


@router.get("/trials/{number}/mlflow")
def get_trial_run(who: PageReader, service: ServiceState, study_id: StudyId, number: TrialNumber) -> RedirectResponse:
    """To the run of the last attempt at a trial."""
    trial = trial_numbered(service.store, study_id, number, known=service.known_sets)
    return _to_run(service, study_id, number, trial.attempt)


def _to_run(service: Service, study_id: int, number: int | None, attempt: int | None) -> RedirectResponse:
    study = history.study_of_id(service.store, study_id)
    if study.mlflow_uri is None:
        raise ApiError(404, "no-mlflow", f"study {study.name!r} is not sent to MLflow")
    if study.mlflow_uri != service.mlflow_uri:
        where = without_secrets(study.mlflow_uri)
        raise ApiError(404, "no-mlflow", f"study {study.name!r} is in another MLflow than this service's: {where}")
    run = known_run(service.store, study_id, number, attempt, mlflow_uri=study.mlflow_uri)
    if run is None:
        what = "the study" if number is None else f"trial {number}"
        raise ApiError(404, "no-run-yet", f"MLflow has not been told of {what} yet; look again in a moment")
    return back_to(f"{PREFIX}/#/experiments/{_experiment(service, run)}/runs/{quote(run)}")


def _experiment(service: Service, run: str) -> str:
    """The experiment that a run is in; without an answer any will do."""
    if service.mlflow_upstream is None:
        return ANY_EXPERIMENT
    transport = httpx2.HTTPTransport(uds=service.mlflow_upstream)
    try:
        with httpx2.Client(transport=transport, timeout=SECONDS, trust_env=False) as client:
            found = client.get(f"http://localhost{PREFIX}/ajax-api/2.0/mlflow/runs/get", params={"run_id": run})
            return quote(str(found.json()["run"]["info"]["experiment_id"]))
    except (httpx2.HTTPError, ValueError, KeyError):
        return ANY_EXPERIMENT
