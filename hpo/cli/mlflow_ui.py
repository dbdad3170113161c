"""`hpo ui`: the MLflow UI on the store that the studies log to."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import IO

from hpo.cli import show
from hpo.errors import HpoError, SettingsError
from hpo.settings import mlflow_uri

START_SECONDS = 120.0


def serve(mlflow: str | None, *, host: str, port: int, as_json: bool) -> None:
    """Serve until interrupted; a remote tracking server has a UI of its own, whose address is printed."""
    uri = mlflow_uri(mlflow)
    if uri is None:
        raise SettingsError("MLflow is `none`: there is no UI to show; name a tracking URI by --mlflow")
    if uri.startswith(("http://", "https://")):
        _announce(uri, uri, as_json=as_json)
        return
    _check_exists(uri)
    address = f"http://{host}:{_free_port(host, port)}"
    with tempfile.TemporaryFile() as log:  # a pipe that nobody reads would fill and block the server
        process = _start_server(uri, address, log)
        try:
            _wait_until_up(process, address, log)
            _announce(address, uri, as_json=as_json)
            process.wait()
        finally:
            _stop(process)


def _start_server(uri: str, address: str, log: IO[bytes]) -> subprocess.Popen[bytes]:
    host, _, port = address.removeprefix("http://").rpartition(":")
    options = ["--backend-store-uri", uri, "--host", host, "--port", port, "--workers", "1"]
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "mlflow", "server", *options],
        env={"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", **os.environ},
        stdout=subprocess.DEVNULL,
        stderr=log,
        start_new_session=True,
    )


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the server and its workers."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _announce(address: str, uri: str, *, as_json: bool) -> None:
    if as_json:
        show.print_json({"address": address, "store": uri})
    else:
        print(f"MLflow UI on {uri}: {address}  (Ctrl-C ends it)")
    sys.stdout.flush()


def _check_exists(uri: str) -> None:
    scheme, _, path = uri.partition(":///")
    if scheme == "sqlite" and not Path(path).exists():
        raise SettingsError(
            f"there is no MLflow store at {path} yet; `hpo tune` makes one, or name another by --mlflow"
        )


def _free_port(host: str, wanted: int) -> int:
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                if port == 0:
                    raise SettingsError(f"cannot listen on {host}: {error}") from error
                continue
            return int(probe.getsockname()[1])
    raise AssertionError("port 0 either binds or raises")


def _wait_until_up(process: subprocess.Popen[bytes], address: str, log: IO[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            log.seek(0)
            tail = log.read().decode(errors="replace").strip().splitlines()[-3:]
            raise HpoError("the MLflow UI did not start:\n" + "\n".join(tail))
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    raise HpoError(f"the MLflow UI did not answer at {address} within {START_SECONDS:.0f} s")
