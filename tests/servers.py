"""A service behind a real socket, as long as a test needs it: in this process, or as `hpo serve`."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

import uvicorn
from fastapi import FastAPI, Response
from starlette.types import ASGIApp, Receive, Scope, Send

START_SECONDS = 120.0


@contextmanager
def served(app: ASGIApp, *, port: int = 0) -> Iterator[str]:
    """The URL of a server in this process. port: 0 for any that is free."""
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", port))
        listening.listen(128)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2))
        thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        thread.join(10.0)


class Gate:
    """An app before which requests can be held up, as by a slow link, or turned away, as while it is started again."""

    def __init__(self, app: FastAPI) -> None:
        self._app, self._came = app, 0
        self.is_away = False
        self.holds: str | None = None  # the end of the paths that are held up
        self.lets_pass = 0  # so many of these first
        self.held = 0  # how many were held up

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        path = str(scope.get("path", ""))
        if self.holds is not None and path.endswith(self.holds):
            self._came += 1
            self.held += (is_held := self._came > self.lets_pass)
            while is_held and self.holds is not None:
                await asyncio.sleep(0.01)
        if self.is_away and scope["type"] == "http":
            await Response("away", status_code=503)(scope, receive, send)
        else:
            await self._app(scope, receive, send)


@contextmanager
def hpo_serve(storage: str, folder: Path) -> Iterator[str]:
    """The URL of `hpo serve` in a process of its own, on a history that has a token of an admin already."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "hpo", "serve", "--port", str(port), "--storage", storage, "--mlflow", "none"]
    command += ["--runs", str(folder / "runs"), "--projects", str(folder), "--log-file", str(folder / "server.log")]
    with (folder / "server.err").open("w") as complaints:
        server = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=complaints, start_new_session=True
        )
    url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + START_SECONDS
    try:
        while not _answers(url):
            assert server.poll() is None, "the server ended: " + (folder / "server.err").read_text()
            assert time.monotonic() < deadline, "the server does not answer"
            time.sleep(0.05)
        yield url
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(START_SECONDS)


def _answers(url: str) -> bool:
    try:
        with urlopen(f"{url}/healthz", timeout=5):
            return True
    except OSError:
        return False
