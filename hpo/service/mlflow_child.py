"""MLflow's own server, as a child of the service: it listens on a socket in a folder that only its user can enter.

It is started once the service answers, again when it ends by itself, and ends with the service: also when that is
killed, for then the standard input of its guard is closed. The guard is this module run as a program.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

log = logging.getLogger(__name__)

STOP_SECONDS = 2.0  # after which what has not ended is killed
PAUSES_SECONDS = (1.0, 5.0, 30.0, 120.0)  # before it is started again; the last one from then on
LASTING_SECONDS = 300.0  # after which an end counts as the first again
BACKEND_VARIABLE = "MLFLOW_BACKEND_STORE_URI"  # MLflow's own; an argument could be seen by all, with its password


class MlflowServer:
    """MLflow's server on a store that this machine reaches. prefix: the path under which it is shown."""

    def __init__(self, uri: str, *, prefix: str) -> None:
        self._uri, self._prefix = uri, prefix
        self._folder = Path(tempfile.gettempdir(), f"hindsight-mlflow-{secrets.token_hex(8)}")
        self._log = self._folder / "log"
        self._is_over = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._keeper = threading.Thread(target=self._keep_running, name="mlflow", daemon=True)

    @property
    def socket(self) -> str:
        """Where it listens."""
        return str(self._folder / "socket")

    def start(self) -> None:
        """Start it, and again whenever it ends."""
        self._folder.mkdir(mode=0o700)
        self._keeper.start()

    def why_not_well(self) -> str | None:
        """Why it does not answer; None: it does, or is starting."""
        process = self._process
        if process is None or process.poll() is None:
            return None
        return f"it ended with exit code {process.returncode}: {self._last_words()}"

    def stop(self) -> None:
        """End it with all that it started."""
        self._is_over.set()
        if self._keeper.is_alive():
            self._keeper.join()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _keep_running(self) -> None:
        failures = 0
        while not self._is_over.is_set():
            started = time.monotonic()
            self._run_once()
            if self._is_over.is_set():
                return
            failures = 1 if time.monotonic() - started > LASTING_SECONDS else failures + 1
            pause = PAUSES_SECONDS[min(failures, len(PAUSES_SECONDS)) - 1]
            log.warning("MLflow's server ended and is started again in %.0f s: %s", pause, self._last_words())
            self._is_over.wait(pause)

    def _run_once(self) -> None:
        """Until it ends, or is to end."""
        with self._log.open("wb") as output:
            self._process = process = subprocess.Popen(
                [sys.executable, "-P", "-m", "hpo.service.mlflow_child", self.socket, self._prefix],
                env={**os.environ, BACKEND_VARIABLE: self._uri},
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        while process.poll() is None and not self._is_over.wait(0.2):
            pass
        assert process.stdin is not None
        process.stdin.close()  # the guard's sign to end
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS + 2.0)
        _kill_group(process.pid)
        process.wait()

    def _last_words(self) -> str:
        with suppress(OSError):
            lines = self._log.read_text(errors="replace").split("\n")
            return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
        return "it said nothing"


def guard(socket: str, prefix: str) -> int:
    """Run MLflow's server until it ends or our standard input is closed; returns its exit code."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # we end last
    Path(socket).unlink(missing_ok=True)
    options = [
        "--host",
        "127.0.0.1",
        "--port",
        "1",
        "--workers",
        "1",
        "--static-prefix",
        prefix,
    ]  # the socket comes first
    server = subprocess.Popen(
        [sys.executable, "-P", "-m", "mlflow", "server", *options, "--uvicorn-opts", f"--uds {socket} --no-access-log"],
        env={"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", **os.environ},
        stdin=subprocess.DEVNULL,
    )
    is_over = threading.Event()
    threading.Thread(target=_end_with_parent, args=(is_over,), daemon=True).start()
    code = server.wait()
    if is_over.is_set():
        shutil.rmtree(Path(socket).parent, ignore_errors=True)
        _kill_group(os.getpid())  # with whatever is left of it
    return code


def _end_with_parent(is_over: threading.Event) -> None:
    sys.stdin.buffer.read()
    is_over.set()
    os.killpg(0, signal.SIGTERM)
    time.sleep(STOP_SECONDS)
    shutil.rmtree(Path(sys.argv[1]).parent, ignore_errors=True)
    _kill_group(os.getpid())


def _kill_group(leader: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(guard(*sys.argv[1:]))
