"""The service as one application: the REST API, the pages, what the pages are made of, and MLflow's own."""

from __future__ import annotations

from importlib import import_module

from fastapi import FastAPI

from dashboards import assets, frame
from hpo.api import mlflow_proxy
from hpo.api.app import create_api
from hpo.service.state import Service

PAGES = (
    "login",
    "studies",
    "launch",
    "study_actions",
    "promote",
    "mlflow_links",
    "logs",
    "trial",
    "study_figures",
    "study",
    "access",
    "history",
    "quality",
    "targets",
    "compare",
    "machines",
    "champions",
    "imports",
)  # the modules in `dashboards.pages`, each with a `router`


def create_app(service: Service) -> FastAPI:
    """The application that `hpo serve` runs."""
    app = create_api(service)
    frame.install(app)
    app.include_router(assets.router, include_in_schema=False)
    for noun in PAGES:
        app.include_router(import_module(f"dashboards.pages.{noun}").router, include_in_schema=False)
    mlflow_proxy.install(app)
    return app
