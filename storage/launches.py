"""Which studies does the service run: what is wanted of each, how far it is, and who has it in hand?

A study on the server goes from `queued` to `running` when a server takes it up, under a lease by the database's clock;
a server that is dead, or silent for longer, has lost it, and what it says of it afterwards changes nothing. A study
whose trials workers pull needs no server: it is `running` as soon as it is wanted. `paused` is queued again, `failed`
may be; `stopped` and `done` are for good. Each change is one transaction that looks before it writes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, TypeAlias, get_args

from optuna.trial import TrialState
from sqlalchemy import Connection, and_, func, insert, or_, select, update

from storage.audit import Doer, note_within
from storage.database import Store, database_now
from storage.errors import LaunchError, StudyNotFoundError
from storage.models import launches, studies, trials
from storage.privacy import current
from storage.retries import Call, retried, retried_call
from storage.sources import delete_studies
from storage.statements import Statement, is_listed
from storage.trial_rows import is_unfinished, lock_studies, lock_study, no_study

State = Literal["queued", "running", "paused", "stopped", "done", "failed"]
Wanted = Literal["run", "pause", "stop"]
Place = Literal["server", "workers"]
MayStart: TypeAlias = Callable[[Connection], bool]  # whether there is room, told within the transaction that starts it
STATES: tuple[State, ...] = get_args(State)
PLACES: tuple[Place, ...] = get_args(Place)
ACTIVE: tuple[State, ...] = ("queued", "running")
NOT_OVER: tuple[State, ...] = ("queued", "running", "paused")
OVER: tuple[State, ...] = ("stopped", "done", "failed")
WAITS_FOR_WORKERS = (
    "its trials are there for whoever asks: `hpo worker`, or, where no trainer is named, programs of yours"
)


@dataclass(frozen=True, kw_only=True)
class Launch:
    """A study that the service runs, or has run."""

    study_id: int
    study: str  # its name
    owner: str
    state: State
    wanted: Wanted
    place: Place
    priority: int  # the larger, the sooner
    jobs: int  # trials side by side, of a study on the server
    devices: int  # of a trial
    settings: Mapping[str, Any]  # where its trials run
    message: str | None
    worker: str | None  # the server that has it in hand
    deaths: int
    trials: int  # that run now
    requested_at: datetime
    started_at: datetime | None
    ended_at: datetime | None


@retried
def find_launch(store: Store, study_id: int) -> Launch | None:
    """How far a study is; None where the service has never run it."""
    with store.read() as connection:
        found = _read(connection, [study_id])
    return found[0] if found else None


@retried
def list_launches(store: Store, states: Collection[State] = STATES) -> list[Launch]:
    """The studies in these states, those first that were requested first."""
    with store.read() as connection:
        return list_launches_within(connection, states)


def list_launches_within(connection: Connection, states: Collection[State]) -> list[Launch]:
    """As `list_launches`, within a transaction."""
    rows = connection.execute(_LAUNCHES.where(launches.c.state.in_(list(states)))).all()
    running = _running(connection, [row.study_id for row in rows if row.state == "running"])
    return [_launch(row, running) for row in rows]


@retried
def launches_of(store: Store, study_ids: Iterable[int]) -> dict[int, Launch]:
    """The launches of these studies, by the study's id; those without one are left out."""
    with store.read() as connection:
        return {launch.study_id: launch for launch in _read(connection, list(study_ids))}


# What people want. doer: who does it, for the log; None where no person does.


@retried_call
def request_launch(
    store: Store,
    call: Call,
    study_id: int,
    *,
    owner: str,
    place: Place,
    jobs: int = 1,
    devices: int = 1,
    priority: int = 0,
    settings: Mapping[str, Any] | None = None,
    doer: Doer | None = None,
    anew: bool = False,
) -> Launch:
    """Let a study be run: one that was never run, is paused or has failed. Raises StudyNotFoundError, LaunchError.

    anew: also one that is done or was stopped, for it is to do more than it was asked for before.
    """
    asked = {
        "owner": owner,
        "place": place,
        "jobs": jobs,
        "devices": devices,
        "priority": priority,
        "settings": json.dumps(dict(settings or {})),
        "requested_at": call.at,
        **_asked_for(place),
    }
    with store.write() as connection:
        lock_study(connection, study_id)
        launch = next(iter(_read(connection, [study_id], locking=True)), None)
        if launch is not None and launch.requested_at == datetime.fromtimestamp(call.at, UTC):
            return launch  # made by us, before its reply was lost
        if launch is None:
            connection.execute(insert(launches).values(study_id=study_id, **asked))
        elif launch.state in ("paused", "failed") or (anew and launch.state in OVER):
            _change(connection, study_id, **asked)
        else:
            raise LaunchError(f"study {launch.study!r} is {_in_words(launch)}; it cannot be started")
        note_within(connection, doer, _subject(study_id))
        return _locked(connection, study_id)


@retried
def want(store: Store, study_id: int, wanted: Wanted, *, doer: Doer | None = None) -> Launch:
    """Ask for a study to go on, to pause or to stop; one that runs on a server follows when that has heard of it.

    Asking again changes nothing. Raises StudyNotFoundError, LaunchError.
    """
    with store.write() as connection:
        launch = _locked(connection, study_id)
        changes = _changes_for(launch, wanted)
        if changes:
            _change(connection, study_id, **changes)
            note_within(connection, doer, _subject(study_id))
        return _locked(connection, study_id)


@retried
def set_priority(store: Store, study_id: int, priority: int, *, doer: Doer | None = None) -> Launch:
    """The larger, the sooner. Raises StudyNotFoundError, LaunchError."""
    with store.write() as connection:
        if _locked(connection, study_id).priority != priority:
            _change(connection, study_id, priority=priority)
            note_within(connection, doer, _subject(study_id))
        return _locked(connection, study_id)


@retried
def check_at_rest(store: Store, study_ids: Sequence[int]) -> None:
    """Raises LaunchError while one of these studies, or a trial of them, runs or waits to."""
    with store.read() as connection:
        _check_at_rest(connection, study_ids)


@retried_call
def remove_study(
    store: Store, call: Call, study_id: int, *, also: Collection[int] = (), doer: Doer | None = None
) -> None:
    """Delete a study with all its trials. also: other studies that go with it; all go, or none.

    Raises StudyNotFoundError; LaunchError while one of them or a trial of them runs.
    """
    wanted = [study_id, *also]
    with store.write() as connection:
        lock_studies(connection, wanted)  # nobody claims a trial of them, or launches one, any more
        known = connection.execute(select(studies.c.id, studies.c.name).where(studies.c.id.in_(wanted)))
        names: dict[int, str] = {row.id: row.name for row in known}
        if study_id not in names:
            if call.is_repeated:
                return
            raise no_study(study_id)
        _check_at_rest(connection, list(names), locking=True)
        for each, name in names.items():
            note_within(connection, doer, _subject(each), details={"name": name})
        delete_studies(connection, list(names))


# What servers do


@retried
def take_up(
    store: Store,
    study_id: int,
    *,
    worker: str,
    lease_seconds: float,
    may_start: MayStart | None = None,
) -> bool:
    """Take a study from the queue, for one server only; whether it is that one's.

    may_start: None: there is room for it.
    """
    with store.write() as connection:
        if may_start is not None and not may_start(connection):
            return False
        taken = connection.execute(
            update(launches)
            .where(launches.c.study_id == study_id, launches.c.state == "queued", launches.c.wanted == "run")
            .values(
                state="running",
                worker=worker,
                lease_until=database_now() + lease_seconds,
                started_at=func.coalesce(launches.c.started_at, database_now()),
                ended_at=None,
                message=None,
            )
        )
        mine = select(launches.c.study_id).where(_is_held(study_id, worker))  # by a call whose reply was lost
        return taken.rowcount > 0 or connection.execute(mine).first() is not None


@retried
def extend(store: Store, study_ids: Collection[int], *, worker: str, lease_seconds: float) -> set[int]:
    """Extend the leases of what a server has in hand; returns the studies that are still its own."""
    with store.write(durable=False) as connection:
        held = update(launches).where(
            launches.c.study_id.in_(list(study_ids)), launches.c.worker == worker, launches.c.state == "running"
        )
        kept = connection.execute(
            held.values(lease_until=database_now() + lease_seconds).returning(launches.c.study_id)
        )
        return set(kept.scalars())


@retried
def say(store: Store, study_id: int, *, worker: str, message: str | None) -> None:
    """Note what there is to say of a study that the server has in hand."""
    with store.write(durable=False) as connection:
        connection.execute(update(launches).where(_is_held(study_id, worker)).values(message=current().text(message)))


@retried
def finish(store: Store, study_id: int, *, state: Literal["done", "failed"], message: str, worker: str | None) -> bool:
    """End a study for the reason that the message gives; whether it was still this server's. worker: None of workers'.

    One that was to be stopped and has come to its end is done.
    """
    with store.write() as connection:
        ended = connection.execute(
            update(launches)
            .where(_is_held(study_id, worker))
            .values(
                state=state, message=current().text(message), worker=None, lease_until=None, ended_at=database_now()
            )
        )
        return ended.rowcount > 0


@retried
def give_back(
    store: Store, study_id: int, *, worker: str, message: str, deaths: int = 0, most_deaths: int | None = None
) -> State | None:
    """End a server's hold of a study that is not over: paused or stopped where that is wanted, else queued again.

    deaths: of its processes, one after the other; at `most_deaths` it has failed. Returns its state now; None where
    it was not this server's any more.
    """
    with store.write() as connection:
        held = connection.execute(select(launches).where(_is_held(study_id, worker)).with_for_update()).first()
        if held is None:
            return None
        state: State = _SETTLED[held.wanted]
        if state == "queued" and most_deaths is not None and deaths >= most_deaths:
            state = "failed"
        _change(connection, study_id, **_left(state, message if state in ("queued", "failed") else None, deaths))
        return state


@retried
def reclaim(store: Store, is_alive: Callable[[str], bool]) -> list[int]:
    """Take the studies from servers that are dead or whose lease has ended; which studies those were."""
    with store.write() as connection:
        held = connection.execute(
            select(launches, (launches.c.lease_until < database_now()).label("is_late"))
            .where(launches.c.state == "running", launches.c.worker.is_not(None))
            .order_by(launches.c.study_id)
            .with_for_update()
        ).all()
        lost = [row for row in held if row.is_late or not is_alive(row.worker)]
        for row in lost:
            left = _left(_SETTLED[row.wanted], "the server that ran it has ended; it goes on", row.deaths)
            _change(connection, row.study_id, **left)
        return [row.study_id for row in lost]


# How it is done

_SETTLED: Mapping[str, State] = {"run": "queued", "pause": "paused", "stop": "stopped"}
_LAUNCHES = (
    select(launches, studies.c.name.label("study"))
    .join_from(launches, studies)
    .order_by(launches.c.requested_at, launches.c.study_id)
)


def _asked_for(place: Place) -> dict[str, Any]:
    """The columns of a study that is to run, from now on."""
    waits = {"wanted": "run", "deaths": 0, "worker": None, "lease_until": None, "ended_at": None}
    if place == "workers":
        return {**waits, "state": "running", "message": WAITS_FOR_WORKERS}
    return {**waits, "state": "queued", "message": None}


def _left(state: State, message: str | None, deaths: int) -> dict[str, Any]:
    """The columns of a study that a server has let go."""
    columns = {
        "state": state,
        "message": current().text(message),
        "worker": None,
        "lease_until": None,
        "deaths": deaths,
    }
    return {**columns, "ended_at": database_now() if state in OVER else None}


def _changes_for(launch: Launch, wanted: Wanted) -> dict[str, Any]:
    """What it takes to do as is wanted; nothing where it is so already. Raises LaunchError."""
    is_over = launch.state in ("stopped", "done") or (launch.state == "failed" and wanted != "run")
    if (launch.state == "stopped" and wanted == "stop") or (launch.state == "running" and launch.wanted == wanted):
        return {}
    if is_over or (launch.wanted == "stop" and wanted != "stop"):
        what = {"run": "go on", "pause": "be paused", "stop": "be stopped"}[wanted]
        raise LaunchError(f"study {launch.study!r} is {_in_words(launch)}; it cannot {what}")
    if launch.state == "running" and launch.worker is not None:
        return {"wanted": wanted}
    if wanted == "run":
        return {} if launch.state == "queued" else _asked_for(launch.place)
    return {} if launch.state == _SETTLED[wanted] else {"wanted": wanted, **_left(_SETTLED[wanted], None, 0)}


def _check_at_rest(connection: Connection, study_ids: Sequence[int], *, locking: bool = False) -> None:
    for launch in _read(connection, list(study_ids), locking=locking):
        if launch.state in ACTIVE:
            raise LaunchError(f"study {launch.study!r} is {_in_words(launch)}: stop it first, then delete it")
    for study_id in _running(connection, study_ids):
        raise LaunchError(f"a trial of study {study_id} is running: delete it when that has ended")


def _subject(study_id: int) -> str:
    return f"study {study_id}"


def _in_words(launch: Launch) -> str:
    if launch.state == "running" and launch.wanted != "run":
        return {"pause": "about to pause", "stop": "being stopped"}[launch.wanted]
    return {"queued": "in the queue", "stopped": "stopped for good", "failed": "failed"}.get(launch.state, launch.state)


def _is_held(study_id: int, worker: str | None) -> Any:
    is_its = launches.c.worker.is_(None) if worker is None else launches.c.worker == worker
    return and_(launches.c.study_id == study_id, launches.c.state == "running", is_its)


def _change(connection: Connection, study_id: int, **columns: Any) -> None:
    connection.execute(update(launches).where(launches.c.study_id == study_id).values(**columns))


def _locked(connection: Connection, study_id: int) -> Launch:
    """The launch of a study, which nobody else changes before we commit. Raises StudyNotFoundError, LaunchError."""
    found = _read(connection, [study_id], locking=True)
    if found:
        return found[0]
    name = connection.execute(select(studies.c.name).where(studies.c.id == study_id)).scalar()
    if name is None:
        raise StudyNotFoundError(f"There is no study with id {study_id}.")
    raise LaunchError(f"study {name!r} is not run by this service; start it first")


def _read(connection: Connection, study_ids: list[int], *, locking: bool = False) -> list[Launch]:
    query = _LAUNCHES.where(launches.c.study_id.in_(study_ids))
    rows = connection.execute(query.with_for_update(of=launches) if locking else query).all()
    running = _running(connection, [row.study_id for row in rows])
    return [_launch(row, running) for row in rows]


def _running(connection: Connection, study_ids: Sequence[int]) -> dict[int, int]:
    """How many trials of each study somebody holds the lease of, or runs without one."""
    if not study_ids:
        return {}
    return {row.study_id: row.running for row in _RUNNING.run(connection, ids=json.dumps(list(study_ids))).rows}


is_held_by_somebody = and_(
    trials.c.state == TrialState.RUNNING.value,
    is_unfinished,  # names the index
    or_(trials.c.lease_until.is_(None), trials.c.lease_until >= select(database_now()).scalar_subquery()),
)
_RUNNING = Statement(
    lambda dialect: (
        select(trials.c.study_id, func.count().label("running"))
        .where(is_listed(dialect, trials.c.study_id, "ids"), is_held_by_somebody)
        .group_by(trials.c.study_id)
    )
)


def _launch(row: Any, running: Mapping[int, int]) -> Launch:
    return Launch(
        study_id=row.study_id,
        study=row.study,
        owner=row.owner,
        state=row.state,
        wanted=row.wanted,
        place=row.place,
        priority=row.priority,
        jobs=row.jobs,
        devices=row.devices,
        settings=json.loads(row.settings),
        message=row.message,
        worker=row.worker,
        deaths=row.deaths,
        trials=running.get(row.study_id, 0),
        requested_at=datetime.fromtimestamp(row.requested_at, UTC),
        started_at=None if row.started_at is None else datetime.fromtimestamp(row.started_at, UTC),
        ended_at=None if row.ended_at is None else datetime.fromtimestamp(row.ended_at, UTC),
    )
