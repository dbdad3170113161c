"""A request that is sent again gets the answer of the first time."""

from __future__ import annotations

import threading
import time
from typing import Annotated, Any

import pytest
from fastapi import FastAPI, Query
from fastapi.testclient import TestClient
from sqlalchemy import update

from hpo.api.access import Worker
from hpo.api.problems import ApiError
from hpo.service.state import Service
from storage import replies, studies
from storage.database import Store
from storage.models import replies as table
from storage.replies import Reply
from tests.integration.service.conftest import ClientAs

COUNT = "/api/v1/count"


@pytest.fixture
def counted(app: FastAPI) -> list[Any]:
    """A route that counts, so that a second time shows."""
    times: list[Any] = []

    @app.post(COUNT)
    def count(
        who: Worker, body: dict[str, Any], fails: Annotated[int, Query()] = 0, seconds: Annotated[float, Query()] = 0.0
    ) -> dict[str, int]:
        times.append(body)
        time.sleep(seconds)
        if len(times) <= fails:
            raise ApiError(503, "store-unavailable", "away")
        if body.get("wrong"):
            raise ApiError(409, "stale-attempt", "it is another's")
        return {"times": len(times)}

    return times


@pytest.fixture
def client(client_as: ClientAs) -> TestClient:
    return client_as("worker")


def key(text: str) -> dict[str, str]:
    return {"Idempotency-Key": text}


def test_the_first_answer_is_given_again(client: TestClient, counted: list[Any]) -> None:
    first = client.post(COUNT, json={"a": 1}, headers=key("k"))
    again = client.post(COUNT, json={"a": 1}, headers=key("k"))
    assert (again.status_code, again.json(), len(counted)) == (200, first.json(), 1)
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert client.post(COUNT, json={"a": 1}, headers=key("other")).json() == {"times": 2}
    assert client.post(COUNT, json={"a": 1}).json() == {"times": 3}


def test_a_refusal_is_an_answer_too_and_one_that_passes_is_not(client: TestClient, counted: list[Any]) -> None:
    first = client.post(COUNT, json={"wrong": True}, headers=key("k"))
    again = client.post(COUNT, json={"wrong": True}, headers=key("k"))
    assert (again.status_code, again.json(), len(counted)) == (409, first.json(), 1)
    assert again.headers["content-type"] == "application/problem+json"
    assert client.post(f"{COUNT}?fails=2", json={}, headers=key("l")).status_code == 503
    assert client.post(f"{COUNT}?fails=2", json={}, headers=key("l")).json() == {"times": 3}


def test_another_request_under_a_used_key_is_refused(client: TestClient, counted: list[Any]) -> None:
    client.post(COUNT, json={"a": 1}, headers=key("k"))
    for path, body in ((COUNT, {"a": 2}), (f"{COUNT}?fails=0", {"a": 1}), ("/api/v1/leases", {"a": 1})):
        refused = client.post(path, json=body, headers=key("k"))
        assert (refused.status_code, refused.json()["code"]) == (422, "idempotency-key-reused")
    for bad in ("", "x" * 201):
        assert client.post(COUNT, json={}, headers=key(bad)).status_code == 422
    assert len(counted) == 1


def test_a_method_that_an_address_has_not_is_refused_as_such(client: TestClient, counted: list[Any]) -> None:
    for text in ("k", "a bad key\n", ""):
        refused = client.request("DELETE", COUNT, headers=key(text))
        assert refused.status_code == 405, text
    assert client.post(f"{COUNT}ed", json={}, headers=key("")).status_code == 404


def test_what_is_deleted_is_told_again(client_as: ClientAs, service: Service) -> None:
    operator = client_as("operator")
    path = f"/api/v1/studies/{studies.create_study(service.store, name='churn')}"
    first = operator.delete(path, headers=key("k"))
    again = operator.delete(path, headers=key("k"))
    assert (first.status_code, again.json()) == (200, first.json())
    assert again.headers["idempotency-replayed"] == "true"
    assert operator.delete(f"{path}?files=true", headers=key("k")).json()["code"] == "idempotency-key-reused"
    assert operator.delete(path).status_code == 404


def test_a_key_counts_for_its_token(client_as: ClientAs, counted: list[Any]) -> None:
    first, second = client_as("worker", "ann"), client_as("worker", "bob")
    assert first.post(COUNT, json={}, headers=key("k")).json() == {"times": 1}
    assert second.post(COUNT, json={}, headers=key("k")).json() == {"times": 2}


def test_a_second_one_that_comes_meanwhile_waits_for_the_answer(client: TestClient, counted: list[Any]) -> None:
    answers: list[Any] = []

    def send() -> None:
        answers.append(client.post(f"{COUNT}?seconds=0.3", json={}, headers=key("k")).json())

    with client:  # one loop for all
        threads = [threading.Thread(target=send) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert answers == [{"times": 1}] * 4
    assert len(counted) == 1


def test_answers_are_kept_for_a_day(store: Store, service: Service, client: TestClient, counted: list[Any]) -> None:
    client.post(COUNT, json={}, headers=key("k"))
    with store.write() as connection:
        connection.execute(update(table).values(created_at=table.c.created_at - replies.KEPT_SECONDS))
    assert replies.recall(store, 1, "k") is None
    assert client.post(COUNT, json={}, headers=key("k")).json() == {"times": 2}
    assert replies.forget_old(store) == 0
    with store.write() as connection:
        connection.execute(update(table).values(created_at=table.c.created_at - replies.KEPT_SECONDS))
    assert replies.forget_old(store) == 1


def test_the_first_of_two_answers_stays(client_as: ClientAs, store: Store) -> None:
    client_as("worker")
    for status in (200, 201):
        replies.keep(store, 1, "k", Reply(request="r", status=status, body="{}"))
    assert replies.recall(store, 1, "k") == Reply(request="r", status=200, body="{}")


def test_no_secret_is_kept(client_as: ClientAs, store: Store) -> None:
    made = client_as("admin").post("/api/v1/tokens", json={"owner": "ann", "role": "viewer"}, headers=key("k"))
    assert made.status_code == 201
    with store.read() as connection:
        assert connection.execute(table.select()).all() == []


def test_without_a_valid_token_nothing_is_remembered(app: FastAPI, counted: list[Any], store: Store) -> None:
    answer = TestClient(app).post(COUNT, json={}, headers=key("k"))
    assert (answer.status_code, counted) == (401, [])


def test_an_ask_that_is_repeated_after_a_crash_is_given_the_same_trial(client_as: ClientAs, service: Service) -> None:
    """The server was killed after the trial was claimed, and before its answer was kept."""
    from tests.integration.service.test_desk import create

    study_id = create(service.store)
    client = client_as("worker")
    first = client.post(f"/api/v1/studies/{study_id}/ask", json={"worker": "w"}, headers=key("k"))
    with service.store.write() as connection:
        connection.execute(table.delete())
    again = client.post(f"/api/v1/studies/{study_id}/ask", json={"worker": "w"}, headers=key("k"))
    assert (first.status_code, again.json()) == (200, first.json())
    assert studies.count_running(service.store, study_id) == 1
