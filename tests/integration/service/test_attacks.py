"""What hostile requests come to: none gets through, and none makes the server fail.

Each attack says what it sends; what counts is what happened: no file was made or read, no row came or went, nothing
that was sent comes back as a page's own markup.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import func, select

from dashboards.app import create_app
from hpo.api.access import SESSION_COOKIE
from hpo.service.state import Service
from storage import history, studies, tokens
from storage.models import metadata
from storage.schema import Store, open_store
from storage.tokens import Role
from tests.filled import fill
from tests.integration.service.attacks import API, KINDS, attacks, study_file

SECRETS = ("root:x:0:0", "SQLite format 3", "BEGIN RSA", "Traceback (most recent")
TABLES_THAT_MAY_GROW = {"audit", "replies", "tokens"}  # what is said of requests


@pytest.fixture(scope="module")
def canary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that code which must not run would make."""
    return tmp_path_factory.mktemp("outside") / "canary"


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FastAPI]:
    folder = tmp_path_factory.mktemp("service")
    store = open_store(f"sqlite:///{folder / 'history.db'}")
    fill(store)
    (folder / "projects").mkdir()
    (folder / "secret.txt").write_text("root:x:0:0 is nobody's business")
    (folder / "projects" / "link").symlink_to(folder / "secret.txt")
    service = Service(
        store=store,
        mlflow_uri=None,
        runs=folder / "runs",
        projects=folder / "projects",
        hosts=frozenset({"testserver"}),
    )
    yield create_app(service)
    service.desk.close()
    service.calculations.close()
    store.dispose()


def store_of(app: FastAPI) -> Store:
    store: Store = app.state.service.store
    return store


def client_of(app: FastAPI, role: Role | None) -> TestClient:
    headers = {} if role is None else {"Authorization": f"Bearer {secret_of(app, role)}"}
    return TestClient(app, headers=headers, raise_server_exceptions=False, follow_redirects=False)


def secret_of(app: FastAPI, role: Role, **options: Any) -> str:
    return tokens.create_token(store_of(app), owner=role, role=role, created_by="a test", **options)[0]


def sizes(store: Store) -> dict[str, int]:
    with store.read() as connection:
        return {
            table.name: connection.execute(select(func.count()).select_from(table)).scalar_one()
            for table in metadata.sorted_tables
            if table.name not in TABLES_THAT_MAY_GROW
        }


@pytest.mark.parametrize("kind", KINDS)
def test_none_gets_through(kind: str, app: FastAPI, canary: Path) -> None:
    clients = {role: client_of(app, role) for role in ("admin", None)}
    store, before = store_of(app), sizes(store_of(app))
    broken = []
    for attack in attacks(canary):
        if attack.kind != kind:
            continue
        answer = clients[attack.role].request(attack.method, attack.path, **attack.options)
        told = answer.text
        if answer.status_code not in attack.may or any(secret in told for secret in SECRETS):
            broken.append(f"{attack.what[:100]!r}: {answer.status_code} {told[:200]}")
    assert not broken, "\n".join(broken)
    assert not canary.exists()
    assert sizes(store) == before


def test_there_are_many(canary: Path) -> None:
    found = attacks(canary)
    assert {attack.kind for attack in found} == set(KINDS)
    assert len(found) >= 200


# What comes back ------------------------------------------------------------------------------------------------------

NAMES = (
    "<script>alert('x')</script>", '"><img src=x onerror=alert(1)>', "'><svg/onload=alert(1)>",
    "</script><script>alert(1)//", "</title><script>alert(1)</script>", "{{7*7}}", "{% include '/etc/passwd' %}",
    "${7*7}", "javascript:alert(1)", "<!--<script>", "<a href='javascript:alert(1)'>x</a>", "&lt;script&gt;",
    "\u202egnp.exe", "a\u0000b"[:1] + "\u200b", "<b>bold</b>", "]]><script>alert(1)</script>",
    "\\u003cscript\\u003e", "<iframe srcdoc='<script>alert(1)</script>'>", "<math><mtext></p><style><img src=x>",
    "\U0001f4a9" * 20, "../../etc/passwd", "' OR 1=1 --", "[link](javascript:alert(1))",
    "<template><script>alert(1)</script></template>",
)  # fmt: skip
PAGES = ("/studies", "/studies/{id}", "/history", "/compare", "/machines", "/audit", "/studies/{id}/trials/0")
MARKUP = re.compile(r"<(script|img|svg|iframe|math|template|b|a)\b[^>]*(alert|onerror|onload|srcdoc|src=x|bold)", re.I)


def test_no_name_becomes_a_pages_markup(app: FastAPI) -> None:
    store, client = store_of(app), client_of(app, "admin")
    secret = secret_of(app, "admin")
    made = [
        studies.create_study(store, name=name, task=name, metric=name, spec={"study": name, "space": {}})
        for name in NAMES
    ]
    browser = TestClient(
        app, cookies={SESSION_COOKIE: secret}, raise_server_exceptions=False, headers={"Accept": "text/html"}
    )
    seen = 0
    for study_id, name in zip(made, NAMES, strict=True):
        told = client.get(f"{API}/studies/{study_id}")
        assert told.json()["name"] == name
        assert told.headers["content-type"].startswith("application/json")
        for path in (*PAGES, f"/studies?search={name}", f"/history?search={name}"):
            page = browser.get(path.format(id=study_id) if "{id}" in path else path)
            assert page.status_code < 500, f"{path}: {page.text[:300]}"
            if "text/html" in page.headers.get("content-type", ""):
                seen += 1
                assert "<" not in name or name not in page.text, f"{path} shows {name!r} as it is"
                assert "script-src 'unsafe-inline'" not in page.headers["content-security-policy"]
                assert "default-src 'self'" in page.headers["content-security-policy"]
                assert page.headers["x-content-type-options"] == "nosniff"
    assert seen > len(NAMES)
    names = {study.name for study in history.list_studies(store)}
    assert set(NAMES) <= names, "every name is kept as it is"


# Other sites, and sessions --------------------------------------------------------------------------------------------


def test_another_site_cannot_act_for_a_browsers_user(app: FastAPI) -> None:
    store = store_of(app)
    study = studies.create_study(store, name="wanted by another site", metric="loss")
    cookies = {SESSION_COOKIE: secret_of(app, "admin")}
    browser = TestClient(app, cookies=cookies, raise_server_exceptions=False, follow_redirects=False)
    origins: tuple[dict[str, str], ...] = (
        {}, {"Origin": "null"}, {"Origin": "https://evil.example"}, {"Origin": "http://testserver.evil.example"},
        {"Origin": "http://testserver:81"}, {"Origin": ""}, {"Origin": "http://evil.example@testserver.evil"},
        {"Referer": "http://testserver/"}, {"Origin": "https://evil.example", "Referer": "http://testserver/studies"},
    )  # fmt: skip
    sent: tuple[tuple[str, dict[str, Any]], ...] = (
        ("application/json", {"content": b"{}"}),
        ("text/plain", {"content": b"{}"}),
        ("application/x-www-form-urlencoded", {"content": b"a=b"}),
        ("multipart/form-data; boundary=x", {"content": b"--x--"}),
    )
    for origin in origins:
        for content_type, body in sent:
            headers = {**origin, "Content-Type": content_type}
            for method, path in (
                ("DELETE", f"{API}/studies/{study}"),
                ("POST", f"{API}/studies/{study}/stop"),
                ("POST", f"{API}/tokens"),
                ("POST", f"{API}/studies"),
            ):
                answer = browser.request(method, path, headers=headers, **body)
                assert answer.status_code == 403, f"{method} {path} {headers}: {answer.status_code} {answer.text[:200]}"
                assert "access-control-allow-origin" not in answer.headers
    assert history.study_of_id(store, study).name == "wanted by another site"


def test_a_session_is_nobodys_choice(app: FastAPI) -> None:
    """A cookie that another has put there is not made valid by a login (session fixation)."""
    browser = TestClient(app, cookies={SESSION_COOKIE: "hpo_planted"}, raise_server_exceptions=False)
    opened = browser.post(
        f"{API}/session", json={"token": secret_of(app, "viewer")}, headers={"Origin": "http://testserver"}
    )
    assert opened.status_code == 201, opened.text
    cookie = opened.headers["set-cookie"]
    assert "hpo_planted" not in cookie
    assert "httponly" in cookie.lower()
    assert "samesite=strict" in cookie.lower()
    planted = TestClient(app, cookies={SESSION_COOKIE: "hpo_planted"}, raise_server_exceptions=False)
    assert planted.get(f"{API}/studies").status_code == 401


def test_what_is_sent_never_becomes_a_header(app: FastAPI) -> None:
    client = client_of(app, "admin")
    for text in ("a\r\nSet-Cookie: x=y", "a\nLocation: http://evil.example", "a%0d%0aX-Evil: 1"):
        answers = [
            client.get(f"{API}/studies", params={"name": text}),
            client.get("/login", params={"next": text}),
            client.get("/login", params={"next": "//evil.example/"}),
            client.post(f"{API}/tokens", json={"owner": text, "role": "viewer"}),
            client.post(f"{API}/studies", json={"file": study_file(study=text)}),
        ]
        for answer in answers:
            assert answer.status_code < 500
            assert "x-evil" not in answer.headers
            assert "x=y" not in answer.headers.get("set-cookie", "")
            assert "evil.example" not in answer.headers.get("location", "")
