"""How are slow questions about the past answered without holding up other requests?

In a process of their own, few at a time, so that the server's threads are free; and an answer is kept for as long as
what it was given for is the same. Whoever asks what is being worked out already waits for that.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures import TimeoutError as TooSlowError
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeAlias

from hpo.answers.plain import jsonable
from hpo.errors import BusyError

KEPT_BYTES = 64_000_000  # of answers
WAITING = 16  # questions that wait for their turn, or for their answer; more are sent away
LONGEST_SECONDS = 300.0

Question: TypeAlias = Callable[..., Any]
"""A function of a module, which a process of its own can import; its first argument is the URL of the history."""


class Calculations:
    """Answers to slow questions, as JSON."""

    def __init__(self, *, processes: int = 1) -> None:
        self._processes = processes
        self._pool: ProcessPoolExecutor | None = None
        self._asked: dict[str, Future[bytes]] = {}
        self._kept: OrderedDict[str, tuple[Any, bytes]] = OrderedDict()  # by question: as of when, and the answer
        self._bytes = 0
        self._lock = threading.RLock()  # what is answered at once calls `_done` while it is held

    def answer(self, question: Question, *, store_url: str, as_of: Any, **options: Any) -> bytes:
        """The answer in JSON. as_of: what it depends on, the same for as long as it holds.

        Raises what the question raises; BusyError where too many wait already, or where it takes too long.
        """
        name = f"{question.__module__}.{question.__qualname__} {store_url} {options!r}"
        with self._lock:
            kept = self._kept.get(name)
            if kept is not None and kept[0] == as_of:
                self._kept.move_to_end(name)
                return kept[1]
            key = f"{name} {as_of!r}"
            asked = self._asked.get(key)
            if asked is None:
                if len(self._asked) >= WAITING:
                    raise BusyError(f"{WAITING} questions about the past are being worked on; ask again in a moment")
                asked = self._asked[key] = self._submit(question, store_url, options)
                asked.add_done_callback(lambda future: self._done(key, name, as_of, future))
        try:
            return asked.result(timeout=LONGEST_SECONDS)
        except BrokenProcessPool:
            self._forget_pool()
            raise BusyError("the process that works out answers has died (out of memory?); ask again") from None
        except TooSlowError:
            raise BusyError(f"the answer takes longer than {LONGEST_SECONDS:.0f} s; ask again for it later") from None

    def say(self, question: Question, *, store_url: str, as_of: Any, **options: Any) -> Any:
        """As `answer`, as plain data."""
        return json.loads(self.answer(question, store_url=store_url, as_of=as_of, **options))

    def close(self) -> None:
        """End the process, and whatever it is at."""
        pool, self._pool = self._pool, None
        if pool is None:
            return
        processes = list((pool._processes or {}).values())
        pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.terminate()

    def _submit(self, question: Question, store_url: str, options: Mapping[str, Any]) -> Future[bytes]:
        try:
            return self._open_pool().submit(_worked_out, question, store_url, dict(options))
        except BrokenProcessPool:  # it died while it had nothing to do
            self._pool = None
            return self._open_pool().submit(_worked_out, question, store_url, dict(options))

    def _open_pool(self) -> ProcessPoolExecutor:
        if self._pool is None:
            context = multiprocessing.get_context("spawn")  # the server has threads: its like must not be forked
            self._pool = ProcessPoolExecutor(self._processes, mp_context=context, initializer=_begin)
        return self._pool

    def _forget_pool(self) -> None:
        with self._lock:
            self._pool = None

    def _done(self, key: str, name: str, as_of: Any, future: Future[bytes]) -> None:
        with self._lock:
            self._asked.pop(key, None)
            if future.cancelled() or future.exception() is not None:
                return
            before = self._kept.pop(name, None)
            self._kept[name] = as_of, future.result()
            self._bytes += len(future.result()) - (0 if before is None else len(before[1]))
            while self._bytes > KEPT_BYTES:
                _, (_, oldest) = self._kept.popitem(last=False)
                self._bytes -= len(oldest)


def _begin() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server, which ends this process
    threading.Thread(target=_end_with_server, daemon=True).start()


def _end_with_server() -> None:
    """A server that is killed says nothing: without this, its process would wait for questions for ever."""
    server = multiprocessing.parent_process()
    assert server is not None
    server.join()
    os._exit(1)


def _worked_out(question: Question, store_url: str, options: Mapping[str, Any]) -> bytes:
    found = question(store_url, **options)
    return json.dumps(jsonable(found), ensure_ascii=False, separators=(",", ":")).encode()
