"""MLflow's UI under the service's address: who may look, who may change, what is never passed on."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from hpo.api import mlflow_proxy
from hpo.api.access import SESSION_COOKIE
from hpo.api.app import create_api
from hpo.service.mlflow_child import MlflowServer
from hpo.service.state import Service
from storage import tokens
from storage.database import Store
from storage.schema import open_store
from storage.tokens import Role

AJAX = "/mlflow/ajax-api/2.0/mlflow"
PAGE = {"Accept": "text/html"}
STARTS_WITHIN_SECONDS = 120.0


class Proxied:
    """A service in front of a real MLflow server, asked by one event loop."""

    def __init__(self, client: TestClient, store: Store) -> None:
        self._client, self.store = client, store

    def ask(self, role: Role | None, method: str, path: str, **options: Any) -> Any:
        """An answer to somebody of that role."""
        headers = options.pop("headers", {})
        if role is not None:
            secret, _ = tokens.create_token(self.store, owner=role, role=role, created_by="a test")
            headers = {**headers, "Authorization": f"Bearer {secret}"}
        return self._client.request(method, path, headers=headers, **options)


@pytest.fixture(scope="module")
def proxied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxied]:
    folder = tmp_path_factory.mktemp("mlflow")
    store = open_store(f"sqlite:///{folder / 'history.db'}")
    here = Path.cwd()
    os.chdir(folder)  # MLflow keeps its artifacts where it is started
    server = MlflowServer(f"sqlite:///{folder / 'mlflow.db'}", prefix=mlflow_proxy.PREFIX)
    service = Service(
        store=store, mlflow_uri="sqlite:///mlflow.db", runs=folder, projects=folder, mlflow_upstream=server.socket
    )
    app = create_api(service)
    mlflow_proxy.install(app)
    try:
        with TestClient(app, raise_server_exceptions=False) as client:
            running = Proxied(client, store)
            starting = running.ask("viewer", "GET", "/mlflow/", headers=PAGE)
            assert starting.status_code == 503 and "starting" in starting.text and "refresh" in starting.text
            assert running.ask("viewer", "GET", f"{AJAX}/runs/get").json()["code"] == "mlflow-starting"
            server.start()
            deadline = time.monotonic() + STARTS_WITHIN_SECONDS
            while running.ask("viewer", "GET", "/mlflow/health").status_code != 200:
                assert time.monotonic() < deadline and server.why_not_well() is None, server.why_not_well()
                time.sleep(0.2)
            yield running
    finally:
        os.chdir(here)
        server.stop()
        store.dispose()
    assert not Path(server.socket).parent.exists()


def test_a_viewer_looks_at_pages_and_runs(proxied: Proxied) -> None:
    page = proxied.ask("viewer", "GET", "/mlflow/", headers=PAGE)
    assert page.status_code == 200 and "<script" in page.text
    assert "'unsafe-eval'" in page.headers["content-security-policy"]
    assert "frame-ancestors 'self'" in page.headers["content-security-policy"]
    script = page.text.split('src="static-files/')[1].split('"')[0]
    answer = proxied.ask("viewer", "GET", f"/mlflow/static-files/{script}", headers={"Accept-Encoding": "gzip"})
    assert answer.status_code == 200 and len(answer.content) > 100_000
    found = proxied.ask("viewer", "GET", f"{AJAX}/experiments/search?max_results=5").json()
    assert [each["name"] for each in found["experiments"]] == ["Default"]
    assert proxied.ask("viewer", "POST", f"{AJAX}/runs/search", json={"experiment_ids": ["0"]}).status_code == 200
    assert proxied.ask("viewer", "GET", "/mlflow", follow_redirects=False).headers["location"] == "/mlflow/"


def test_an_operator_changes_names_and_tags_a_viewer_does_not(proxied: Proxied) -> None:
    tag = {"experiment_id": "0", "key": "team", "value": "vision"}
    refused = proxied.ask("viewer", "POST", f"{AJAX}/experiments/set-experiment-tag", json=tag)
    assert (refused.status_code, refused.json()["code"]) == (403, "not-allowed")
    assert proxied.ask("operator", "POST", f"{AJAX}/experiments/set-experiment-tag", json=tag).status_code == 200
    found = proxied.ask("viewer", "GET", f"{AJAX}/experiments/get?experiment_id=0").json()
    assert {"key": "team", "value": "vision"} in found["experiment"]["tags"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", f"{AJAX}/experiments/create"),  # its artifacts could be anywhere
        ("POST", f"{AJAX}/runs/create"),
        ("POST", f"{AJAX}/model-versions/create"),
        ("POST", f"{AJAX}/webhooks"),
        ("GET", f"{AJAX}/webhooks"),
        ("POST", f"{AJAX}/gateway-proxy"),
        ("GET", f"{AJAX}/gateway-proxy?gateway_path=http://169.254.169.254/"),
        ("POST", "/mlflow/gateway/proxy/x/y"),
        ("POST", "/mlflow/ajax-api/3.0/mlflow/assistant/message"),
        ("GET", "/mlflow/ajax-api/3.0/mlflow/gateway/secrets/list"),
        ("POST", "/mlflow/ajax-api/3.0/jobs/"),
        ("POST", "/mlflow/api/2.0/mlflow/runs/search"),
        ("PUT", "/mlflow/ajax-api/2.0/mlflow-artifacts/artifacts/0/x"),
        ("POST", f"{AJAX}/upload-artifact?run_uuid=x&path=y"),
        ("GET", "/mlflow/static-files/..%2f..%2fetc/passwd"),
        ("GET", "/mlflow/ajax-api/2.0/mlflow-artifacts/artifacts/%2e%2e/%2e%2e/secret"),
        ("GET", "/mlflow/static-files/..%5c..%5cx"),
        ("GET", "/mlflow//evil.example/"),
        ("DELETE", f"{AJAX}/logged-models/x"),
    ],
)
def test_what_makes_a_server_act_is_passed_on_for_nobody(proxied: Proxied, method: str, path: str) -> None:
    answer = proxied.ask("admin", method, path, json={} if method != "GET" else None)
    assert (answer.status_code, answer.json()["code"]) == (403, "not-passed-on"), answer.text


def test_who_has_no_session_is_led_to_the_login_and_back(proxied: Proxied) -> None:
    page = proxied.ask(None, "GET", "/mlflow/", headers=PAGE, follow_redirects=False)
    assert (page.status_code, page.headers["location"]) == (303, "/login?next=%2Fmlflow%2F")
    assert proxied.ask(None, "GET", f"{AJAX}/experiments/search").status_code == 401
    assert proxied.ask("worker", "GET", "/mlflow/", headers=PAGE).status_code == 403


def test_another_sites_page_changes_nothing_with_a_session(proxied: Proxied) -> None:
    secret, _ = tokens.create_token(proxied.store, owner="ann", role="operator", created_by="a test")
    cookie = {"Cookie": f"{SESSION_COOKIE}={secret}"}
    path, tag = f"{AJAX}/experiments/set-experiment-tag", {"experiment_id": "0", "key": "a", "value": "b"}
    assert (
        proxied.ask(None, "POST", path, json=tag, headers={**cookie, "Origin": "https://evil.example"}).json()["code"]
        == "cross-site"
    )
    assert (
        proxied.ask(None, "POST", path, json=tag, headers={**cookie, "Origin": "http://testserver"}).status_code == 200
    )


def test_an_mlflow_elsewhere_is_linked_and_none_is_told(sqlite_store: Store, tmp_path: Path) -> None:
    service = Service(store=sqlite_store, mlflow_uri="http://mlflow:5000/", runs=tmp_path, projects=tmp_path)
    secret, _ = tokens.create_token(sqlite_store, owner="ann", role="viewer", created_by="a test")
    for uri, expected in (("http://me:hunter2@mlflow:5000/", 307), (None, 404), ("sqlite:///m.db", 404)):
        app = create_api(replace(service, mlflow_uri=uri))
        mlflow_proxy.install(app)
        client = TestClient(app, headers={"Authorization": f"Bearer {secret}"}, follow_redirects=False)
        answer = client.get("/mlflow/")
        assert answer.status_code == expected
        if expected == 307:
            assert answer.headers["location"] == "http://mlflow:5000/"
