"""What happens in a study, told as it happens: by server-sent events, over as many connections as it takes."""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

import httpx2

from hpo.client.records import study_of, trial_of
from hpo.client.transport import Transport
from hpo.errors import ServiceUnavailableError
from storage.history import StudySummary, TrialRecord

PAUSE_SECONDS = 0.5  # before a connection is taken up again


@dataclass(frozen=True, kw_only=True)
class Event:
    """A trial that changed, a study that did, or the end: nothing more will happen."""

    trial: TrialRecord | None = None
    study: StudySummary | None = None
    state: str | None = None  # in which the service has the study, where it runs it
    message: str | None = None  # what it said last of it; of the end, why it is one
    is_end: bool = False


@contextmanager
def watching(transport: Transport, study_id: int, *, patience_seconds: float) -> Iterator[Iterator[Event]]:
    """The events of a study until its end.

    Raises ServiceUnavailableError once the service has been away for so long.
    """
    with closing(_events(transport, f"/studies/{study_id}/events", patience_seconds)) as events:
        yield events


def _events(transport: Transport, path: str, patience_seconds: float) -> Generator[Event, None, None]:
    last, heard = "", time.monotonic()
    while True:
        try:
            with transport.stream(path, headers={"Last-Event-ID": last} if last else None) as answer:
                for sent in httpx2.EventSource(answer):
                    last, heard = sent.id or last, time.monotonic()
                    event = _event(sent)
                    if event is not None:
                        yield event
                    if event is not None and event.is_end:
                        return
        except ServiceUnavailableError:
            if time.monotonic() - heard > patience_seconds:
                raise
        time.sleep(PAUSE_SECONDS)


def _event(sent: httpx2.ServerSentEvent) -> Event | None:
    """What was sent; None for a sign of life, and for what a newer service tells."""
    if sent.event == "end":
        return Event(is_end=True, message=json.loads(sent.data or "{}").get("reason"))
    if sent.event == "trial":
        return Event(trial=trial_of(json.loads(sent.data)))
    if sent.event == "study":
        told = json.loads(sent.data)
        launch = told.get("launch") or {}
        return Event(study=study_of(told), state=launch.get("state"), message=launch.get("message"))
    return None
