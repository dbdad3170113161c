"""Does the server answer others while many clients are slow, and does it hang up on those who never ask?"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx2
import pytest
import uvicorn

from hpo.api.app import create_api
from hpo.service import patience
from hpo.service.state import Service
from storage.database import Store

SLOW = 400


@pytest.fixture
def port(sqlite_store: Store, tmp_path: Path) -> Iterator[int]:
    app = create_api(Service(store=sqlite_store, mlflow_uri=None, runs=tmp_path, projects=tmp_path))
    server = uvicorn.Server(
        uvicorn.Config(app, port=0, http=patience.ImpatientProtocol, log_config=None, timeout_graceful_shutdown=1)
    )
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield int(listening.getsockname()[1])
        server.should_exit = True
        thread.join()


def answer_on(connection: socket.socket) -> bytes:
    """All of an answer: head and body may come apart."""
    heard = b""
    while not heard.endswith(b"}"):
        heard += connection.recv(65536)
    return heard


def test_slow_clients_hold_up_nobody(port: int) -> None:
    with ExitStack() as clients:
        for number in range(SLOW):
            client = clients.enter_context(socket.create_connection(("127.0.0.1", port)))
            if number % 2:
                client.sendall(b"GET /healthz HTTP/1.1\r\nHost: local")
            else:
                head = b"POST /api/v1/session HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                client.sendall(head + b'Content-Length: 100\r\n\r\n{"tok')
        started = time.monotonic()
        for _ in range(20):
            assert httpx2.get(f"http://127.0.0.1:{port}/healthz", trust_env=False).status_code == 200
        assert time.monotonic() - started < 10.0


def test_who_does_not_ask_is_hung_up_on_and_who_does_is_not(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "HEAD_SECONDS", 0.5)
    with ExitStack() as clients:
        silent, slow, good = (
            clients.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10)) for _ in range(3)
        )
        slow.sendall(b"GET /healthz HT")
        request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
        good.sendall(request)
        assert b"200 OK" in answer_on(good)
        assert silent.recv(100) == b""
        assert slow.recv(100) == b""
        good.sendall(request)  # the same connection, after that time
        assert b"200 OK" in answer_on(good)
