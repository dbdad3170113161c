"""Proposals before they are asked for: a few are ready for each study that is asked, made in a process of their own.

A proposal costs .02 to .2 s of processor; who asks shall not wait so long where others were trained meanwhile. Those
that are ready were made with what was known then. The fewer trials run, the more the last result matters: where less
than ten run none is handed out that lacks a result which was there when it was asked for, else one that lacks a tenth
as many as trials run at most (measured: see DECISIONS.md). Where several are wanted they are made one after the other
from one look at the results: most of the work of a proposal is to learn from these.

A process takes seconds and 100 MB to be there: the first one is started as soon as somebody may ask (`warm`), and each
of the others where all that are there have something to do.

Nothing here needs to outlive the server. A proposal that is handed out is in the history as the trial's parameters
before anybody hears of it; those that are ready are forgotten with the server, and others are made.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from hpo.errors import ServiceUnavailableError
from hpo.running.ahead import Proposed
from storage.database import Store

READY = 4  # proposals for each study, at most
TRIALS_PER_RESULT = 10  # that run, for each result that a proposal may lack
ACTIVE_SECONDS = 60.0  # since somebody asked; then no more are made ahead
PAUSE_SECONDS = 1.0  # after an error
GONE_SECONDS = 5.0
COMMAND = [sys.executable, "-P", "-m", "hpo.service.proposal_process"]

logger = logging.getLogger(__name__)


@dataclass(kw_only=True, eq=False)
class _Ready:
    proposed: Proposed
    results: int  # that were known when it was made


@dataclass(frozen=True, kw_only=True, eq=False)
class _Asker:
    future: Future[Proposed]
    results: int  # that had been heard of when he asked


@dataclass(kw_only=True, eq=False)
class _Study:
    study_id: int
    spec: Mapping[str, Any]
    results: int = 0  # heard of so far
    running: int = 0  # trials, when it was last asked
    asked_at: float = 0.0
    ready: deque[_Ready] = field(default_factory=deque)
    placing: list[Proposed] = field(default_factory=list)  # handed out, and not in the history yet
    waiting: deque[_Asker] = field(default_factory=deque)
    is_served: bool = False  # a proposal is being made just now
    served_at: float = 0.0

    @property
    def may_lack(self) -> int:
        """How many results a proposal may lack."""
        return self.running // TRIALS_PER_RESULT

    @property
    def wanted(self) -> int:
        """How many shall be ready: none where each would have to be made again after the next result."""
        is_active = time.monotonic() - self.asked_at < ACTIVE_SECONDS
        return min(READY, self.may_lack) if is_active else 0

    @property
    def lacks(self) -> int:
        """How many are to be made now, from one look at the results; none while half of those wanted are left."""
        if not self.waiting and (not self.wanted or len(self.ready) > self.wanted // 2):
            return 0
        return min(len(self.waiting) + max(self.wanted - len(self.ready), 0), READY)

    def take_waiting(self) -> list[Future[Proposed]]:
        """Who waits; nobody does afterwards."""
        waiting = [asker.future for asker in self.waiting]
        self.waiting.clear()
        return waiting

    def drop_stale(self) -> None:
        self.ready = deque(each for each in self.ready if self.results - each.results <= self.may_lack)


class Proposer:
    """Hands out proposals; safe for any number of threads. One study's are made one after the other, each once."""

    def __init__(self, store: Store, *, processes: int | None = None) -> None:
        count = processes or max(1, (os.cpu_count() or 1) // 2)
        self._processes = [_Process(store.url) for _ in range(count)]
        self._idle = list(self._processes)  # the last one is used next: it is the warmest
        self._changed = threading.Condition()
        self._studies: dict[int, _Study] = {}
        self._threads: list[threading.Thread] = []
        self._is_closed = False

    def warm(self) -> None:
        """Start the process that makes the first proposals, if there is none yet; returns at once."""
        with self._changed:
            if self._is_closed or self._threads or not self._idle:
                return
            try:
                self._idle[-1].start()
            except OSError as error:
                logger.warning("the process that makes proposals could not be started; it is tried again: %s", error)

    def take(self, study_id: int, spec: Mapping[str, Any], *, running: int) -> Future[Proposed]:
        """A proposal, at once or as soon as it is made; `placed` must follow. running: trials of the study.

        The future raises ServiceUnavailableError where none can be made just now.
        """
        future: Future[Proposed] = Future()
        with self._changed:
            self._start()
            study = self._studies.setdefault(study_id, _Study(study_id=study_id, spec=spec))
            if study.spec != spec:
                study.spec = spec
                study.ready.clear()
            study.running, study.asked_at = running, time.monotonic()
            study.drop_stale()
            if study.ready:
                self._hand_out(study, study.ready.popleft().proposed, future)
            else:
                study.waiting.append(_Asker(future=future, results=study.results))
            self._changed.notify_all()
        return future

    def placed(self, study_id: int, proposed: Proposed) -> None:
        """It is in the history now, or will not be used."""
        with self._changed:
            study = self._studies.get(study_id)
            if study is not None:
                study.placing = [each for each in study.placing if each is not proposed]

    def hear(self, study_id: int) -> None:
        """A result of the study is in the history."""
        with self._changed:
            study = self._studies.get(study_id)
            if study is not None:
                study.results += 1
                study.drop_stale()
                self._changed.notify_all()

    def rest(self, study_id: int) -> None:
        """The study hands out no more trials for now."""
        with self._changed:
            study = self._studies.get(study_id)
            if study is not None and not study.waiting and not study.placing and not study.is_served:
                del self._studies[study_id]

    def close(self) -> None:
        """End the processes, whatever they are at; whoever waits is told that nothing comes."""
        with self._changed:
            self._is_closed = True
            waiting = [future for study in self._studies.values() for future in study.take_waiting()]
            self._studies.clear()
            self._changed.notify_all()
        _refuse(waiting, ServiceUnavailableError("the server is ending"))
        for process in self._processes:
            process.end_for_good()
        for thread in self._threads:
            thread.join()
        for process in self._processes:
            process.end()

    # How it is done

    def _start(self) -> None:
        if self._is_closed:
            raise ServiceUnavailableError("the server is ending")
        if not self._threads:
            self._threads = [
                threading.Thread(target=self._work, name=f"proposals {number}", daemon=True)
                for number in range(len(self._processes))
            ]
            for thread in self._threads:
                thread.start()

    def _work(self) -> None:
        """Have proposals made in a process of its own, the most urgent first."""
        while (study := self._next()) is not None:
            with self._changed:
                process = self._idle.pop()  # there are as many as threads
                begun = [*study.placing, *(each.proposed for each in study.ready)]
                request = {
                    "study_id": study.study_id,
                    "spec": study.spec,
                    "begun": [each.params for each in begun],
                    "count": max(study.lacks, 1),
                }
                results = study.results
            try:
                for proposed in process.ask(request):
                    self._deliver(study, _Ready(proposed=proposed, results=results))
            except ServiceUnavailableError as error:
                self._give_back(process)
                self._fail(study, error)
            else:
                self._give_back(process)
                self._end_turn(study)

    def _give_back(self, process: _Process) -> None:
        with self._changed:
            self._idle.append(process)

    def _end_turn(self, study: _Study) -> None:
        with self._changed:
            study.is_served = False
            self._changed.notify_all()

    def _next(self) -> _Study | None:
        """The study that is served next, once there is one; None when all is over."""
        with self._changed:
            while not self._is_closed:
                idle = [study for study in self._studies.values() if not study.is_served]
                urgent = [study for study in idle if study.waiting]
                lacking = [study for study in idle if study.lacks]
                if urgent or lacking:
                    found = min(urgent or lacking, key=lambda study: study.served_at)  # each in its turn
                    found.is_served, found.served_at = True, time.monotonic()
                    return found
                self._changed.wait()
        return None

    def _deliver(self, study: _Study, ready: _Ready) -> None:
        """To the first who still waits for it; it stays ready where nobody does, while it knows enough.

        It need not know what was heard only after it was asked for: whoever waits would wait for ever.
        """
        with self._changed:
            while study.waiting and study.waiting[0].results - ready.results <= study.may_lack:
                if self._hand_out(study, ready.proposed, study.waiting.popleft().future):
                    break
            else:
                study.ready.append(ready)
                study.drop_stale()

    def _hand_out(self, study: _Study, proposed: Proposed, future: Future[Proposed]) -> bool:
        """Whether somebody still waits for it."""
        if not future.set_running_or_notify_cancel():
            return False
        study.placing.append(proposed)
        future.set_result(proposed)
        return True

    def _fail(self, study: _Study, error: ServiceUnavailableError) -> None:
        with self._changed:
            study.is_served = False
            study.asked_at = 0.0  # nothing ahead of time until somebody asks again
            waiting, is_closed = study.take_waiting(), self._is_closed
        _refuse(waiting, error)
        if not is_closed:
            time.sleep(PAUSE_SECONDS)


def _refuse(waiting: Iterable[Future[Proposed]], error: ServiceUnavailableError) -> None:
    for future in waiting:
        if future.set_running_or_notify_cancel():
            future.set_exception(error)


class _Process:
    """A process that makes proposals, for one thread at a time; it is started again where it was lost."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._process: subprocess.Popen[str] | None = None
        self._over = threading.Event()

    def start(self) -> None:
        """Start it, if it is not there; it is ready seconds later. Raises OSError."""
        if self._over.is_set():
            raise OSError("the server is ending")
        if self._process is not None:
            return
        self._process = subprocess.Popen(
            COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            start_new_session=True,  # Ctrl-C is for the server, which decides
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        self._write({"storage": self._url})
        if self._over.is_set():
            self._process.kill()  # it was about to be

    def ask(self, request: Mapping[str, Any]) -> Iterator[Proposed]:
        """What the process proposes, as many as are asked for, each as soon as it is made.

        Raises ServiceUnavailableError; nothing comes after it.
        """
        for place in range(request["count"]):
            try:
                answer = self._read() if place else self._exchange_again(request)
            except (OSError, ValueError) as error:
                self.end()
                raise ServiceUnavailableError(f"the process that makes proposals was lost: {error}") from error
            problem = answer.get("unavailable") or answer.get("error")
            if problem is not None:
                raise ServiceUnavailableError(f"no proposal could be made: {problem}")
            yield Proposed(params=answer["params"], receipt=answer["receipt"])

    def end_for_good(self) -> None:
        """End it at once, even while a thread waits for its answer, who is told that it was lost."""
        self._over.set()
        process = self._process
        if process is not None:
            process.kill()  # what it is at is in nobody's hands yet

    def end(self) -> None:
        """End the process, if there is one."""
        process, self._process = self._process, None
        if process is None:
            return
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(OSError):  # what it was not told before it died
                    pipe.close()
        try:
            process.wait(GONE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _exchange_again(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """With another process where the first is lost: it may have been for long."""
        try:
            return self._exchange(request)
        except (OSError, ValueError):  # an answer that is cut short is no JSON
            self.end()
            return self._exchange(request)

    def _exchange(self, request: Mapping[str, Any]) -> dict[str, Any]:
        self.start()
        self._write(request)
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdout is not None
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def _write(self, content: Mapping[str, Any]) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(content) + "\n")
        self._process.stdin.flush()
