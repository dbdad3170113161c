"""Sending results to MLflow beside a study, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Self

from storage import outbox
from storage.schema import open_store

DRAIN_SECONDS = 120.0  # how long the end of a study waits for MLflow to take the rest


class Delivery:
    """Keeps the outbox empty while a study runs; waits at its end until all is delivered, or says what is not."""

    def __init__(self, storage_url: str, mlflow_uri: str | None, *, notice: Callable[[str], None]) -> None:
        self._storage_url, self._mlflow_uri, self._notice = storage_url, mlflow_uri, notice
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        if self._mlflow_uri is not None:
            self._process = start_sender(self._storage_url)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._process is None:
            return
        assert self._process.stdin is not None
        self._process.stdin.close()  # the sender's sign to finish
        store = open_store(self._storage_url)
        if outbox.pending(store):
            self._notice(f"sending the results to MLflow at {self._mlflow_uri}")
        try:
            self._process.wait(timeout=DRAIN_SECONDS + 30)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            self._process.kill()
            self._process.wait()
        waiting = outbox.pending(store)
        if waiting:
            self._notice(
                f"MLflow at {self._mlflow_uri} does not take the results: {waiting} messages are kept; "
                "`hpo sync` sends them when it is back"
            )


def start_sender(storage_url: str) -> subprocess.Popen[bytes]:
    """The background sender; it finishes what is there and ends once its standard input is closed."""
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "storage.outbox", "--follow", "--drain-seconds", str(DRAIN_SECONDS)],
        env={**os.environ, "HPO_STORAGE": storage_url},  # not an argument: the URL may hold a password
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for the study; the sender still delivers what it left
    )
