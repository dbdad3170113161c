"""Sending results to MLflow beside a study, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from types import TracebackType
from typing import IO, Self

from storage import outbox
from storage.errors import StoreUnavailableError
from storage.schema import open_store

DRAIN_SECONDS = 120.0  # how long the end of a study waits for MLflow to take the rest


class Delivery:
    """Keeps the outbox empty while a study runs; waits at its end until all of it is delivered, or says what is not.

    mlflow_uri: where the study is followed; None: nowhere, and nothing is started.
    """

    def __init__(
        self,
        *,
        storage_url: str,
        study_id: int,
        study_name: str,
        mlflow_uri: str | None,
        notice: Callable[[str], None],
    ) -> None:
        self._storage_url, self._study_id, self._study_name = storage_url, study_id, study_name
        self._mlflow_uri, self._notice = mlflow_uri, notice
        self._process: subprocess.Popen[bytes] | None = None
        self._complaints: IO[bytes] | None = None  # what the sender says

    def __enter__(self) -> Self:
        if self._mlflow_uri is not None:
            self._complaints = tempfile.TemporaryFile()
            self._process = start_sender(self._storage_url, self._study_name, complaints=self._complaints)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._process is None or self._complaints is None:
            return
        with self._complaints:
            self._finish(self._process, self._complaints)

    def _finish(self, sender: subprocess.Popen[bytes], complaints: IO[bytes]) -> None:
        assert sender.stdin is not None
        sender.stdin.close()  # its sign to finish
        if self._waiting():
            self._notice(f"sending the results to MLflow at {self._mlflow_uri}")
        try:
            sender.wait(timeout=DRAIN_SECONDS + 30)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            sender.kill()
            sender.wait()
        waiting = self._waiting()
        if waiting is None:
            self._notice("what MLflow has yet to be told waits in the history; `hpo sync` sends it when that is back")
        elif waiting:
            reason = _last_line(complaints)
            self._notice(
                f"MLflow at {self._mlflow_uri} does not take the results: {waiting} messages are kept; "
                "`hpo sync` sends them when it is back" + (f"\n    {reason}" if reason else "")
            )

    def _waiting(self) -> int | None:
        """How many messages have not arrived; None while the history cannot be reached."""
        try:
            store = open_store(self._storage_url, upgrade=False)
            try:
                return outbox.pending(store, self._study_id)
            finally:
                store.dispose()
        except StoreUnavailableError:
            return None


def start_sender(
    storage_url: str, study_name: str | None = None, *, complaints: IO[bytes], drain_seconds: float = DRAIN_SECONDS
) -> subprocess.Popen[bytes]:
    """The background sender; once its standard input is closed it finishes what is there, and ends.

    With a study, that comes first and is all that it finishes. drain_seconds: that it takes for that at most.
    """
    command = ["--follow", "--drain-seconds", str(drain_seconds)]
    if study_name is not None:
        command.append(f"--study={study_name}")
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "storage.outbox", *command],
        env={**os.environ, "HPO_STORAGE": storage_url},  # not an argument: the URL may hold a password
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=complaints,
        start_new_session=True,  # Ctrl-C is for the study; the sender still delivers what it left
    )


def _last_line(output: IO[bytes]) -> str:
    output.seek(0)
    lines = output.read().decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
