"""Who may do what: tokens, roles, sessions of browsers."""

from datetime import UTC, datetime

from fastapi import FastAPI
from fastapi.routing import APIRoute, iter_route_contexts
from fastapi.testclient import TestClient

from hpo.api.access import SESSION_COOKIE, Needs
from hpo.service.state import Service
from storage import tokens
from tests.integration.service.conftest import ClientAs

PUBLIC = {
    ("GET", "/api/v1/openapi.json"),
    ("POST", "/api/v1/session"),
    ("GET", "/healthz"),
    ("GET", "/readyz"),
    ("GET", "/metrics"),  # by a setting
}


def test_without_a_token_nothing_is_told(app: FastAPI) -> None:
    answer = TestClient(app).get("/api/v1/studies")
    assert answer.status_code == 401
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == "no-token"
    assert "Bearer" in answer.headers["www-authenticate"]


def test_a_token_opens_what_its_role_allows(client_as: ClientAs) -> None:
    assert client_as("viewer").get("/api/v1/studies").status_code == 200
    refused = client_as("worker").get("/api/v1/studies")
    assert (refused.status_code, refused.json()["code"]) == (403, "not-allowed")


def test_an_expired_and_a_revoked_token_say_so(client_as: ClientAs, service: Service) -> None:
    expired = client_as("admin", lifetime_seconds=-1.0).get("/api/v1/studies")
    assert (expired.status_code, expired.json()["code"]) == (401, "expired-token")
    client = client_as("viewer")
    tokens.revoke_token(service.store, tokens.list_tokens(service.store)[-1].token_id)
    revoked = client.get("/api/v1/studies")
    assert (revoked.status_code, revoked.json()["code"]) == (401, "revoked-token")


def test_a_session_ends_with_the_token_that_opened_it(app: FastAPI, service: Service) -> None:
    _, token = tokens.create_token(service.store, owner="ann", role="viewer", created_by="a test")
    secret, _ = tokens.create_token(
        service.store, owner="ann", role="viewer", created_by="ann", session_of=token.token_id
    )
    browser = TestClient(app, cookies={SESSION_COOKIE: secret})
    assert browser.get("/api/v1/studies").status_code == 200
    tokens.revoke_token(service.store, token.token_id)
    assert browser.get("/api/v1/studies").status_code == 401


def test_only_a_digest_of_a_token_is_kept(service: Service) -> None:
    secret, token = tokens.create_token(service.store, owner="ann", role="admin", created_by="a test")
    with service.store.read() as connection:
        kept = str(connection.exec_driver_sql("SELECT * FROM tokens").all())
    assert secret not in kept
    assert secret.endswith(token.hint)
    assert token.is_valid(now=datetime.now(UTC))


def test_every_route_declares_its_permission(app: FastAPI) -> None:
    declared = 0
    for route in iter_route_contexts(app.routes):
        if isinstance(route.original_route, APIRoute) and (min(route.methods or "?"), route.path) not in PUBLIC:
            needs = [each.call for each in route.dependant.dependencies if isinstance(each.call, Needs)]
            assert len(needs) == 1, f"{sorted(route.methods or [])} {route.path} declares {len(needs)} permissions"
            declared += 1
    assert declared > 5
