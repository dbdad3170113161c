"""How do many hear at once what happens in a study? One thread looks at each study that somebody follows.

Whoever comes hears how the study stands and which trials run, then every change. Whoever comes back names the last
event that he heard: its id is the time, so that any server knows which trials have ended since.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Literal

from hpo.service.endings import why_over
from storage import history, launches
from storage.changes import StudyChanges
from storage.database import Store
from storage.errors import StorageError, StudyNotFoundError
from storage.history import StudySummary, TrialRecord
from storage.launches import Launch

LOOK_SECONDS = 0.3  # between two looks
END_SECONDS = 5.0  # between two looks whether a study that the service does not run has come to its end
MOST_WAITING = 2_000  # events that a slow listener may have before him; then he has to come again
LONGEST_SECONDS = 600.0  # after which a listener has to come again, so that who may not listen any more does not
SLACK_SECONDS = 60.0  # by which the clock of who ended a trial may be behind

log = logging.getLogger("hpo.service.events")


@dataclass(frozen=True, kw_only=True, eq=False)
class StudyEvent:
    """Something that has happened. end: nothing more will, for the reason that is told."""

    kind: Literal["study", "trial", "end"]
    event_id: str
    study: StudySummary | None = None
    launch: Launch | None = None
    trial: TrialRecord | None = None
    reason: str | None = None


@dataclass(kw_only=True, eq=False)
class _Listener:
    loop: asyncio.AbstractEventLoop
    waiting: asyncio.Queue[StudyEvent] = field(default_factory=lambda: asyncio.Queue(MOST_WAITING))
    is_lost: bool = False  # he was too slow
    has_left: bool = False  # perhaps before he had come

    def tell(self, event: StudyEvent) -> None:
        """From any thread."""
        try:
            self.loop.call_soon_threadsafe(self._put, event)
        except RuntimeError:  # the loop is closed
            self.is_lost = True

    def _put(self, event: StudyEvent) -> None:
        try:
            self.waiting.put_nowait(event)
        except asyncio.QueueFull:
            self.is_lost = True


@dataclass(kw_only=True)
class _Followed:
    store: Store
    changes: StudyChanges
    listeners: set[_Listener] = field(default_factory=set)
    asked_at: float = field(default_factory=time.monotonic)  # whether it is over
    trouble: str | None = None  # why the last look failed


class StudyEvents:
    """The studies that somebody follows. Safe for any number of threads and event loops."""

    def __init__(self) -> None:
        self._followed: dict[int, _Followed] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    async def follow(
        self, store: Store, study_id: int, *, last: str | None = None, ending: threading.Event | None = None
    ) -> AsyncIterator[StudyEvent]:
        """What happens in a study from now on. last: the id of the last event that was heard. ending: of the server."""
        listener = _Listener(loop=asyncio.get_running_loop())
        until = time.monotonic() + LONGEST_SECONDS
        try:
            for event in await asyncio.to_thread(self._join, store, study_id, listener, last):
                yield event
                if event.kind == "end":
                    return
            while not listener.is_lost and time.monotonic() < until and not (ending and ending.is_set()):
                try:
                    heard = await asyncio.wait_for(listener.waiting.get(), LOOK_SECONDS)
                except TimeoutError:
                    continue
                yield heard
                if heard.kind == "end":
                    return
        finally:
            self._leave(study_id, listener)

    def _join(self, store: Store, study_id: int, listener: _Listener, last: str | None) -> list[StudyEvent]:
        now = _now()
        followed = self._listen(study_id, listener, None)
        while followed is None:  # the first look asks the database, and nobody waits for that but who has come
            followed = self._listen(study_id, listener, _Followed(store=store, changes=StudyChanges(store, study_id)))
        stands = _study_event(store, study_id, now)
        trials = followed.changes.current(since=_time_of(last))
        events = [StudyEvent(kind="trial", event_id=now, trial=trial) for trial in trials]
        return [*events, *([stands] if stands else []), *_end_of(store, stands, now)]

    def _listen(self, study_id: int, listener: _Listener, new: _Followed | None) -> _Followed | None:
        """What is followed of a study from now on; `new` if nobody follows it yet."""
        with self._lock:
            followed = self._followed.get(study_id) or new
            if followed is None or listener.has_left:
                return followed
            self._followed[study_id] = followed
            followed.listeners.add(listener)
            if self._thread is None:
                self._thread = threading.Thread(target=self._look_again_and_again, name="study events", daemon=True)
                self._thread.start()
            return followed

    def _leave(self, study_id: int, listener: _Listener) -> None:
        with self._lock:
            listener.has_left = True
            followed = self._followed.get(study_id)
            if followed is not None:
                followed.listeners.discard(listener)
                if not followed.listeners:
                    del self._followed[study_id]

    def _look_again_and_again(self) -> None:
        while True:
            time.sleep(LOOK_SECONDS)
            with self._lock:
                followed = dict(self._followed)
                if not followed:
                    self._thread = None
                    return
            for study_id, each in followed.items():
                try:
                    events = _events(each, study_id)
                except Exception as error:  # whatever is wrong with one study, the others are followed
                    _tell_of(error, each, study_id)
                    continue
                each.trouble = None
                with self._lock:
                    listeners = list(each.listeners)
                for event in events:
                    for listener in listeners:
                        listener.tell(event)


def _tell_of(error: Exception, followed: _Followed, study_id: int) -> None:
    """In the log, once for as long as it is the same."""
    if followed.trouble != repr(error):
        followed.trouble = repr(error)
        is_foreseen = isinstance(error, StorageError)  # it will be back
        log.warning("study %d cannot be looked at: %s", study_id, error, exc_info=None if is_foreseen else error)


def _events(followed: _Followed, study_id: int) -> list[StudyEvent]:
    now = _now()
    change = followed.changes.look()
    if change.is_gone:
        return [StudyEvent(kind="end", event_id=now, reason="it was deleted")]
    events = [StudyEvent(kind="trial", event_id=now, trial=trial) for trial in change.trials]
    is_due = time.monotonic() - followed.asked_at > END_SECONDS
    if change.is_of_study or is_due:
        followed.asked_at = time.monotonic()
        stands = _study_event(followed.store, study_id, now)
        events += [*([stands] if stands and change.is_of_study else []), *_end_of(followed.store, stands, now)]
    return events


def _study_event(store: Store, study_id: int, now: str) -> StudyEvent | None:
    try:
        summary = history.study_of_id(store, study_id)
    except StudyNotFoundError:
        return None
    return StudyEvent(kind="study", event_id=now, study=summary, launch=launches.find_launch(store, study_id))


def _end_of(store: Store, stands: StudyEvent | None, now: str) -> list[StudyEvent]:
    """The last event, where the study is gone, or nothing more will happen in it."""
    if stands is None or stands.study is None:
        return [StudyEvent(kind="end", event_id=now, reason="it was deleted")]
    reason = why_over(store, stands.study, stands.launch)
    return [] if reason is None else [StudyEvent(kind="end", event_id=now, reason=reason)]


def _now() -> str:
    return f"{time.time():.3f}"


def _time_of(last: str | None) -> float | None:
    """When an event was told, with some slack; None for an id that is not ours."""
    try:
        return None if last is None else float(last) - SLACK_SECONDS
    except ValueError:
        return None
