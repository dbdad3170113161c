"""How are slow questions about the past answered without holding up other requests?

In a process of their own, few at a time, so that the server's threads are free; and an answer is kept for as long as
what it was given for is the same. Whoever asks what is being worked out already waits for that, and holds no thread
meanwhile where it asks `patiently`.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import signal
import threading
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import CancelledError, Future, ProcessPoolExecutor
from concurrent.futures import TimeoutError as TooSlowError
from concurrent.futures.process import BrokenProcessPool
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from hpo.answers.plain import jsonable
from hpo.errors import BusyError

KEPT_BYTES = 64_000_000  # of answers
WAITING = 16  # questions that wait for their turn, or for their answer; more are sent away
MOST_WAITERS = 500  # requests that wait for these; heuristic: each holds a connection and little memory
LONGEST_SECONDS = 300.0
ABOUT_THE_PAST = "the past"  # the line that most questions wait in

Question: TypeAlias = Callable[..., Any]
"""A function of a module, which a process of its own can import; its first argument is the URL of the history."""

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """A question that is being worked out."""

    future: Future[bytes]
    pool: ProcessPoolExecutor


class NotYetError(Exception):
    """The answer is being worked out. Only `patiently` sees this: it waits, and asks again."""

    def __init__(self, calculations: Calculations, future: Future[bytes]) -> None:
        super().__init__("the answer is being worked out")
        self.calculations, self.future = calculations, future


_waited_for: ContextVar[dict[str, _Asked] | None] = ContextVar("_waited_for", default=None)
"""The questions that one request has waited for, by name; None: who asks waits in its thread."""


async def patiently(request: Callable[[], Awaitable[T]]) -> T:
    """What a request comes to that asks slow questions: it is begun again once the answer that it lacked is there.

    So it must change nothing before its last question. It holds no thread while it waits. What it has waited for it
    gets, though what that was asked as of has changed meanwhile. Raises BusyError where it takes too long.
    """
    token = _waited_for.set({})
    until = time.monotonic() + LONGEST_SECONDS
    try:
        while True:
            try:
                return await request()
            except NotYetError as missing:
                await missing.calculations.wait(missing.future, seconds=until - time.monotonic())
    finally:
        _waited_for.reset(token)


class Calculations:
    """Answers to slow questions, as JSON."""

    def __init__(self, *, processes: int = 1) -> None:
        self._processes = processes
        self._pools: dict[str, ProcessPoolExecutor] = {}  # by line
        self._asked: dict[str, _Asked] = {}
        self._waiters = 0
        self._kept: OrderedDict[str, tuple[Any, bytes]] = OrderedDict()  # by question: as of when, and the answer
        self._bytes = 0
        self._lock = threading.RLock()  # what is answered at once calls `_done` while it is held

    def answer(
        self, question: Question, *, store_url: str, as_of: Any, line: str = ABOUT_THE_PAST, **options: Any
    ) -> bytes:
        """The answer in JSON. as_of: what it depends on, the same for as long as it holds.

        line: questions of one line wait for each other; each line has a process of its own.
        Raises what the question raises; BusyError where too many wait already, or where it takes too long.
        """
        name = f"{question.__module__}.{question.__qualname__} {store_url} {options!r}"
        waited_for = _waited_for.get()
        if waited_for is not None and name in waited_for:
            return self._result(waited_for[name], seconds=0.0)
        with self._lock:
            kept = self._kept.get(name)
            if kept is not None and kept[0] == as_of:
                self._kept.move_to_end(name)
                return kept[1]
            if self._waiters >= MOST_WAITERS:
                raise BusyError(f"{MOST_WAITERS} requests wait for answers about the past; ask again in a moment")
            key = f"{name} {as_of!r}"
            asked = self._asked.get(key)
            if asked is None:
                if len(self._asked) >= WAITING:
                    raise BusyError(f"{WAITING} questions about the past are being worked on; ask again in a moment")
                asked = self._asked[key] = self._submit(question, store_url, options, line)
                asked.future.add_done_callback(lambda future: self._done(key, name, as_of, future))
        if waited_for is None:
            return self._result(asked, seconds=LONGEST_SECONDS)
        waited_for[name] = asked
        raise NotYetError(self, asked.future)

    def say(self, question: Question, *, store_url: str, as_of: Any, line: str = ABOUT_THE_PAST, **options: Any) -> Any:
        """As `answer`, as plain data."""
        return json.loads(self.answer(question, store_url=store_url, as_of=as_of, line=line, **options))

    async def wait(self, future: Future[bytes], *, seconds: float) -> None:
        """Until it is done, whatever comes of it; at most so long."""
        self._waiters += 1  # by the event loop alone
        try:
            waiting = asyncio.wrap_future(future)
            await asyncio.wait({waiting}, timeout=max(0.0, seconds))  # which cancels nothing: others may wait, too
            if waiting.done() and not waiting.cancelled():
                waiting.exception()  # who asks again gets it
        finally:
            self._waiters -= 1

    def close(self) -> None:
        """End the processes, and whatever they are at."""
        with self._lock:
            pools, self._pools = list(self._pools.values()), {}
        for pool in pools:
            processes = list((pool._processes or {}).values())
            pool.shutdown(wait=False, cancel_futures=True)
            for process in processes:
                process.terminate()

    def _result(self, asked: _Asked, *, seconds: float) -> bytes:
        try:
            return asked.future.result(timeout=seconds)
        except BrokenProcessPool:
            self._forget(asked.pool)
            raise BusyError("the process that works out answers has died (out of memory?); ask again") from None
        except CancelledError:
            raise BusyError("the service ends; ask again when it is back") from None
        except TooSlowError:
            raise BusyError(f"the answer takes longer than {LONGEST_SECONDS:.0f} s; ask again for it later") from None

    def _submit(self, question: Question, store_url: str, options: Mapping[str, Any], line: str) -> _Asked:
        pool = self._open_pool(line)
        try:
            return _Asked(future=pool.submit(_worked_out, question, store_url, dict(options)), pool=pool)
        except BrokenProcessPool:  # it died while it had nothing to do
            self._forget(pool)
            pool = self._open_pool(line)
            return _Asked(future=pool.submit(_worked_out, question, store_url, dict(options)), pool=pool)

    def _open_pool(self, line: str) -> ProcessPoolExecutor:
        if line not in self._pools:
            context = multiprocessing.get_context("spawn")  # the server has threads: its like must not be forked
            self._pools[line] = ProcessPoolExecutor(self._processes, mp_context=context, initializer=_begin)
        return self._pools[line]

    def _forget(self, broken: ProcessPoolExecutor) -> None:
        """Another may have been opened in its place already: that one stays."""
        with self._lock:
            self._pools = {line: pool for line, pool in self._pools.items() if pool is not broken}

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
    signal.signal(signal.SIGALRM, _give_up)
    threading.Thread(target=_end_with_server, daemon=True).start()


def _give_up(*_: object) -> None:
    """Nobody waits for the answer any more, and others wait for the process."""
    raise BusyError(f"the answer takes longer than {LONGEST_SECONDS:.0f} s")


def _end_with_server() -> None:
    """A server that is killed says nothing: without this, its process would wait for questions for ever."""
    server = multiprocessing.parent_process()
    assert server is not None
    server.join()
    os._exit(1)


def _worked_out(question: Question, store_url: str, options: Mapping[str, Any]) -> bytes:
    signal.setitimer(signal.ITIMER_REAL, LONGEST_SECONDS)
    try:
        found = question(store_url, **options)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
    return json.dumps(jsonable(found), ensure_ascii=False, separators=(",", ":")).encode()
