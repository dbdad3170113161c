"""A trial that was asked for from afar: it is reported on, told, or given back by whoever trains it."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from hpo.client.sendable import sendable, text
from hpo.client.transport import Transport
from hpo.errors import ServiceError, ServiceUnavailableError
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
        body = {
            "attempt": self.attempt,
            "step": step,
            "value": None if value is None else float(value),
            "metrics": {name: float(each) for name, each in metrics.items()},
        }
        return bool(self._transport.post_again(self._path("report"), sendable(body))["prune"])

    def should_prune(self) -> bool:
        """Whether the trial is to be pruned, by what has been reported."""
        self._check()
        return bool(self._transport.post_again(self._path("should-prune"), {"attempt": self.attempt})["prune"])

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

        A value that is no finite number, such as NaN, is told as what it is, and the trial fails for it.
        known: epochs, peak_memory_bytes, checkpoint, notes. Raises StaleAttemptError; the value is kept even so.
        """
        values = value if isinstance(value, Sequence) else None
        body = {
            "attempt": self.attempt,
            "state": state,
            "value": None if value is None or values is not None else float(value),  # type: ignore[arg-type]
            "values": None if values is None else [float(each) for each in values],
            "error": None if error is None else text(error),
            "cost_seconds": time.monotonic() - self._began if cost_seconds is None else cost_seconds,
            **known,
        }
        self._end("tell", {name: each for name, each in body.items() if each is not None})

    def release(self, reason: str = "given back") -> None:
        """Give the trial back: it waits for whoever asks next."""
        self._end("release", {"attempt": self.attempt, "reason": text(reason)})

    def extend(self) -> bool:
        """Extend the lease; returns whether the trial is still ours."""
        claim = {"study": self.study_id, "trial": self.number, "attempt": self.attempt}
        body = {"worker": self.worker, "claims": [claim], "lease_seconds": self.lease_seconds}
        held = self._transport.post_again("/leases", body)["held"]
        return any(each["trial"] == self.number and each["study"] == self.study_id for each in held)

    def __enter__(self) -> Self:
        threading.Thread(target=self._keep, name=f"lease of trial {self.number}", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if self.is_told or isinstance(error, StaleAttemptError):
                return
            if isinstance(error, ServiceUnavailableError):
                return  # it may have heard of the end, and only its answer was lost; else somebody trains it again
            if error is None:
                self.release("nothing was told of it")
            elif isinstance(error, Exception):
                self.tell(state="fail", error=f"{type(error).__name__}: {error}")
            else:
                self.release(type(error).__name__)
        finally:
            self._done.set()

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

    def _end(self, verb: str, body: Mapping[str, Any]) -> None:
        """What is refused, such as two values of one objective, may be told anew: the trial is ours until then."""
        try:
            self._transport.post(self._path(verb), sendable(body))
        except StaleAttemptError:
            self._settle()
            raise
        self._settle()

    def _settle(self) -> None:
        self.is_told = True
        self._done.set()

    def _path(self, verb: str) -> str:
        return f"/studies/{self.study_id}/trials/{self.number}/{verb}"
