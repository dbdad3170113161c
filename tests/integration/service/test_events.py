"""What happens in a study is heard by all who follow it, soon, and by who comes back."""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import httpx2
import pytest
import uvicorn
from optuna.trial import TrialState

from hpo.api.app import create_api
from hpo.client.client import Client
from hpo.running.budgets import SECONDS_SPENT
from hpo.service import events
from hpo.service.endings import why_over
from hpo.service.events import LOOK_SECONDS, StudyEvents
from hpo.service.state import Service
from storage import history, launches, studies, tokens
from storage.changes import _NEWER, _UNFINISHED, StudyChanges
from storage.database import Store
from storage.optuna_storage import HistoryStorage
from storage.studies import Claim

LISTENERS = 50
LATEST_SECONDS = 1.0
PATIENCE_SECONDS = 20.0


def claimed(store: Store, study_id: int) -> Claim:
    claim = studies.claim_trial(store, study_id, worker="w", lease_seconds=60, max_trials=None)
    assert claim is not None
    return claim


# Changes --------------------------------------------------------------------------------------------------------------


def test_a_look_tells_what_began_reported_and_ended_and_nothing_twice(store: Store) -> None:
    study_id = studies.create_study(store, name="digits", task="digits", metric="val_loss")
    old = claimed(store, study_id)
    studies.finish_trial(store, old, state=TrialState.COMPLETE, value=1.0)
    changes = StudyChanges(store, study_id)
    assert changes.look().trials == []  # what was finished before is no news
    claim = claimed(store, study_id)
    (began,) = changes.look().trials
    assert (began.number, began.state) == (1, TrialState.RUNNING)
    studies.report(store, claim, step=3, value=0.5)
    reported = changes.look()
    assert [dict(trial.intermediate_values) for trial in reported.trials] == [{3: 0.5}]
    assert not reported.is_of_study
    assert changes.look().trials == []
    studies.release_trial(store, claim, reason="interrupted")
    assert [trial.state for trial in changes.look().trials] == [TrialState.WAITING]
    again = claimed(store, study_id)
    studies.finish_trial(store, again, state=TrialState.PRUNED, value=None)
    assert [trial.state for trial in changes.look().trials] == [TrialState.PRUNED]  # begun and ended between two looks
    launches.request_launch(store, study_id, owner="ann", place="workers")
    assert changes.look().is_of_study
    assert not changes.look().is_of_study
    assert [trial.number for trial in changes.current(since=0.0)] == [0, 1]
    launches.want(store, study_id, "stop")
    launches.remove_study(store, study_id)
    assert changes.look().is_gone


def test_a_look_asks_indexes_only(sqlite_store: Store) -> None:
    """So that it costs the same however many trials are finished."""
    study_id = studies.create_study(sqlite_store, name="digits", task="digits", metric="val_loss")
    StudyChanges(sqlite_store, study_id)
    with sqlite_store.read() as connection:
        driver: Any = connection.connection.driver_connection
        for statement in (_UNFINISHED, _NEWER):
            compiled = statement._compiled["sqlite"]
            values = {"study_id": study_id, "last_number": 0} | compiled.constants
            plan = str(driver.execute(f"EXPLAIN QUERY PLAN {compiled.sql}", values).fetchall())
            assert "SCAN" not in plan
            assert "ix_trials_unfinished" in plan or "(study_id=? AND number>?)" in plan


# Streams --------------------------------------------------------------------------------------------------------------


@dataclass
class Heard:
    kind: str
    event_id: str
    data: Any
    at: float = field(default_factory=time.monotonic)


@pytest.fixture
def service(sqlite_store: Store, tmp_path: Any) -> Service:
    return Service(store=sqlite_store, mlflow_uri=None, runs=tmp_path / "runs", projects=tmp_path)


@contextmanager
def serving(service: Service) -> Iterator[str]:
    config = uvicorn.Config(create_api(service), port=0, log_level="warning", timeout_graceful_shutdown=5)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until = time.monotonic() + PATIENCE_SECONDS
    while not server.started:
        assert time.monotonic() < until
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/api/v1"
    finally:
        service.ending.set()
        server.should_exit = True
        thread.join(PATIENCE_SECONDS)
        assert not thread.is_alive()


async def listen(url: str, secret: str, heard: list[Heard], *, last: str | None = None) -> None:
    """Until the stream ends."""
    headers = {"Authorization": f"Bearer {secret}", **({"Last-Event-ID": last} if last else {})}
    async with (
        httpx2.AsyncClient(timeout=PATIENCE_SECONDS) as client,
        client.stream("GET", url, headers=headers) as answer,
    ):
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        now: dict[str, str] = {}
        async for line in answer.aiter_lines():
            name, _, value = line.partition(": ")
            if line == "" and "event" in now:
                heard.append(Heard(now["event"], now["id"], json.loads(now["data"])))
                now = {}
            elif name:
                now[name] = value


def has_come(everybody: list[list[Heard]], step: int) -> bool:
    return all(str(step) in heard[-1].data.get("intermediate_values", {}) for heard in everybody)


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not is_so():
            await asyncio.sleep(0.01)


def test_fifty_hear_of_a_report_within_a_second_and_who_comes_back_misses_nothing(service: Service) -> None:
    store = service.store
    secret, _ = tokens.create_token(store, owner="ann", role="viewer", created_by="a test")
    study_id = studies.create_study(store, name="live", task="digits", metric="val_loss")
    launches.request_launch(store, study_id, owner="ann", place="workers")
    claim = claimed(store, study_id)

    async def follow(base: str) -> None:
        url = f"{base}/studies/{study_id}/events"
        everybody: list[list[Heard]] = [[] for _ in range(LISTENERS)]
        streams = [asyncio.create_task(listen(url, secret, heard)) for heard in everybody]
        await until(lambda: all(len(heard) >= 2 for heard in everybody))
        for heard in everybody:
            assert [each.kind for each in heard] == ["trial", "study"]  # what runs, and how it stands
            assert heard[0].data["state"] == "running"
            assert heard[1].data["launch"]["state"] == "running"
        for step in range(3):
            reported = time.monotonic()
            await asyncio.to_thread(studies.report, store, claim, step=step, value=1.0 / (step + 1))
            await until(partial(has_come, everybody, step))
            assert max(heard[-1].at for heard in everybody) - reported <= LATEST_SECONDS
        last = everybody[0][-1].event_id
        streams[0].cancel()
        await asyncio.to_thread(studies.finish_trial, store, claim, state=TrialState.COMPLETE, value=0.25)
        back: list[Heard] = []
        again = asyncio.create_task(listen(url, secret, back, last=last))
        await until(lambda: len(back) >= 2)
        assert (back[0].kind, back[0].data["state"], back[0].data["value"]) == ("trial", "complete", 0.25)
        await asyncio.to_thread(launches.want, store, study_id, "stop")
        await asyncio.wait_for(asyncio.gather(again, *streams[1:]), PATIENCE_SECONDS)
        for heard in [back, *everybody[1:]]:
            assert heard[-1].kind == "end"
            assert heard[-2].data["launch"]["state"] == "stopped"

    with serving(service) as base:
        asyncio.run(follow(base))


def test_streams_end_with_the_server_and_an_unknown_study_has_none(service: Service) -> None:
    store = service.store
    secret, _ = tokens.create_token(store, owner="ann", role="viewer", created_by="a test")
    study_id = studies.create_study(store, name="live", task="digits", metric="val_loss")
    heard: list[Heard] = []
    with serving(service) as base:
        headers = {"Authorization": f"Bearer {secret}"}
        missing = httpx2.get(f"{base}/studies/77/events", headers=headers)
        assert (missing.status_code, missing.json()["code"]) == (404, "study-not-found")
        assert httpx2.get(f"{base}/studies/{study_id}/events").status_code == 401
        url = f"{base}/studies/{study_id}/events"
        following = threading.Thread(target=lambda: asyncio.run(listen(url, secret, heard)), daemon=True)
        following.start()
        until_heard = time.monotonic() + PATIENCE_SECONDS
        while not heard and time.monotonic() < until_heard:
            time.sleep(0.01)
        ending = time.monotonic()
    following.join(PATIENCE_SECONDS)
    assert not following.is_alive()
    assert time.monotonic() - ending < 4.0
    assert [each.kind for each in heard] == ["study"]  # no end: browsers come again


def test_who_leaves_or_never_arrives_waits_for_nobodys_first_look(
    sqlite_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (studies.create_study(sqlite_store, name=name, metric="loss") for name in ("first", "second"))
    looking, may_look = threading.Event(), threading.Event()

    class LateChanges(StudyChanges):  # as of a database that is slow
        def __init__(self, *of: Any) -> None:
            looking.set()
            assert may_look.wait(PATIENCE_SECONDS)
            super().__init__(*of)

    async def come_and_go() -> None:
        followed = StudyEvents()
        listening = followed.follow(sqlite_store, first)
        await anext(listening)
        monkeypatch.setattr(events, "StudyChanges", LateChanges)
        coming = asyncio.ensure_future(anext(followed.follow(sqlite_store, second)))
        await asyncio.to_thread(looking.wait, PATIENCE_SECONDS)
        leaving = time.monotonic()
        await listening.aclose()
        assert time.monotonic() - leaving < LOOK_SECONDS
        coming.cancel()
        with pytest.raises(asyncio.CancelledError):
            await coming
        may_look.set()
        await until(lambda: followed._thread is None)  # it looks at nothing more
        assert not followed._followed

    asyncio.run(come_and_go())


def test_a_study_that_cannot_be_looked_at_keeps_nobody_from_hearing_of_others(
    sqlite_store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broken, well = (studies.create_study(sqlite_store, name=name, metric="loss") for name in ("broken", "well"))
    look, failed = StudyChanges.look, threading.Event()

    def look_or_fail(changes: StudyChanges) -> Any:
        if changes._study_id == broken and threading.current_thread().name == "study events":
            failed.set()
            raise ValueError("no such thing as a state 7")
        return look(changes)

    async def listen_to_both() -> None:
        followed = StudyEvents()
        listening = [followed.follow(sqlite_store, study_id) for study_id in (broken, well)]
        for each in listening:
            assert (await anext(each)).kind == "study"
        await asyncio.to_thread(failed.wait, PATIENCE_SECONDS)
        await asyncio.to_thread(claimed, sqlite_store, well)
        heard = await asyncio.wait_for(anext(listening[1]), PATIENCE_SECONDS)
        assert heard.kind == "trial"
        await asyncio.sleep(2 * LOOK_SECONDS)
        for each in listening:
            await each.aclose()

    monkeypatch.setattr(StudyChanges, "look", look_or_fail)
    asyncio.run(listen_to_both())
    told = [record.getMessage() for record in caplog.records if record.name == "hpo.service.events"]
    assert told == [f"study {broken} cannot be looked at: no such thing as a state 7"]  # once


# The end of what the service does not run -----------------------------------------------------------------------------

SPEC: dict[str, Any] = {
    "study": "asked",
    "task": {"name": "asked", "metric": "loss", "direction": "minimize"},
    "space": {"x": {"type": "float", "low": 0.0, "high": 1.0}},
    "budget": {"trials": 2},
}


def test_a_study_that_programs_ask_ends_with_its_budget(sqlite_store: Store) -> None:
    study_id = studies.create_study(sqlite_store, name="asked", task="asked", metric="loss", spec=SPEC)

    def reason() -> str | None:
        return why_over(sqlite_store, history.study_of_id(sqlite_store, study_id), None)

    assert reason() is None, "somebody may ask yet"
    for value in (0.5, 0.25):
        claim = claimed(sqlite_store, study_id)
        assert reason() is None
        studies.finish_trial(sqlite_store, claim, state=TrialState.COMPLETE, value=value)
    assert reason() == "its 2 trials are finished"


def test_what_fails_from_the_first_and_what_was_imported_has_ended(sqlite_store: Store) -> None:
    spec = SPEC | {"budget": {"hours": 1}}
    study_id = studies.create_study(sqlite_store, name="asked", task="asked", metric="loss", spec=spec)
    for _ in range(5):
        claim = claimed(sqlite_store, study_id)
        assert why_over(sqlite_store, history.study_of_id(sqlite_store, study_id), None) is None
        studies.finish_trial(sqlite_store, claim, state=TrialState.FAIL, value=None, error="no luck")
    study = history.study_of_id(sqlite_store, study_id)
    assert "the first 5 trials failed" in (why_over(sqlite_store, study, None) or "")
    assert "it was imported from team" in (why_over(sqlite_store, replace(study, source="team"), None) or "")
    HistoryStorage(sqlite_store).set_study_user_attr(study_id, SECONDS_SPENT, 4_000.0)
    assert why_over(sqlite_store, study, None) == "its 1 hours are spent"


def test_who_watches_it_hears_of_the_end_and_why(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hpo.service.events.END_SECONDS", 0.1)
    store = service.store
    secret, _ = tokens.create_token(store, owner="ann", role="viewer", created_by="a test")
    study_id = studies.create_study(
        store, name="asked", task="asked", metric="loss", spec=SPEC | {"budget": {"hours": 1}}
    )
    claim = claimed(store, study_id)
    with serving(service) as base, Client(base.removesuffix("/api/v1"), secret) as client:
        with client.watch("asked") as events:
            assert next(events).trial is not None
            studies.finish_trial(store, claim, state=TrialState.COMPLETE, value=0.5)
            threading.Timer(
                1.0, HistoryStorage(store).set_study_user_attr, (study_id, SECONDS_SPENT, 4_000.0)
            ).start()  # which changes nothing of its trials
            *_, end = events
        with client.watch("asked") as events:
            *_, again = events
    assert end.is_end and end.message == again.message == "its 1 hours are spent"
