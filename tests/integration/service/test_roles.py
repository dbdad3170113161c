"""Every route, asked by every role and by nobody: it opens as it declares, for those only."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute, iter_route_contexts
from fastapi.testclient import TestClient

from dashboards.app import create_app
from hpo.api.access import ALLOWED, SAFE_METHODS, Needs, Permission
from hpo.service.state import Service
from storage import tokens
from storage.database import Store
from storage.tokens import ROLES, Role
from tests.integration.service.test_access import PUBLIC as PUBLIC_ROUTES

NOBODY = 999_999  # an id that nothing has
WEAKER_THAN_IT_LOOKS = {  # what is sent, but changes nothing
    "/api/v1/studies/check",
    "/api/v1/statistics/best",
    "/api/v1/statistics/plan",
    "/api/v1/statistics/plan/figure",
    "/mlflow/{path:path}",  # looks at each request itself: tests of the proxy
}
LOGGING_OUT = {"/api/v1/session", "/logout"}  # of oneself
PUBLIC_PAGES = {"/login", "/logout", "/", "/static/{name}"}


class Declared(NamedTuple):
    method: str
    path: str
    permission: Permission
    is_page: bool


@pytest.fixture
def app(sqlite_store: Store, tmp_path: Path) -> Iterator[FastAPI]:
    service = Service(store=sqlite_store, mlflow_uri=None, runs=tmp_path / "runs", projects=tmp_path)
    yield create_app(service)
    service.desk.close()
    service.calculations.close()


def declared(app: FastAPI) -> list[Declared]:
    """The routes that take a token, each with what it takes."""
    found = []
    for route in iter_route_contexts(app.routes):
        if not isinstance(route.original_route, APIRoute):
            continue
        needs = [each.call for each in route.dependant.dependencies if isinstance(each.call, Needs)]
        for method in sorted(route.methods or ()):
            if needs:
                found.append(Declared(method, route.path, needs[0].permission, type(needs[0]) is not Needs))
    return found


def test_every_route_opens_for_whom_it_says(app: FastAPI) -> None:
    store: Store = app.state.service.store
    routes = declared(app)
    assert len(routes) > 50
    asked = 0
    for role in (*ROLES, None):
        headers = {} if role is None else {"Authorization": f"Bearer {_token(store, role)}"}
        client = TestClient(app, headers=headers, raise_server_exceptions=False, follow_redirects=False)
        for method, path, permission, is_page in routes:
            if path.endswith("/events"):  # a stream: another test reads it
                continue
            address = re.sub(r"\{[^}]*\}", str(NOBODY), path)
            answer = client.request(method, address, json=None if method in SAFE_METHODS else {})
            what = f"{method} {path} ({permission}) as {role}: {answer.status_code} {answer.text[:200]}"
            asked += 1
            assert answer.status_code < 500 or answer.status_code == 503, what
            if role is None:
                is_sent_to_login = answer.status_code == 303 and answer.headers["location"].startswith("/login")
                assert answer.status_code == 401 or (is_page and is_sent_to_login), what
            elif role in ALLOWED[permission]:
                assert answer.status_code not in {401, 403}, what
                assert not answer.headers.get("location", "").startswith("/login"), what
            else:
                assert answer.status_code == 403, what
    assert asked >= 5 * 50


def test_whatever_changes_something_takes_more_than_reading(app: FastAPI) -> None:
    for method, path, permission, _ in declared(app):
        if method not in SAFE_METHODS and path not in WEAKER_THAN_IT_LOOKS | LOGGING_OUT:
            assert permission in {"operate", "work", "administer"}, f"{method} {path} takes {permission} only"
        if method in SAFE_METHODS and "token" in path:
            assert permission == "administer", f"{method} {path}"


def test_nothing_is_public_but_what_is_meant_to_be(app: FastAPI) -> None:
    """What no route's permission guards: the two ways in, the signs of life, and files that come with the program."""
    guarded = {(each.method, each.path) for each in declared(app)}
    for route in iter_route_contexts(app.routes):
        if isinstance(route.original_route, APIRoute):
            for method in route.methods or ():
                if (method, route.path) not in guarded | PUBLIC_ROUTES:
                    assert route.path in PUBLIC_PAGES, f"{method} {route.path} is public"


def _token(store: Store, role: Role) -> str:
    return tokens.create_token(store, owner=role, role=role, created_by="a test")[0]
