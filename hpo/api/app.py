"""The REST API as an application: its routes, how errors are told, who may ask."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version

from fastapi import APIRouter, FastAPI

from hpo.api import description, guards, idempotency, mlflow_proxy, operations, problems, request_log
from hpo.api.metrics import Metrics
from hpo.service.state import Service
from hpo.service.wrong_tokens import WrongTokens

PREFIX = "/api/v1"
NOUNS = (  # the modules in `hpo.api.routes`, each with a `router`
    "studies",
    "launches",
    "trials",
    "statistics",
    "jobs",
    "history",
    "families",
    "tasks",
    "recipes",
    "export",
    "tokens",
    "audit",
    "session",
    "remote",
    "checkpoints",
    "machines",
)


def create_api(service: Service) -> FastAPI:
    """The application of a service."""
    app = FastAPI(
        title="Hindsight",
        version=version("hindsight-hpo"),
        summary="Hyperparameter tuning that learns from every training run you already have.",
        openapi_url=f"{PREFIX}/openapi.json",
        docs_url=None,  # its page loads scripts from elsewhere
        redoc_url=None,
        lifespan=mlflow_proxy.connected,
        generate_unique_id_function=description.operation_name,
        telemetry={"auto_configure": True, "metrics": False, "logs": False, "operation_spans": False},
        responses={"default": {"model": problems.Problem, "description": "What went wrong, as problem+json."}},
    )
    app.state.service = service
    app.state.wrong_tokens = WrongTokens()
    app.state.metrics = Metrics(service)
    problems.install(app)
    description.install(app)
    api = APIRouter(prefix=PREFIX)
    for noun in NOUNS:
        api.include_router(import_module(f"hpo.api.routes.{noun}").router)
    app.include_router(api)
    app.include_router(operations.router)
    idempotency.install(app, service, prefix=PREFIX)
    guards.install(app, service)
    request_log.install(app, app.state.metrics)
    return app
