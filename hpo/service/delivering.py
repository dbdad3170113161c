"""How do the results of all studies reach MLflow while a service runs? By one sender, in a process of its own."""

from __future__ import annotations

import logging
import subprocess
import tempfile
import time
from typing import IO

from hpo.running.delivery import start_sender
from storage import outbox
from storage.database import Store

DRAIN_SECONDS = 10.0  # that the end of the service waits for MLflow; what is left is sent when it is back
LOOK_SECONDS = 1.0  # between two looks at whether there is anything to send
RESTART_SECONDS = 10.0  # after a sender has died

log = logging.getLogger("hpo.service.delivering")


class Sender:
    """Keeps a sender running from the first message on. For one thread."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._process: subprocess.Popen[bytes] | None = None
        self._complaints: IO[bytes] | None = None
        self._look_at = 0.0

    def look(self) -> None:
        """Start it where there is something to send, and again where it has died. Raises StoreUnavailableError."""
        if self._process is not None and self._process.poll() is None:
            return
        if self._process is not None:
            log.warning("the process that sends to MLflow has ended: %s", self._last_complaint())
            self._forget()
            self._look_at = time.monotonic() + RESTART_SECONDS
        if time.monotonic() < self._look_at:
            return
        self._look_at = time.monotonic() + LOOK_SECONDS
        if outbox.pending(self._store):
            self._complaints = tempfile.TemporaryFile()  # noqa: SIM115 - closed when the sender has ended
            self._process = start_sender(self._store.url, complaints=self._complaints, drain_seconds=DRAIN_SECONDS)

    def stop(self) -> None:
        """Let it send what is left, for a while, and end it."""
        if self._process is None:
            return
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(DRAIN_SECONDS + 10.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._forget()

    def _last_complaint(self) -> str:
        if self._complaints is None:
            return ""
        self._complaints.seek(0)
        lines = self._complaints.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"

    def _forget(self) -> None:
        if self._complaints is not None:
            self._complaints.close()
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
        self._process = self._complaints = None
