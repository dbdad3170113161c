"""What the service says where others fail, and to requests that nobody in his senses sends."""

from __future__ import annotations

import base64
import json
import logging
import multiprocessing
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import anyio
import pytest
from fastapi.testclient import TestClient

from dashboards.app import create_app
from hpo.api.idempotency import Idempotency
from hpo.errors import BusyError
from hpo.service import calculations
from hpo.service.state import Service
from storage import background_jobs, tokens
from storage.errors import StoreUnavailableError
from storage.tokens import Role
from tests.integration.service import past_pages
from tests.integration.service.past_pages import RATE, service_on_past, task

SECRET = "S3cretPW"
AWAY = f"http://bob:{SECRET}@127.0.0.1:9"  # a port at which nobody listens


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with service_on_past(tmp_path_factory.mktemp("edges")) as service:
        yield service


def client(service: Service, role: Role) -> TestClient:
    """A program's client: it is told of errors in JSON."""
    found = past_pages.client(service, role)
    found.headers["Accept"] = "*/*"
    return found


@pytest.fixture(scope="module")
def viewer(service: Service) -> TestClient:
    return client(service, "viewer")


@pytest.fixture(scope="module")
def operator(service: Service) -> TestClient:
    return client(service, "operator")


def code_of(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


# Others that fail


def test_the_password_of_an_mlflow_that_is_away_is_told_nobody(
    service: Service, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calculations, "multiprocessing", multiprocessing)  # a process that logs where this one does
    told = client(replace(service, mlflow_uri=AWAY), "viewer").get("/champions/parts/list")
    assert code_of(told) == (503, "mlflow-unavailable")
    assert told.json()["detail"] == "MLflow's registry at http://***@127.0.0.1:9 does not answer as it should"
    assert "Connection refused" in capfd.readouterr().err  # the log says why


def test_no_password_is_kept_with_the_error_of_a_job(service: Service, viewer: TestClient) -> None:
    background_jobs.add_job(service.store, kind="import", owner="ann", settings={})
    job = background_jobs.begin_job(service.store, worker="w", lease_seconds=60.0)
    assert job is not None
    reason = f"API request to {AWAY}/api failed\n" + "x" * 3_960 + f" postgresql://u:{SECRET}@h/db"
    assert background_jobs.end_job(service.store, job, "failed", error=reason)
    told = viewer.get(f"/api/v1/jobs/{job.job_id}").json()["error"]
    assert told.startswith("API request to http://***@127.0.0.1:9/api failed")
    assert SECRET[:3] not in told and len(told) == background_jobs.LONGEST_ERROR


def test_who_is_told_to_ask_again_is_told_why(
    service: Service, viewer: TestClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def busy(*_: Any, **__: Any) -> None:
        raise BusyError("16 questions are being worked on; ask again in a moment")

    def away(*_: Any, **__: Any) -> None:
        raise StoreUnavailableError(f"The history at postgresql://u:{SECRET}@h/db cannot be used")

    monkeypatch.setattr("hpo.api.routes.families.overview", busy)
    told = viewer.get("/api/v1/families")
    assert (*code_of(told), told.headers["retry-after"]) == (503, "busy", "2")
    assert told.json()["detail"] == "16 questions are being worked on; ask again in a moment"
    monkeypatch.setattr("hpo.api.routes.families.overview", away)
    with caplog.at_level(logging.WARNING):
        told = viewer.get("/api/v1/families")
    assert code_of(told) == (503, "store-unavailable")
    assert "h/db" not in told.text and "postgresql://***@h/db" in caplog.text and SECRET not in caplog.text


def test_a_request_with_a_key_is_told_that_the_store_is_away(
    service: Service, operator: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any) -> None:
        raise StoreUnavailableError("it is away")

    monkeypatch.setattr(tokens, "find_token", away)
    told = operator.post("/api/v1/studies/check", json={"file": {}}, headers={"Idempotency-Key": "k"})
    assert code_of(told) == (503, "store-unavailable")


# Requests that break off


@pytest.mark.parametrize("media_type", ["application/json", "application/octet-stream"])
def test_a_request_that_breaks_off_is_not_answered_for_good(service: Service, media_type: str) -> None:
    secret, _ = tokens.create_token(service.store, owner="ann", role="operator", created_by="a test")
    headers = {"authorization": f"Bearer {secret}", "idempotency-key": f"cut {media_type}", "content-type": media_type}
    done: list[bytes] = []

    async def count(scope: Any, receive: Any, send: Any) -> None:
        done.append((await receive())["body"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})

    scope: dict[str, Any] = {
        "type": "http",
        "method": "POST",
        "path": "/api/v1/studies",
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "app": create_app(service),
        "state": {},
    }
    middleware = Idempotency(count, service=service, prefix="/api/v1")
    begun = {"type": "http.request", "body": b"[1, ", "more_body": True}
    assert sent(middleware, scope, [begun, {"type": "http.disconnect"}]) == 400
    assert done == []
    assert sent(middleware, scope, [begun, {"type": "http.request", "body": b"2]", "more_body": False}]) == 200
    assert done == [b"[1, 2]"]
    whole = {**scope, "path": "/api/v1/studies/check", "raw_path": b"/api/v1/studies/check", "root_path": ""}
    whole["headers"] = [*scope["headers"], (b"host", b"testserver")]
    if media_type == "application/json":  # the guards before it read those
        assert sent(create_app(service), whole, [begun, {"type": "http.disconnect"}]) == 400


def sent(app: Any, scope: dict[str, Any], messages: list[dict[str, Any]]) -> int:
    """The status with which messages of a client are answered."""
    answers: list[dict[str, Any]] = []
    coming = iter(messages)

    async def receive() -> dict[str, Any]:
        return next(coming)

    async def send(message: Any) -> None:
        answers.append(message)

    anyio.run(app, dict(scope), receive, send)
    return int(answers[0]["status"])


# Requests that nobody in his senses sends


def test_made_up_methods_do_not_grow_the_metrics(viewer: TestClient) -> None:
    for number in range(20):
        viewer.request(f"MADEUP{number}", "/api/v1/studies")
    told = viewer.get("/metrics").text
    assert "MADEUP" not in told and 'method="other"' in told


def test_files_of_pages_are_those_that_there_are(viewer: TestClient) -> None:
    for name in ("a" * 300 + ".css", "base.html", "nothing.js"):
        assert viewer.get(f"/static/{name}").status_code == 404
    assert viewer.get("/static/pages.css").status_code == 200


def cursor(position: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(position).encode()).decode().rstrip("=")


@pytest.mark.parametrize("number", [10**23, 2**63 - 1, 2**53 + 1, -1])
def test_a_cursor_beyond_all_rows_is_refused(service: Service, viewer: TestClient, number: int) -> None:
    family = past_pages.family_of_tasks(service)
    for path in ("/api/v1/studies", "/api/v1/jobs", "/api/v1/machines", "/studies", "/history"):
        assert code_of(viewer.get(path, params={"cursor": cursor(number)})) == (422, "invalid-cursor"), path
    of_family = viewer.get(f"/families/{family}", params={"view": "trials", "cursor": cursor(number)})
    assert code_of(of_family) == (422, "invalid-cursor")
    of_trials = viewer.get("/api/v1/trials", params={"cursor": cursor(["recorded", number])})
    assert code_of(of_trials) == (422, "invalid-cursor")


def test_a_range_that_there_is_not_has_no_forest(viewer: TestClient) -> None:
    asked: dict[str, Any] = {"target": task(0), "parameter": RATE, "place": 9_999}
    told = viewer.get("/history/figures/forest", params=asked)
    assert code_of(told) == (422, "settings")
    assert told.json()["detail"].startswith("place = 9999: ")


def study_file(**changes: Any) -> dict[str, Any]:
    task = {"name": "t", "metric": "loss", "direction": "minimize"}
    return {
        "study": "s",
        "task": task,
        "space": {"x": {"type": "float", "low": 0, "high": 1}},
        "budget": {"trials": 9},
    } | changes


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"x": {"type": "float", "low": 0, "high": 1, "step": 1e-300}}, "its range and step are too far apart"),
        ({"x": {"type": "float", "low": 0, "high": 1e300, "step": 0.1}}, "its range and step are too far apart"),
        ({"": {"type": "float", "low": 0, "high": 1}}, "a parameter has no name"),
    ],
)
def test_a_space_that_cannot_be_searched_is_told_so(viewer: TestClient, space: Any, message: str) -> None:
    told = viewer.post("/api/v1/studies/check", json={"file": study_file(space=space)})
    assert told.status_code == 200
    assert message in told.json()["errors"][0]["message"]


def test_the_files_of_a_recipe_are_looked_for_before_its_study_is_launched(
    service: Service, viewer: TestClient
) -> None:
    def errors(folder: str, place: str = "server") -> list[str]:
        trainer = {"recipe": "mnist_cnn", "data": {"init_args": {"folder": folder}}}
        file = {"study": "mnist", "trainer": trainer, "budget": {"trials": 2}}
        told = viewer.post("/api/v1/studies/check", json={"file": file, "launch": {"place": place}})
        return [f"{each['place']}: {each['message']}" for each in told.json()["errors"]]

    none = "trainer.data: init_args.folder: the server has none of the files that mnist_cnn reads in {!r}"
    for folder in ("data/mnist", "/etc", "a" * 5_000, "~nobody-of-that-name/x"):
        assert errors(folder) == [none.format(folder)]
    assert errors("data/mnist", place="workers") == []  # they have files of their own
    there = service.projects / "data" / "mnist"
    there.mkdir(parents=True)
    for name in ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte"):
        (there / name).touch()
    assert errors("data/mnist") == []


def test_the_login_page_shows_no_text_of_a_link(service: Service, viewer: TestClient) -> None:
    with TestClient(create_app(service)) as visitor:
        assert "call 555" not in visitor.get("/login", params={"why": "call 555 now"}).text
        visitor.cookies.set("hindsight_session", "hpo_unknown")
        sent_here = visitor.get("/studies", headers={"accept": "text/html"}, follow_redirects=True)
    assert sent_here.url.path == "/login"
    assert "The session is not known here any more." in sent_here.text


def test_no_token_is_made_that_is_over_at_once(service: Service) -> None:
    admin = client(service, "admin")
    told = admin.post("/api/v1/tokens", json={"owner": "ann", "role": "viewer", "days": 1e-300})
    assert code_of(told) == (422, "invalid-request")


def test_few_files_are_written_at_a_time(service: Service, viewer: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[Any] = []
    family = past_pages.family_of_tasks(service)
    exports = [{"format": "tables", "family": family}, {"format": "parquet"}]

    def written(*_: Any) -> None:
        """Who writes asks for more of it: at some depth, there is too much."""
        answers.append(viewer.get("/api/v1/export", params=exports[len(answers) % 2]))
        raise BusyError("enough")

    monkeypatch.setattr("hpo.api.routes.export.exported", written)
    monkeypatch.setattr("hpo.api.routes.export.write_rows", written)
    viewer.get("/api/v1/export", params=exports[0])
    assert "2 files are being written just now" in answers[0].json()["detail"]
    monkeypatch.undo()
    for asked in exports:  # each has given its turn back
        assert viewer.get("/api/v1/export", params=asked).status_code == 200


def test_what_is_odd_about_a_family_is_worked_out_beside_the_server(
    service: Service, viewer: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    answer = service.calculations.answer

    def noted(question: Any, **options: Any) -> bytes:
        asked.append(question.__name__)
        return answer(question, **options)

    monkeypatch.setattr(service.calculations, "answer", noted)
    family = past_pages.family_of_tasks(service)
    told = viewer.get(f"/api/v1/families/{family}/quality").json()
    assert told["family"] == family and "reversed direction" in {each["kind"] for each in told["oddities"]}
    assert set(asked) == {"quality"}
    assert code_of(viewer.get("/api/v1/families/nothing/quality")) == (404, "family-not-found")
