"""A service on an empty history, and clients of it with each role."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from hpo.api.app import create_api
from hpo.service.state import Service
from storage import tokens
from storage.database import Store
from storage.tokens import Role
from tests.integration.service.described import checks_answers


@pytest.fixture(scope="module", autouse=True)
def _warm(warm_service: None) -> None:
    """All of a service's processes are started fast."""


@pytest.fixture
def service(store: Store, tmp_path: Path) -> Iterator[Service]:
    service = Service(store=store, mlflow_uri=None, runs=tmp_path / "runs", projects=tmp_path)
    yield service
    service.desk.close()
    service.calculations.close()


@pytest.fixture
def app(service: Service) -> FastAPI:
    return create_api(service)


ClientAs = Callable[..., TestClient]


@pytest.fixture
def client_as(app: FastAPI, service: Service) -> Iterator[ClientAs]:
    """Makes a client that sends a token of that role: `client_as("viewer")`."""
    opened: list[TestClient] = []

    def make(role: Role, owner: str | None = None, **options: Any) -> TestClient:
        secret, _ = tokens.create_token(service.store, owner=owner or role, role=role, created_by="a test", **options)
        client = TestClient(app, headers={"Authorization": f"Bearer {secret}"}, raise_server_exceptions=False)
        opened.append(checks_answers(client))
        return client

    yield make
    for client in opened:
        client.close()
