"""When a database that is away, or busy, is asked again, and for how long.

A server restarts, a file is locked, two transactions are in each other's way: that passes. What must not go wrong is a
call whose commit went through although the reply did not arrive: every call that is repeated here changes nothing the
second time, or recognises by its `Call` what it has done already.
"""

import random
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from storage.errors import StoreUnavailableError

PATIENCE_SECONDS = 30.0  # less than a trial's lease: who comes back after it finds the trial his own
FIRST_PAUSE_SECONDS = 0.05
LONGEST_PAUSE_SECONDS = 2.0

SQLITE_BUSY = 5
_SQLITE = {SQLITE_BUSY, 6, 15}  # 6: locked; 15: two opened the log at the same moment
_POSTGRESQL = {
    "40001",  # serialization_failure
    "40003",  # statement_completion_unknown
    "40P01",  # deadlock_detected
    "53300",  # too_many_connections
    "55P03",  # lock_not_available: somebody else has it at this moment
    "57P01",  # admin_shutdown
    "57P02",  # crash_shutdown
    "57P03",  # cannot_connect_now: it starts, stops or recovers
    "57P05",  # idle_session_timeout
}
_CONNECTION_EXCEPTIONS = "08"  # what their codes begin with
_LASTING = ("authentication", "does not exist", "pg_hba.conf", "could not translate host name", "not permitted")
# A connection that is not made has no code, only words; those that nobody knows are taken for passing.


class HasPatience(Protocol):
    """What has a database behind it."""

    @property
    def patience_seconds(self) -> float:
        """How long it waits for a database that is away."""


P = ParamSpec("P")
T = TypeVar("T")
Patient = TypeVar("Patient", bound=HasPatience)


@dataclass
class Call:
    """One call of a function, however often it is repeated."""

    id: str = field(default_factory=lambda: secrets.token_urlsafe(12))  # no other call has it
    at: float = field(default_factory=time.time)  # when it was made, in seconds since the epoch
    is_repeated: bool = False  # then it may have succeeded already


def retried(function: Callable[Concatenate[Patient, P], T]) -> Callable[Concatenate[Patient, P], T]:
    """Repeat a function while its database is away. Raises StoreUnavailableError when the patience is at its end."""

    @wraps(function)
    def patient(owner: Patient, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return patiently(lambda: function(owner, *args, **kwargs), owner.patience_seconds)

    return patient


def retried_call(function: Callable[Concatenate[Patient, Call, P], T]) -> Callable[Concatenate[Patient, P], T]:
    """As `retried`, for a function that must recognise what it has done already: it is given its `Call`."""

    @wraps(function)
    def patient(owner: Patient, /, *args: P.args, **kwargs: P.kwargs) -> T:
        call = Call()

        def attempt() -> T:
            try:
                return function(owner, call, *args, **kwargs)
            finally:
                call.is_repeated = True

        return patiently(attempt, owner.patience_seconds)

    return patient


def patiently(attempt: Callable[[], T], seconds: float) -> T:
    """What `attempt` returns, once it raises no StoreUnavailableError that passes.

    Where somebody in this thread is patient already, the time that is left to him is all there is.
    """
    outer = _time.until
    _time.until = until = time.monotonic() + seconds if outer is None else outer
    try:
        pause = 0.0  # the first time at once: perhaps only this connection was old
        while True:
            try:
                return attempt()
            except StoreUnavailableError as error:
                if not error.is_passing or time.monotonic() + pause >= until:
                    raise
            time.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(max(2 * pause, FIRST_PAUSE_SECONDS), LONGEST_PAUSE_SECONDS)
    finally:
        _time.until = outer


def patient_until(seconds: float) -> float:
    """Until when, by the monotonic clock, whoever is patient in this thread will wait; `seconds` if nobody is."""
    return time.monotonic() + seconds if _time.until is None else _time.until


def is_passing(error: Any) -> bool:
    """Whether what a driver's error says may no longer be so in a moment."""
    code = getattr(error, "sqlite_errorcode", None)
    if code is not None:
        return code & 0xFF in _SQLITE
    if not hasattr(error, "sqlstate"):
        return False
    if error.sqlstate is None:  # the connection is gone, or was not made
        return not any(words in str(error) for words in _LASTING)
    return error.sqlstate in _POSTGRESQL or error.sqlstate.startswith(_CONNECTION_EXCEPTIONS)


def is_without_answer(error: Any) -> bool:
    """Whether no server answered at that address."""
    return getattr(error, "sqlstate", "") is None and "FATAL" not in str(error)


class _Time(threading.local):
    until: float | None = None  # when the patience of this thread is at its end


_time = _Time()
