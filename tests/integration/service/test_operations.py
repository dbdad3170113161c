"""Health, readiness, metrics, the log and traces: what is told of the service to those who run it."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from hpo.api.app import create_api
from hpo.service import logs
from hpo.service.state import Service
from storage import studies
from storage.database import Store
from storage.optuna_storage import HistoryStorage
from tests.integration.service.conftest import ClientAs


def figures(text: str) -> dict[tuple[str, ...], float]:
    """The samples of a Prometheus page by name and labels."""
    families = text_string_to_metric_families(text)
    return {(each.name, *each.labels.values()): each.value for family in families for each in family.samples}


def test_health_asks_nothing_and_readiness_asks_the_history(app: FastAPI) -> None:
    client = TestClient(app)
    assert client.get("/healthz").json() == {"status": "ok", "reasons": []}
    ready = client.get("/readyz")
    assert (ready.status_code, ready.json()["status"]) == (200, "ok")


def test_a_part_that_is_not_well_is_told(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    parts = {"supervisor": lambda: "no database at db.internal", "jobs": lambda: None}
    app = create_api(replace(service, parts=parts))
    ready = TestClient(app).get("/readyz")
    assert (ready.status_code, len(ready.json()["reasons"])) == (503, 1)
    assert ready.json()["reasons"][0].startswith("supervisor: ")
    assert "db.internal" in caplog.text
    assert "db.internal" not in ready.text  # which anybody may read
    assert TestClient(app).get("/healthz").status_code == 200


def test_a_history_of_another_version_or_none_is_not_ready(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    with service.store.write() as connection:
        connection.exec_driver_sql("UPDATE hindsight_version SET version_num = '0001'")
    try:
        assert TestClient(create_api(service)).get("/readyz").status_code == 503
    finally:
        with service.store.write() as connection:
            connection.exec_driver_sql("UPDATE hindsight_version SET version_num = '0004'")
    assert "hpo db upgrade" in caplog.text
    gone = replace(service, store=Store("postgresql://nobody@127.0.0.1:1/none", patience_seconds=0.2))
    client = TestClient(create_api(gone), raise_server_exceptions=False)
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["reasons"][0].startswith("history: ")
    told = client.get("/api/v1/whoami", headers={"Authorization": "Bearer hpo_x"})
    assert (told.status_code, told.json()["code"]) == (503, "store-unavailable")
    assert int(told.headers["retry-after"]) > 0
    assert "127.0.0.1" not in answer.text + told.text  # nobody without a token learns where the history is
    assert "127.0.0.1" in caplog.text


def test_metrics_take_a_token_unless_they_are_open(service: Service, client_as: ClientAs, app: FastAPI) -> None:
    assert TestClient(app).get("/metrics").status_code == 401
    assert client_as("worker").get("/metrics").status_code == 403
    assert client_as("viewer").get("/metrics").status_code == 200
    assert TestClient(create_api(replace(service, has_open_metrics=True))).get("/metrics").status_code == 200


def test_metrics_count_trials_requests_and_proposals(client_as: ClientAs, service: Service) -> None:
    client = client_as("viewer")
    before = figures(client.get("/metrics").text)
    assert before["hindsight_trials", "complete"] == 0
    assert before["hindsight_suggestion_seconds_count",] == 0
    storage = HistoryStorage(service.store)
    study = optuna.create_study(storage=storage, study_name="a study")
    for number in range(3):
        trial = study.ask()
        storage.set_trial_system_attr(trial._trial_id, "hindsight:receipt", {"seconds": 0.2 * (number + 1)})
        study.tell(trial, 1.0)
    made = studies.create_study(service.store, name="other", task="digits", metric="val_loss")
    for path in (f"/api/v1/studies/{made}", "/api/v1/studies/999", "/nowhere", "/api/v1/studies?search=x"):
        client.get(path)
    after = figures(client.get("/metrics").text)
    assert after["hindsight_store_up",] == 1
    assert after["hindsight_suggestion_seconds_count",] == 3
    assert after["hindsight_suggestion_seconds_sum",] == pytest.approx(1.2)
    assert after["hindsight_request_seconds_count", "GET", "/api/v1/studies/{study_id}", "200"] == 1
    assert after["hindsight_request_seconds_count", "GET", "/api/v1/studies/{study_id}", "404"] == 1
    assert after["hindsight_request_seconds_count", "GET", "/api/v1/studies", "200"] == 1
    assert after["hindsight_request_seconds_count", "GET", "other", "404"] == 1
    assert after["hindsight_outbox_messages",] == 0
    assert figures(client_as("viewer").get("/metrics").text)["hindsight_suggestion_seconds_count",] == 3


def test_trials_are_counted_anew_after_a_while(service: Service) -> None:
    app = create_api(replace(service, has_open_metrics=True))
    client = TestClient(app)
    client.get("/metrics")
    optuna.create_study(storage=HistoryStorage(service.store)).optimize(lambda trial: 0.0, n_trials=2)

    def counted() -> bool:
        return figures(client.get("/metrics").text)["hindsight_trials", "complete"] == 2

    assert any(counted() for _ in range(200))


@pytest.fixture
def log_file(tmp_path: Path) -> Iterator[Path]:
    with logs.logging_to(tmp_path / "service.log", kind="json"):
        yield tmp_path / "service.log"


def lines_of(path: Path, count: int) -> list[dict[str, object]]:
    """What was written, once there are that many lines."""
    for _ in range(500):
        lines = path.read_text().splitlines()
        if len(lines) >= count:
            return [json.loads(line) for line in lines]
        threading.Event().wait(0.01)
    raise AssertionError(path.read_text())


def test_each_request_is_a_line_with_who_what_and_how_long(
    log_file: Path, client_as: ClientAs, service: Service
) -> None:
    made = studies.create_study(service.store, name="a study", task="digits", metric="val_loss")
    client = client_as("operator", "ann")
    answer = client.get(f"/api/v1/studies/{made}", headers={"X-Request-Id": "mine-1"})
    assert answer.headers["x-request-id"] == "mine-1"
    generated = client.get("/api/v1/studies", headers={"X-Request-Id": "a b\n"}).headers["x-request-id"]
    client.get("/healthz")
    first, second = lines_of(log_file, 2)
    assert first["milliseconds"] > 0  # type: ignore[operator]
    assert {name: first[name] for name in ("request_id", "who", "method", "status", "study", "path", "level")} == {
        "request_id": "mine-1",
        "who": "ann",
        "method": "GET",
        "status": 200,
        "study": str(made),
        "path": f"/api/v1/studies/{made}",
        "level": "info",
    }
    assert second["request_id"] == generated != "a b\n"


def test_no_line_holds_a_secret_or_breaks(log_file: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    log = logging.getLogger("hpo.anything")
    secret = "hpo_" + "x" * 43
    log.info("token %s at postgresql://me:hunter2@host/db?password=hunter2&x=1\nsecond line", secret)
    try:
        raise ValueError(f"no {secret}")
    except ValueError:
        log.exception("it failed")
    logged, failed = lines_of(log_file, 2)
    text = json.dumps([logged, failed])
    assert secret not in text and "hunter2" not in text
    assert logged["message"] == "token hpo_*** at postgresql://***@host/db?password=***&x=1\nsecond line"
    assert "ValueError: no hpo_***" in str(failed["traceback"])
    with logs.logging_to(None, kind="text"):
        log.info("a\x1b[31m\nb %s", secret, extra={"fields": {"study": 3}})
    assert capsys.readouterr().err.count("\n") == 1


def test_a_log_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    from hpo.errors import SettingsError

    with pytest.raises(SettingsError, match="cannot be written"), logs.logging_to(tmp_path / "no" / "log", kind="text"):
        pass


def test_an_unforeseen_error_is_a_problem_and_told_in_the_log(log_file: Path, service: Service) -> None:
    app = create_api(service)

    @app.get("/broken")
    def broken() -> None:
        raise ZeroDivisionError("secret details")

    answer = TestClient(app, raise_server_exceptions=False).get("/broken")
    assert (answer.status_code, answer.headers["content-type"]) == (500, "application/problem+json")
    assert "secret" not in answer.text
    (line,) = [line for line in lines_of(log_file, 1) if line["logger"] == "hpo.requests"]
    assert (line["level"], line["status"]) == ("warning", 500)
