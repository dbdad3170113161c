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
    """Knows which trials are ours, and which have turned out to be somebody else's. worker: our name."""

    def __init__(self, transport: Transport, *, worker: str, lease_seconds: float) -> None:
        self.worker = worker
        self._transport, self._lease_seconds = transport, lease_seconds
        self._held: dict[Lease, str] = {}  # in whose name
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

    def hold(self, held: Lease, *, worker: str | None = None) -> None:
        """Extend the lease of this one from now on. worker: an earlier one that had it; None: we."""
        with self._lock:
            self._held[held] = worker or self.worker

    def drop(self, held: Lease) -> None:
        """Extend it no more."""
        with self._lock:
            self._held.pop(held, None)
            self._lost.discard(held)

    def lost(self) -> set[Lease]:
        """Those that are not ours any more."""
        with self._lock:
            return set(self._lost)

    def extend(self) -> None:
        """Extend the leases now. Raises what the service refuses with."""
        with self._lock:
            all_held = dict(self._held)
        for worker in sorted({self.worker, *all_held.values()}):
            self._extend(worker, {held for held, of_whom in all_held.items() if of_whom == worker})

    def _extend(self, worker: str, held: set[Lease]) -> None:
        claims = [{"study": study, "trial": trial, "attempt": attempt} for study, trial, attempt in sorted(held)]
        body = {"worker": worker, "claims": claims, "lease_seconds": self._lease_seconds}
        answer = self._transport.post_again("/leases", body)["held"]
        ours = {(each["study"], each["trial"], each["attempt"]) for each in answer}
        with self._lock:
            self._lost |= (held - ours) & self._held.keys()

    def _beat(self) -> None:
        while not self._is_over.wait(BEAT_SECONDS):
            with suppress(HpoError, StorageError):  # while the service is away the trials go on
                self.extend()
