"""The sign of life of a worker: a thread that extends the leases of its trials, whatever else the worker is at."""

from __future__ import annotations

import threading
from contextlib import suppress
from types import TracebackType
from typing import Self, TypeAlias

from hpo.client.transport import Transport
from hpo.errors import HpoError
from storage.errors import StorageError

BEAT_SECONDS = 15.0
Lease: TypeAlias = tuple[int, int, int]  # study, number of the trial, attempt


class Heartbeat:
    """Knows which trials are ours, and which have turned out to be somebody else's."""

    def __init__(self, transport: Transport, *, worker: str, lease_seconds: float) -> None:
        self._transport, self._worker, self._lease_seconds = transport, worker, lease_seconds
        self._held: set[Lease] = set()
        self._lost: set[Lease] = set()
        self._lock, self._is_over = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._is_over.set()
        self._thread.join()

    def hold(self, held: Lease) -> None:
        """Extend the lease of this one from now on."""
        with self._lock:
            self._held.add(held)

    def drop(self, held: Lease) -> None:
        """Extend it no more."""
        with self._lock:
            self._held.discard(held)
            self._lost.discard(held)

    def lost(self) -> set[Lease]:
        """Those that are not ours any more."""
        with self._lock:
            return set(self._lost)

    def extend(self) -> None:
        """Extend the leases now. Raises what the service refuses with."""
        with self._lock:
            held = set(self._held)
        claims = [{"study": study, "trial": trial, "attempt": attempt} for study, trial, attempt in sorted(held)]
        body = {"worker": self._worker, "claims": claims, "lease_seconds": self._lease_seconds}
        answer = self._transport.post_again("/leases", body)["held"]
        ours = {(each["study"], each["trial"], each["attempt"]) for each in answer}
        with self._lock:
            self._lost |= (held - ours) & self._held

    def _beat(self) -> None:
        while not self._is_over.wait(BEAT_SECONDS):
            with suppress(HpoError, StorageError):  # while the service is away the trials go on
                self.extend()
