"""Tokens, browser sessions and the audit log: who gets in, for how long, and what is kept of it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from hpo.api.access import SESSION_COOKIE
from hpo.service.state import Service
from hpo.service.wrong_tokens import MOST_FAILURES, WrongTokens
from storage import audit, tokens
from storage.audit import Doer
from tests.integration.service.conftest import ClientAs

ORIGIN = {"Origin": "http://testserver"}


def browser(app: FastAPI) -> TestClient:
    return TestClient(app, headers=ORIGIN, raise_server_exceptions=False)


def test_an_admin_makes_tokens_that_open_what_they_say(client_as: ClientAs, app: FastAPI) -> None:
    admin = client_as("admin", "ann")
    made = admin.post("/api/v1/tokens", json={"owner": "bob", "role": "viewer", "days": 1})
    assert made.status_code == 201
    token = made.json()
    ends = datetime.fromisoformat(token["expires_at"])
    assert timedelta(hours=23) < ends - datetime.now(UTC) < timedelta(hours=25)
    bob = TestClient(app, headers={"Authorization": f"Bearer {token['secret']}"})
    assert bob.get("/api/v1/studies").status_code == 200
    assert bob.get("/api/v1/tokens").status_code == 403
    assert bob.get("/api/v1/whoami").json() == {
        "owner": "bob",
        "role": "viewer",
        "permissions": ["read"],
        "expires_at": token["expires_at"],
    }
    listed = admin.get("/api/v1/tokens").json()["items"]
    assert [each["owner"] for each in listed] == ["ann", "bob"]
    assert all("secret" not in each for each in listed)
    assert token["secret"] not in admin.get("/api/v1/audit").text
    assert admin.delete(f"/api/v1/tokens/{token['id']}").status_code == 204
    assert bob.get("/api/v1/studies").json()["code"] == "revoked-token"
    assert [each["is_valid"] for each in admin.get("/api/v1/tokens").json()["items"]] == [True, False]


def test_tokens_are_listed_in_pages(client_as: ClientAs) -> None:
    admin = client_as("admin")
    for number in range(4):
        admin.post("/api/v1/tokens", json={"owner": f"w{number}", "role": "worker", "days": None})
    first = admin.get("/api/v1/tokens", params={"limit": 3}).json()
    second = admin.get("/api/v1/tokens", params={"limit": 3, "cursor": first["next"]}).json()
    assert [each["owner"] for each in first["items"] + second["items"]] == ["admin", "w0", "w1", "w2", "w3"]
    assert second["next"] is None


@pytest.mark.parametrize(
    "wanted",
    [
        {"owner": "", "role": "viewer"},
        {"owner": "a\nb", "role": "viewer"},
        {"owner": "ann/x", "role": "worker"},
        {"owner": "a" * 101, "role": "viewer"},
        {"owner": "a", "role": "root"},
        {"owner": "a", "role": "viewer", "days": 0},
        {"owner": "a", "role": "viewer", "days": 1e9},
        {"role": "viewer"},
    ],
)
def test_a_token_for_nobody_or_for_ever_is_refused(client_as: ClientAs, wanted: dict[str, object]) -> None:
    answer = client_as("admin").post("/api/v1/tokens", json=wanted)
    assert answer.status_code == 422, answer.text


def test_a_worker_and_a_viewer_learn_who_they_are_and_no_more(client_as: ClientAs) -> None:
    assert client_as("worker").get("/api/v1/whoami").json()["permissions"] == ["work"]
    for role in ("worker", "viewer", "operator"):
        client = client_as(role)
        assert client.post("/api/v1/tokens", json={"owner": "me", "role": "admin"}).status_code == 403
        assert client.get("/api/v1/audit").status_code == 403


def test_a_session_opens_pages_until_it_is_closed(app: FastAPI, service: Service) -> None:
    secret, token = tokens.create_token(service.store, owner="ann", role="operator", created_by="a test")
    client = browser(app)
    answer = client.post("/api/v1/session", json={"token": f" {secret}\n"})
    assert (answer.status_code, answer.json()["role"]) == (201, "operator")
    cookie = answer.headers["set-cookie"].lower()
    assert all(word in cookie for word in ("httponly", "samesite=strict", "path=/", "max-age=431"))
    assert "secure" not in cookie  # it came by http
    assert secret not in answer.text + cookie
    assert client.get("/api/v1/whoami").json()["owner"] == "ann"
    session = client.cookies[SESSION_COOKIE]
    assert client.delete("/api/v1/session").status_code == 204
    assert SESSION_COOKIE not in client.cookies
    stolen = TestClient(app, cookies={SESSION_COOKIE: session}).get("/api/v1/whoami")
    assert (stolen.status_code, stolen.json()["code"]) == (401, "revoked-token")
    assert TestClient(app, headers={"Authorization": f"Bearer {secret}"}).get("/api/v1/whoami").status_code == 200
    assert [entry.action for entry in audit.list_entries(service.store)] == ["session.close", "session.open"]
    assert {entry.subject for entry in audit.list_entries(service.store)} == {f"token {token.token_id}"}


def test_a_session_by_https_is_for_https_alone(service: Service, app: FastAPI) -> None:
    secret, _ = tokens.create_token(service.store, owner="ann", role="viewer", created_by="a test")
    client = TestClient(app, base_url="https://testserver", headers={"Origin": "https://testserver"})
    assert "secure" in client.post("/api/v1/session", json={"token": secret}).headers["set-cookie"].lower()


def test_other_sites_pages_and_workers_open_no_session(app: FastAPI, service: Service) -> None:
    secret, _ = tokens.create_token(service.store, owner="ann", role="viewer", created_by="a test")
    for headers in ({}, {"Origin": "https://evil.example"}, {"Origin": "null"}):
        answer = TestClient(app, headers=headers).post("/api/v1/session", json={"token": secret})
        assert (answer.status_code, answer.json()["code"]) == (403, "cross-site")
    worker, _ = tokens.create_token(service.store, owner="w", role="worker", created_by="a test")
    assert browser(app).post("/api/v1/session", json={"token": worker}).status_code == 403


def test_guessing_is_slowed_down(app: FastAPI, service: Service) -> None:
    secret, _ = tokens.create_token(service.store, owner="ann", role="viewer", created_by="a test")
    client = browser(app)
    codes = [client.post("/api/v1/session", json={"token": f"hpo_{n}"}).json()["code"] for n in range(MOST_FAILURES)]
    assert set(codes) == {"unknown-token"}
    refused = client.post("/api/v1/session", json={"token": secret})
    assert (refused.status_code, refused.json()["code"]) == (429, "too-many-attempts")
    assert 0 < int(refused.headers["retry-after"]) <= 60


def test_wrong_tokens_are_forgotten_after_a_minute_and_with_a_right_token() -> None:
    now = [0.0]
    wrong = WrongTokens(clock=lambda: now[0])
    for _ in range(MOST_FAILURES):
        wrong.note_failure("10.0.0.1")
    assert wrong.seconds_to_wait("10.0.0.1") == 60.0
    assert wrong.seconds_to_wait("10.0.0.2") == 0.0
    now[0] = 61.0
    assert wrong.seconds_to_wait("10.0.0.1") == 0.0
    wrong.note_failure("10.0.0.1")
    wrong.forget("10.0.0.1")
    assert wrong.seconds_to_wait("10.0.0.1") == 0.0


def test_ended_sessions_leave_nothing_behind(app: FastAPI, service: Service) -> None:
    secret, token = tokens.create_token(service.store, owner="ann", role="viewer", created_by="a test")
    for lifetime in (-1.0, 100.0):
        tokens.create_token(
            service.store,
            owner="ann",
            role="viewer",
            created_by="ann",
            session_of=token.token_id,
            lifetime_seconds=lifetime,
        )
    assert browser(app).post("/api/v1/session", json={"token": secret}).status_code == 201
    with service.store.read() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM tokens").scalar() == 3


def test_the_audit_log_is_read_in_pages_and_by_who_and_what(client_as: ClientAs, service: Service) -> None:
    with service.store.write() as connection:
        for number in range(5):
            doer = Doer(who="ann" if number % 2 else "bob", action="study.pause")
            audit.note_within(connection, doer, str(number))
        audit.note_within(connection, Doer(who="bob", action="study.stop"), "5", details={"reason": "<b>"})
    admin = client_as("admin")
    first = admin.get("/api/v1/audit", params={"limit": 4}).json()
    second = admin.get("/api/v1/audit", params={"limit": 4, "cursor": first["next"]}).json()
    assert [each["subject"] for each in first["items"] + second["items"]] == ["5", "4", "3", "2", "1", "0"]
    assert second["next"] is None
    assert first["items"][0]["details"] == {"reason": "<b>"}
    bobs = admin.get("/api/v1/audit", params={"who": "bob", "action": "study.pause"}).json()["items"]
    assert [each["subject"] for each in bobs] == ["4", "2", "0"]
