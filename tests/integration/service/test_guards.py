"""What holds for every request: its host, its body, its method, and what its answer forbids."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fastapi import UploadFile
from fastapi.responses import StreamingResponse
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

from hpo.api import bodies, guards
from hpo.api.app import create_api
from hpo.service.state import Service
from storage.database import Store
from tests.integration.service.conftest import ClientAs

JSON = {"Content-Type": "application/json"}


@pytest.fixture
def service(sqlite_store: Store, tmp_path: Path) -> Service:
    """On one kind of database: none of this depends on it."""
    return Service(store=sqlite_store, mlflow_uri=None, runs=tmp_path / "runs", projects=tmp_path)


@pytest.fixture
def echo(service: Service) -> TestClient:
    """An application with the guards and a few routes of its own: what comes through them?"""
    app = create_api(replace(service, hosts=guards.LOOPBACK))

    @app.post("/echo")
    def echo(content: dict[str, Any]) -> dict[str, Any]:
        return content

    @app.post("/upload")
    def upload(file: UploadFile) -> int:
        return len(file.file.read())

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        async def for_ever() -> AsyncIterator[bytes]:
            while True:
                yield b"more"
                await asyncio.sleep(0)

        return StreamingResponse(for_ever())

    return TestClient(app, base_url="http://localhost:8080", raise_server_exceptions=False)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:8080", "[::1]:8080"])
def test_a_request_to_loopback_by_its_names_comes_through(echo: TestClient, host: str) -> None:
    assert echo.post("/echo", json={"a": 1}, headers={"Host": host}).json() == {"a": 1}


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost.", "", "[::1", "127.0.0.2"])
def test_another_name_that_leads_to_loopback_is_refused(echo: TestClient, host: str) -> None:
    answer = echo.post("/echo", json={"a": 1}, headers={"Host": host})
    assert (answer.status_code, answer.json()["code"]) == (400, "unknown-host")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"a": ' + b"[" * 64 + b"]" * 64 + b"}", "nested"),
        (b'{"a": [' + b"1," * 100_000 + b"1]}", "values"),
        (b'{"a": ' + b"9" * 400 + b"}", "double"),
        (b'{"a": 1e309}', "double"),
        (b'{"a": -2.5E+400}', "double"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": -Infinity}', "Infinity"),
        (b'{"a": "\\u0000"}', "NUL"),
        (b'{"a\\u0000": 1}', "NUL"),
        (b'{"a": "\\ud800"}', "surrogate"),
        (b'{"a": "\\uDFFF\\ud83d"}', "surrogate"),
        ('{"a": "ä"}'.encode("latin-1"), "UTF-8"),
        ('{"a": 1}'.encode("utf-16"), "UTF-8"),
        (b'{"a": "\xed\xa0\x80"}', "UTF-8"),
    ],
)
def test_a_body_that_is_too_much_is_refused_with_the_reason(echo: TestClient, body: bytes, reason: str) -> None:
    answer = echo.post("/echo", content=body, headers=JSON)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid-request")
    assert reason in answer.json()["detail"]


def test_what_only_looks_like_too_much_comes_through(echo: TestClient) -> None:
    body = {"text": '[[{"\\NaN Infinity 1e999 \\u0000 \\ud800' * 50, "digits": "9" * 500, "smile": "\U0001f600"}
    assert echo.post("/echo", json=body).json() == body
    assert echo.post("/echo", content=b'{"smile": "\\ud83d\\ude00", "b": "\\\\u0000"}', headers=JSON).json() == {
        "smile": "\U0001f600",
        "b": "\\u0000",
    }
    assert echo.post("/echo", content=b'{"a": 1e308, "b": [' + b"[" * 60 + b"]" * 60 + b"]}", headers=JSON).is_success


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=20,
    )
)
def test_ordinary_json_has_no_fault(content: Any) -> None:
    import json

    has_nul = "\\u0000" in json.dumps(content).replace("\\\\", "")
    for text in (json.dumps(content), json.dumps(content, ensure_ascii=False)):
        if not has_nul:
            assert bodies.json_fault(text.encode()) is None


def test_bodies_are_limited_whether_they_say_their_size_or_not(echo: TestClient) -> None:
    large = b'{"a": "' + b"x" * bodies.MOST_JSON_BYTES + b'"}'

    def in_parts() -> Iterator[bytes]:
        yield from (large[start : start + 2**16] for start in range(0, len(large), 2**16))

    for content in (large, in_parts()):
        answer = echo.post("/echo", content=content, headers=JSON)
        assert answer.status_code == 413
        assert "2,097,152" in answer.json()["detail"]
    fits = bodies.MOST_BYTES - 1000
    assert echo.post("/upload", files={"file": b"x" * fits}).json() == fits
    assert echo.post("/upload", files={"file": b"x" * bodies.MOST_BYTES}).status_code == 413
    form = b'--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n' + b"x" * bodies.MOST_BYTES
    answer = echo.post(
        "/upload",
        content=iter([form, b"x", b"\r\n--b--\r\n"]),
        headers={"Content-Type": "multipart/form-data; boundary=b"},
    )
    assert answer.status_code == 413, answer.text


def test_a_body_that_does_not_come_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "READ_SECONDS", 0.01)

    async def never() -> Any:
        await asyncio.sleep(60)

    for read in (lambda: bodies.read_json(never), bodies.counted(never)):
        with pytest.raises(bodies.TooSlowError):
            asyncio.run(read())


def test_head_is_answered_where_get_is_without_the_body(client_as: ClientAs, echo: TestClient) -> None:
    client = client_as("viewer")
    answer = client.head("/api/v1/studies")
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-length"] == client.get("/api/v1/studies").headers["content-length"]
    assert client.head("/api/v1/studies/77").status_code == 404
    assert echo.head("/stream").status_code == 200  # and it ends


def test_options_and_405_tell_what_a_path_allows(client_as: ClientAs) -> None:
    client = client_as("viewer")
    allowed = client.options("/api/v1/tokens")
    assert (allowed.status_code, allowed.headers["allow"]) == (204, "GET, HEAD, OPTIONS, POST")
    assert client.options("/api/v1/nothing").status_code == 404
    refused = client.put("/api/v1/tokens")
    assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD, OPTIONS, POST")
    assert "access-control-allow-origin" not in allowed.headers


def test_answers_are_not_framed_sniffed_or_kept(client_as: ClientAs, service: Service) -> None:
    client = client_as("viewer")
    for answer in (client.get("/api/v1/studies"), client.get("/nowhere"), client.get("/api/v1/studies?name=%00")):
        assert "default-src 'self'" in answer.headers["content-security-policy"]
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["referrer-policy"] == "same-origin"
        assert "strict-transport-security" not in answer.headers
    secure = TestClient(create_api(replace(service, is_secure=True)))
    assert "max-age" in secure.get("/nowhere").headers["strict-transport-security"]


def test_nul_in_an_address_is_refused(client_as: ClientAs) -> None:
    for path in ("/api/v1/studies?search=a%00b", "/api/v1/studies/%00"):
        answer = client_as("viewer").get(path)
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid-request")
