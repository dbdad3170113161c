"""A trial that was asked for from afar: it is reported on, told, or given back by whoever trains it."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from hpo.client.transport import Transport
from hpo.errors import ServiceError
from storage.errors import StaleAttemptError, StorageError

BEATS = 3  # times within a lease that it is extended


@dataclass(kw_only=True)
class Trial:
    """The right to train one configuration, until its lease ends.

    As a context manager it extends its lease meanwhile, notes the time that it took, and is told as failed where the
    code inside raises an error, as given back at Ctrl-C:

        with client.ask("churn") as trial:
            for epoch in range(10):
                if trial.report(epoch, loss):
                    trial.tell(loss, state="pruned")
                    break
            else:
                trial.tell(loss)
    """

    study_id: int
    number: int
    attempt: int  # 1, 2, ...: valid until somebody else is given the next one
    params: Mapping[str, Any]
    seed: int
    worker: str
    lease_seconds: float
    study: Mapping[str, Any] | None = None  # what is trained, where the trial is of any study
    earlier: tuple[Mapping[str, Any], ...] = ()  # what earlier attempts reported
    is_told: bool = False
    _transport: Transport = field(repr=False)
    _began: float = field(default_factory=time.monotonic, repr=False)
    _done: threading.Event = field(default_factory=threading.Event, repr=False)
    _lost: str | None = field(default=None, repr=False)

    def report(self, step: int, value: float | None = None, **metrics: float) -> bool:
        """Note a value at a step, and what else was measured; returns whether the trial is to be pruned.

        Raises StaleAttemptError where somebody else was given the trial.
        """
        self._check()
        body = {"attempt": self.attempt, "step": step, "value": value, "metrics": metrics}
        return bool(self._post("report", body)["prune"])

    def should_prune(self) -> bool:
        """Whether the trial is to be pruned, by what has been reported."""
        self._check()
        return bool(self._post("should-prune", {"attempt": self.attempt})["prune"])

    def tell(
        self,
        value: float | Sequence[float] | None = None,
        *,
        state: str = "complete",
        error: str | None = None,
        cost_seconds: float | None = None,
        **known: Any,
    ) -> None:
        """End the trial: complete with its value, or one for each objective; pruned; or fail with the error.

        known: epochs, peak_memory_bytes, checkpoint, notes. Raises StaleAttemptError; the value is kept even so.
        """
        values = value if isinstance(value, Sequence) else None
        body = {
            "attempt": self.attempt,
            "state": state,
            "value": None if values is not None else value,
            "values": None if values is None else list(values),
            "error": error,
            "cost_seconds": time.monotonic() - self._began if cost_seconds is None else cost_seconds,
            **known,
        }
        self.is_told = True
        self._done.set()
        self._post("tell", {name: each for name, each in body.items() if each is not None})

    def release(self, reason: str = "given back") -> None:
        """Give the trial back: it waits for whoever asks next."""
        self.is_told = True
        self._done.set()
        self._post("release", {"attempt": self.attempt, "reason": reason})

    def extend(self) -> bool:
        """Extend the lease; returns whether the trial is still ours."""
        claim = {"study": self.study_id, "trial": self.number, "attempt": self.attempt}
        body = {"worker": self.worker, "claims": [claim], "lease_seconds": self.lease_seconds}
        held = self._transport.post("/leases", body)["held"]
        return any(each["trial"] == self.number and each["study"] == self.study_id for each in held)

    def __enter__(self) -> Self:
        threading.Thread(target=self._keep, name=f"lease of trial {self.number}", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._done.set()
        if self.is_told or isinstance(error, StaleAttemptError):
            return
        if error is None:
            self.release("nothing was told of it")
        elif isinstance(error, Exception):
            self.tell(state="fail", error=f"{type(error).__name__}: {error}")
        else:
            self.release(type(error).__name__)

    def _keep(self) -> None:
        """Extend the lease until the trial ends; while the service is away the trial goes on."""
        while not self._done.wait(self.lease_seconds / BEATS):
            try:
                is_ours = self.extend()
            except (ServiceError, StorageError):
                continue
            if not is_ours and not self._done.is_set():
                self._lost = f"Trial {self.number} was given to somebody else: its lease had ended."
                return

    def _check(self) -> None:
        if self._lost is not None:
            raise StaleAttemptError(self._lost)

    def _post(self, verb: str, body: Mapping[str, Any]) -> Any:
        return self._transport.post(f"/studies/{self.study_id}/trials/{self.number}/{verb}", dict(body))
