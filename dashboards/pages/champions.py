"""`/champions`: which models are promoted, what is known of each, and how is one served?"""

from __future__ import annotations

import shlex
import time

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from dashboards import questions
from dashboards.frame import PageReader, page
from hpo.api.access import ServiceState
from hpo.api.slow_answers import SlowRoute
from storage import history
from storage.masking import without_secrets

FRESH_SECONDS = 10.0  # so long what MLflow has said is said again

router = APIRouter(route_class=SlowRoute)


@router.get("/champions")
def get_champions(request: Request, who: PageReader, service: ServiceState) -> HTMLResponse:
    """The page; what MLflow says follows as a part, for that takes as long as MLflow takes."""
    where = None if service.mlflow_uri is None else without_secrets(service.mlflow_uri)
    return page(request, "champions.html", who, mlflow=where)


@router.get("/champions/parts/list")
def get_list(request: Request, who: PageReader, service: ServiceState) -> HTMLResponse:
    """The champions of the registry. Raises SettingsError where MLflow does not answer."""
    found = []
    if service.mlflow_uri is not None:
        moment = int(time.time() / FRESH_SECONDS)
        found = service.calculations.say(
            questions.champions, store_url=service.store.url, as_of=moment, line="MLflow", mlflow_uri=service.mlflow_uri
        )
    ids = history.ids_of_studies(service.store, {each["study"] for each in found if each["study"]})
    uri = "" if service.mlflow_uri is None else shlex.quote(without_secrets(service.mlflow_uri))
    lines = [
        f"MLFLOW_TRACKING_URI={uri} mlflow models serve --env-manager local --port 5001 \\\n"
        f"  --model-uri {shlex.quote(each['model_uri'])}"
        for each in found
    ]
    return page(request, "champions_list.html", who, champions=found, study_ids=ids, lines=lines)
