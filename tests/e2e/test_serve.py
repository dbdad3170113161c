"""`hpo serve` as a person starts it: its first link, MLflow under its address, its end, and its end by kill -9."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx2
import pytest

from storage import tokens
from storage.schema import open_store
from tests.e2e.conftest import Hpo, answer

STUDY = {
    "study": "remote",
    "task": {"name": "remote", "metric": "loss", "direction": "minimize"},
    "space": {"lr": {"type": "float", "low": 0.001, "high": 1.0, "log": True}},
    "budget": {"trials": 3},
}
LATE = b'{"owner": "late", "role": "viewer"}'
READY_WITHIN_SECONDS = 120.0  # on a machine that does much else


class Serving:
    """A running `hpo serve`, and what it has announced."""

    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        self.process, self.folder = process, folder
        self.said: dict[str, Any] = _announcement(process)
        self.clients: list[httpx2.Client] = []

    @property
    def url(self) -> str:
        return str(self.said["url"])

    def client(self, **options: Any) -> httpx2.Client:
        self.clients.append(httpx2.Client(base_url=self.url, trust_env=False, timeout=30.0, **options))
        return self.clients[-1]

    def logged_in(self) -> httpx2.Client:
        """A browser that has followed the link."""
        client = self.client(headers={"Origin": self.url})
        token = str(self.said["login"]).partition("#token=")[2]
        assert client.post("/api/v1/session", json={"token": token}).status_code == 201
        return client

    def family(self) -> set[int]:
        """The processes that it has started, and theirs."""
        found, parents = set(), {self.process.pid}
        while parents:
            told = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
            children = {int(pid) for pid, parent in map(str.split, told.splitlines()) if int(parent) in parents}
            parents = children - found
            found |= children
        return found

    def end(self, number: int = signal.SIGTERM) -> tuple[int, float]:
        """Its exit code, and how long it took."""
        started = time.monotonic()
        self.process.send_signal(number)
        code = self.process.wait(60)
        return code, time.monotonic() - started


def _announcement(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None and process.stderr is not None
    text = ""
    while line := process.stdout.readline():
        text += line
        if line == "}\n":
            return dict(json.loads(text))
    raise AssertionError(f"it announced nothing: {text}\n{process.stderr.read()}")


@contextmanager
def serving(folder: Path, *options: str, **environment: str) -> Iterator[Serving]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HPO_", "MLFLOW_"))}
    process = subprocess.Popen(
        [sys.executable, "-m", "hpo", "serve", "--json", "--port", "0", "--log-file", "serve.log", *options],
        cwd=folder,
        env={**kept, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    watchdog = threading.Timer(READY_WITHIN_SECONDS, process.kill)
    watchdog.start()
    try:
        found = Serving(process, folder)
        watchdog.cancel()
        yield found
        for client in found.clients:
            client.close()
    finally:
        watchdog.cancel()
        process.kill()
        process.communicate()


def gone(pids: set[int], *, within: float = 15.0) -> bool:
    """Whether all of these processes have ended."""
    deadline = time.monotonic() + within
    while left := {pid for pid in pids if Path(f"/proc/{pid}").exists()}:
        if time.monotonic() > deadline:
            raise AssertionError([Path(f"/proc/{pid}/cmdline").read_bytes() for pid in left])
        time.sleep(0.05)
    return True


def until(happens: Callable[[], bool], *, within: float = 120.0) -> None:
    deadline = time.monotonic() + within
    while not happens():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def unfinished_request(service: Serving) -> socket.socket:
    """A connection on which a token was asked for, but for the rest of the body."""
    host, _, port = service.url.removeprefix("http://").partition(":")
    token = str(service.said["login"]).partition("#token=")[2]
    connection = socket.create_connection((host, int(port)))
    head = f"POST /api/v1/tokens HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(LATE)}\r\n\r\n"
    connection.sendall(head.encode() + LATE[:10])
    time.sleep(0.5)
    return connection


def test_the_first_start_logs_in_shows_mlflow_and_ends_with_all_it_started(tmp_path: Path) -> None:
    with serving(tmp_path) as service:
        assert service.said["login"].startswith(f"{service.url}/login#token=hpo_")
        assert service.client().get("/readyz").json() == {"status": "ok", "reasons": []}
        assert "Log in" in service.client().get("/login").text
        assert service.client().get("/login", headers={"Host": "evil.example"}).status_code == 400
        browser = service.logged_in()
        assert browser.get("/api/v1/whoami").json()["role"] == "admin"
        page = browser.get("/mlflow/", headers={"Accept": "text/html"})
        assert page.status_code in (200, 503)
        until(lambda: browser.get("/mlflow/health").status_code == 200)
        assert "<script" in browser.get("/mlflow/").text
        assert service.client().get("/mlflow/").status_code == 401
        children = service.family()
        assert len(children) >= 2
        with unfinished_request(service) as connection:  # it is answered before the end
            service.process.send_signal(signal.SIGTERM)
            time.sleep(0.5)
            connection.sendall(LATE[10:])
            assert b"201" in connection.recv(65536).split(b"\r\n")[0]
        assert (service.process.wait(60), gone(children)) == (0, True)
    assert tokens.list_tokens(open_store(f"sqlite:///{tmp_path / 'hpo.db'}"))[-1].owner == "late"
    token = service.said["login"].partition("#token=")[2]
    log = (tmp_path / "serve.log").read_text()
    assert "GET /api/v1/whoami 200" in log
    assert token not in log
    assert (tmp_path / "hpo.db").exists() and (tmp_path / "mlflow.db").exists()


def test_killed_it_leaves_no_process_and_starts_again_and_told_twice_it_ends_at_once(tmp_path: Path) -> None:
    with serving(tmp_path) as service:
        until(lambda: len(service.family()) >= 2, within=30.0)  # MLflow is starting
        children, first = service.family(), service.said
        service.process.kill()
        assert gone(children)
    with serving(tmp_path, "--no-mlflow-ui", "--behind-proxy", "127.0.0.1") as again:
        assert again.said["login"] is None  # the first one still holds
        token = first["login"].partition("#token=")[2]
        answer = again.client(headers={"Authorization": f"Bearer {token}"}).get("/api/v1/whoami")
        assert answer.json()["role"] == "admin"
        proxied = {"Host": "hpo.studies.example", "Origin": "https://hpo.studies.example", "X-Forwarded-Proto": "https"}
        opened = again.client(headers=proxied).post("/api/v1/session", json={"token": token})
        assert "secure" in opened.headers["set-cookie"].lower()
        with unfinished_request(again):  # for which it would wait
            again.process.send_signal(signal.SIGTERM)
            time.sleep(0.5)
            assert again.end(signal.SIGINT)[0] == 130


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        shlex.split(
            "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost "
            "-addext subjectAltName=DNS:localhost,IP:127.0.0.1 -keyout key.pem -out cert.pem"
        ),
        cwd=folder,
        check=True,
        capture_output=True,
    )
    return folder


def test_with_tls_cookies_are_for_https_and_traces_go_where_the_environment_says(
    tmp_path: Path, certificate: Path
) -> None:
    received: list[bytes] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    collector = HTTPServer(("127.0.0.1", 0), Collector)
    threading.Thread(target=collector.serve_forever, daemon=True).start()
    store = open_store(f"sqlite:///{tmp_path / 'hpo.db'}")
    secret, _ = tokens.create_token(store, owner="ann", role="admin", created_by="a test")
    tls = ["--tls-cert", str(certificate / "cert.pem"), "--tls-key", str(certificate / "key.pem")]
    endpoint = f"http://127.0.0.1:{collector.server_port}"
    settings = tmp_path / "settings.yaml"
    settings.write_text("metrics: open\nlimits: {trials: 3}\n")
    options = ["--host", "0.0.0.0", "--mlflow", "none", "--settings", str(settings), *tls]
    with serving(tmp_path, *options, OTEL_EXPORTER_OTLP_ENDPOINT=endpoint) as service:
        assert service.url.startswith("https://127.0.0.1:")
        context = ssl.create_default_context(cafile=str(certificate / "cert.pem"))
        browser = service.client(verify=context, headers={"Origin": service.url})
        opened = browser.post("/api/v1/session", json={"token": secret})
        assert "secure" in opened.headers["set-cookie"].lower()
        assert "max-age" in opened.headers["strict-transport-security"]
        assert "hindsight_store_up 1.0" in browser.get("/metrics").text
        made = browser.post("/api/v1/studies", json={"file": STUDY, "launch": {"place": "workers"}}).json()
        asked = browser.post(f"/api/v1/studies/{made['id']}/ask", json={"worker": "mine", "lease_seconds": 60})
        assert asked.status_code == 200, asked.text
        assert service.end()[0] == 0
    collector.shutdown()
    collector.server_close()
    assert b"/api/v1/studies/{study_id}/ask" in b"".join(received)
    assert b"suggestion" in b"".join(received)  # by the process that proposes


def test_what_cannot_be_served_is_refused_with_what_to_do(hpo: Hpo, tmp_path: Path) -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = str(busy.getsockname()[1])
        assert f"port {port} of 127.0.0.1 is in use" in hpo("serve", "--port", port, code=2)[1]
    wide = ["serve", "--host", "0.0.0.0", "--port", "0"]
    assert "--behind-proxy" in hpo(*wide, code=2)[1]
    assert "hpo tokens create --role admin" in hpo(*wide, "--behind-proxy", "10.0.0.1", code=2)[1]
    assert "--tls-key" in hpo("serve", "--tls-cert", "c.pem", code=2)[1]
    assert "no such file" in hpo("serve", "--tls-cert", "c.pem", "--tls-key", "k.pem", code=2)[1]
    (tmp_path / "c.pem").write_text("nonsense")
    assert "no PEM certificate" in hpo("serve", "--tls-cert", "c.pem", "--tls-key", "c.pem", code=2)[1]
    assert "10.0.0.0/24" in hpo("serve", "--behind-proxy", "proxy.local", code=2)[1]
    assert "no such folder" in hpo("serve", "--projects", "nowhere", code=2)[1]
    assert "cannot share" in hpo("serve", "--mlflow", f"sqlite:///{tmp_path / 'history.db'}", code=2)[1]
    assert "no address of this machine" in hpo("serve", "--host", "no.such.host.invalid", code=2)[1]
    (tmp_path / "s.yaml").write_text("limits: {trials: 0}\nmetric: open\n")
    complaint = hpo("serve", "--settings", "s.yaml", code=2)[1]
    assert "s.yaml:1: limits.trials:" in complaint
    assert "s.yaml:2: metric: this key is unknown" in complaint


def test_tokens_are_made_listed_and_revoked_without_a_server(hpo: Hpo) -> None:
    made = answer(hpo, "tokens", "create", "--role", "operator", "--owner", "ann", "--days", "2")
    assert made["secret"].startswith("hpo_")
    assert "until 20" in hpo("tokens", "create", "--role", "admin")[0]
    assert "for ever" in hpo("tokens", "create", "--role", "worker", "--owner", "box", "--forever")[0]
    listed = answer(hpo, "tokens", "list")
    assert [token["role"] for token in listed] == ["operator", "admin", "worker"]
    assert "secret" not in listed[0] and made["secret"] not in hpo("tokens", "list")[0]
    assert "opens nothing any more" in hpo("tokens", "revoke", str(made["id"]))[0]
    assert "revoked" in hpo("tokens", "list")[0]
    assert "no token with id 99" in hpo("tokens", "revoke", "99", code=2)[1]
    assert "no name" in hpo("tokens", "create", "--role", "viewer", "--owner", "a\nb", code=2)[1]
