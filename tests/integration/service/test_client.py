"""`hpo.Client`: the verbs of the package over HTTP, with the same types and errors."""

import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

import hpo
from hpo.client.logins import forget_token, keep_token, token_file
from hpo.client.transport import Transport, service_url
from hpo.errors import NotAllowedError, ServiceError, ServiceUnavailableError, SettingsError, StudyFailedError
from hpo.service.state import Service
from storage import history, launches, studies, tokens
from storage.errors import StudyNotFoundError
from storage.tokens import Role
from tests.filled import fill
from tests.servers import served


@pytest.fixture
def url(app: FastAPI) -> Iterator[str]:
    with served(app) as url:
        yield url


def token(service: Service, role: Role = "viewer", **options: Any) -> str:
    return tokens.create_token(service.store, owner="ann", role=role, created_by="a test", **options)[0]


def test_studies_are_what_they_are_here(url: str, service: Service) -> None:
    fill(service.store)
    with hpo.Client(url, token(service)) as client:
        here = {study.name: study for study in history.list_studies(service.store)}
        for study in client.studies():
            known = here.pop(study.name)
            for field in ("study_id", "task", "metric", "directions", "objectives", "family", "source", "counts"):
                assert getattr(study, field) == getattr(known, field), field
            assert study.best == (known.best if len(known.directions) == 1 else None)
            assert abs((study.created_at - known.created_at).total_seconds()) < 1e-3
            in_full = client.study(study.name)
            assert in_full == client.study(study.study_id)
            assert (in_full.space, in_full.spec, in_full.provenance) == (known.space, known.spec, known.provenance)
            assert client.stopped(study.name) is None
        assert not here


def test_an_unknown_study_is_the_error_that_it_is_here(url: str, service: Service) -> None:
    studies.create_study(service.store, name="churn", metric="loss")
    with hpo.Client(url, token(service)) as client:
        with pytest.raises(StudyNotFoundError, match=r"no study named 'chrun'\. Did you mean 'churn'"):
            client.study("chrun")
        with pytest.raises(StudyNotFoundError, match="no study with id 77"):
            client.study(77)


def test_a_token_that_does_not_open_it_is_told(url: str, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    with hpo.Client(url, "hpo_forged") as client, pytest.raises(NotAllowedError, match=r"not known here.*hpo login"):
        client.studies()
    with (
        hpo.Client(url, token(service, lifetime_seconds=-1.0)) as client,
        pytest.raises(NotAllowedError, match="this token expired on"),
    ):
        client.studies()
    with hpo.Client(url, token(service, "worker")) as client, pytest.raises(NotAllowedError, match="role worker"):
        client.studies()
    monkeypatch.setenv("HPO_TOKEN_FILE", "/nonexistent/tokens.json")
    monkeypatch.delenv("HPO_TOKEN", raising=False)
    with pytest.raises(NotAllowedError, match=f"no token for {url}"):
        hpo.Client(url)


# How requests get through --------------------------------------------------------------------------------------------


class _Answers(http.server.BaseHTTPRequestHandler):
    """Answers from a script: a status, or None to hang up after the request was read."""

    script: list[int | None]
    seen: list[tuple[str, str | None, bytes]]

    def log_message(self, *args: Any) -> None:
        pass

    def do_DELETE(self) -> None:
        self.do_POST()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.seen.append((self.path, self.headers.get("Idempotency-Key"), body))
        status = self.script.pop(0)
        if status is None:
            self.connection.close()
            return
        problem = {"code": "store-unavailable", "detail": "the disk is full", "status": status}
        text = json.dumps(problem if status >= 400 else {"done": True}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        if status == 302:
            self.send_header("Location", "http://127.0.0.1:9/elsewhere")
        self.end_headers()
        self.wfile.write(text)


@contextmanager
def answering(*script: int | None) -> Iterator[tuple[Transport, list[tuple[str, str | None, bytes]]]]:
    seen: list[tuple[str, str | None, bytes]] = []
    handler = type("Handler", (_Answers,), {"script": list(script), "seen": seen})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}"
    transport = Transport(url, "hpo_x", patience_seconds=2.0, timeout_seconds=2.0)
    yield transport, seen
    transport.close()
    server.shutdown()
    server.server_close()


def test_what_gets_no_answer_is_sent_again_with_the_same_key() -> None:
    with answering(None, 503, None, 200) as (transport, seen):
        assert transport.post("/studies/1/ask", {"worker": "w"}) == {"done": True}
    assert len(seen) == 4
    assert len(set(seen)) == 1, "the same request, the same key"
    assert seen[0][1]
    with answering(200, 200) as (transport, seen):
        transport.post("/a")
        transport.post("/a")
        assert seen[0][1] != seen[1][1], "another call is another request"


def test_what_is_deleted_is_deleted_once(url: str, service: Service) -> None:
    with answering(None, 200) as (transport, seen):
        assert transport.delete("/studies/1", files=True) == {"done": True}
        assert len(set(seen)) == 1 and seen[0][1]
    with hpo.Client(url, token(service, "operator")) as client:
        first = studies.create_study(service.store, name="churn")
        assert client.study("churn").study_id == first  # whose number is known from now on
        launches.remove_study(service.store, first)
        second = studies.create_study(service.store, name="churn")
        with pytest.raises(StudyNotFoundError):  # not the other one, which nobody has looked at
            client.delete("churn")
        assert client.delete("churn")["study"] == "churn"
        with pytest.raises(StudyNotFoundError, match=f"id {second}"):
            client.study(second)


def test_the_end_of_a_study_that_was_deleted_is_no_good_one(url: str, service: Service) -> None:
    study_id = studies.create_study(service.store, name="churn")
    launches.request_launch(service.store, study_id, owner="ann", place="server")
    with hpo.Client(url, token(service, "operator")) as client:
        study = client.study("churn")
        client.check_end(study)
        launches.want(service.store, study_id, "stop")
        with pytest.raises(StudyFailedError, match="'churn' is stopped: its log says why"):
            client.check_end(study)
        launches.remove_study(service.store, study_id)
        with pytest.raises(StudyFailedError, match="'churn' was deleted"):
            client.check_end(study)


def test_patience_ends_and_what_is_refused_is_not_repeated() -> None:
    with (
        answering(*[503] * 100) as (transport, seen),
        pytest.raises(ServiceUnavailableError, match="the disk is full"),
    ):
        transport.post("/a")
    assert len(seen) > 2
    with answering(422) as (transport, seen), pytest.raises(hpo.StorageError):
        transport.post("/a")
    assert len(seen) == 1
    nobody = Transport("http://127.0.0.1:9", "hpo_x", patience_seconds=0.2, timeout_seconds=1.0)
    with pytest.raises(ServiceUnavailableError, match=r"http://127\.0\.0\.1:9 does not answer"):
        nobody.get("/studies")


def test_a_redirect_is_not_followed() -> None:
    with answering(302) as (transport, _), pytest.raises(ServiceError, match="is a Hindsight service"):
        transport.post("/a")


def test_addresses_are_checked() -> None:
    assert service_url("http://127.0.0.1:8080/login#token=x") == "http://127.0.0.1:8080"
    assert service_url(" https://Tuning.example.org/ ") == "https://tuning.example.org"
    for wrong in ("", "tuning", "ftp://host", "http://", "http://a b", "file:///etc/passwd", "http://[::1"):
        with pytest.raises(SettingsError, match="is no address"):
            service_url(wrong)
    with pytest.raises(SettingsError, match="no user"):
        service_url("http://ann:secret@host")
    for wrong in ("a b", "hpo_\nX: y", "hpö"):
        with pytest.raises(SettingsError, match="the token is not one"):
            Transport("http://host", wrong, patience_seconds=1.0, timeout_seconds=1.0)


# Tokens that are kept -------------------------------------------------------------------------------------------------


def test_kept_tokens_are_their_owners_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, service: Service, url: str
) -> None:
    monkeypatch.setenv("HPO_TOKEN_FILE", str(tmp_path / "new" / "tokens.json"))
    monkeypatch.delenv("HPO_TOKEN", raising=False)
    keep_token(url, token(service))
    keep_token("http://other", "hpo_other")
    assert token_file().stat().st_mode & 0o777 == 0o600
    with hpo.Client(url) as client:
        assert client.studies() == []
    monkeypatch.setenv("HPO_SERVER", url)
    with hpo.Client() as client:
        assert client.studies() == []
    assert forget_token("http://other")
    assert not forget_token("http://other")
    token_file().chmod(0o644)
    with pytest.raises(SettingsError, match=r"can be read by others.*chmod 600"):
        hpo.Client(url)
    token_file().chmod(0o600)
    token_file().write_text("[]")
    with pytest.raises(SettingsError, match="not a file of tokens"):
        hpo.Client(url)


def test_a_client_imports_no_more_than_it_needs() -> None:
    heavy = ("torch", "sqlalchemy", "optuna", "numpy", "fastapi", "pydantic", "lightning")
    program = (
        "import sys, hpo; from hpo.errors import ServiceUnavailableError\n"
        "client = hpo.Client('http://127.0.0.1:9', 'hpo_x', patience_seconds=0)\n"
        "try: client.ask(1)\n"
        "except ServiceUnavailableError: pass\n"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env={**os.environ}
    )
    assert done.stdout.strip() == "[]"
