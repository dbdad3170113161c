"""BLAS on one thread while a proposal is made: small matrices are slower on several, on a busy machine much slower."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]


class _Nested:
    """The limit that several threads share: the first sets it, and the last to leave takes it back."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._limit: Any = None

    def enter(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._limit = _controller().limit(limits=1, user_api="blas")
            self._inside += 1

    def leave(self) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._limit.restore_original_limits()


_nested = _Nested()


@contextmanager
def one_thread() -> Iterator[None]:
    """Whatever else runs in this process keeps its threads afterwards."""
    _nested.enter()
    try:
        yield
    finally:
        _nested.leave()


@cache
def _controller() -> Any:
    """Found once, for that takes long."""
    return ThreadpoolController()


@contextmanager
def one_openmp_thread() -> Iterator[None]:
    """The same for the trees of scikit-learn, whose threads spin while they wait; of this thread alone.

    Enter it after scikit-learn was imported.
    """
    with _openmp().limit(limits=1):
        yield


@cache
def _openmp() -> Any:
    return ThreadpoolController().select(user_api="openmp")
