"""Imports, replays and exports that a service does beside its requests: asked for, begun, told of, ended.

Whoever does a job holds a lease on it, and the number of its attempt is the fencing token: after a crash another goes
on with the next attempt, and what the dead one still says is not heard. The database's clock is the only one.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import sqlalchemy.orm  # noqa: F401 - Optuna imports it late, and half imported it breaks the queries of other threads
from sqlalchemy import case, insert, or_, select, update

from storage.audit import Doer, note_within
from storage.database import Store, database_now
from storage.errors import JobNotFoundError
from storage.masking import without_secrets
from storage.models import background_jobs
from storage.privacy import current
from storage.retries import Call, retried, retried_call

JobState = Literal["queued", "running", "done", "failed", "cancelled"]
HELD_SECONDS = 600.0
LONGEST_ERROR = 4_000  # characters
MOST_ATTEMPTS = 3  # a job whose process dies so often is the reason for it


@dataclass(frozen=True, kw_only=True)
class Job:
    """Something done in the background."""

    job_id: int
    kind: str
    owner: str
    state: JobState
    settings: Mapping[str, Any]
    done: int  # of whatever it counts
    total: int | None  # None: not known
    result: Any  # None: there is none yet
    error: str | None  # why it failed
    attempt: int
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None


@retried_call
def add_job(
    store: Store,
    call: Call,
    *,
    kind: str,
    owner: str,
    settings: Mapping[str, Any],
    is_held: bool = False,
    doer: Doer | None = None,
) -> Job:
    """Ask for a job. is_held: what it needs is still to come; if it is not released within minutes, it fails.

    doer: who asks, for the log.
    """
    row: dict[str, Any] = {
        "kind": kind,
        "owner": owner,
        "state": "queued",
        "settings": json.dumps(settings),
        "created_at": call.at,
    }
    if is_held:  # as if somebody were at it for the last time
        row |= {"state": "running", "attempt": MOST_ATTEMPTS, "lease_until": database_now() + HELD_SECONDS}
    same = select(background_jobs).where(*(background_jobs.c[key] == row[key] for key in ("created_at", "settings")))
    with store.write() as connection:
        made = connection.execute(same).first() if call.is_repeated else None
        if made is not None:
            return _job(made)  # and its reply was lost
        job = _job(connection.execute(insert(background_jobs).values(row).returning(background_jobs)).one())
        note_within(connection, doer, f"job {job.job_id}")
        return job


@retried
def release_job(store: Store, job_id: int) -> Job:
    """Let a job begin that was held. Raises JobNotFoundError."""
    jobs = background_jobs.c
    is_held = (jobs.id == job_id) & (jobs.state == "running") & jobs.worker.is_(None)
    with store.write() as connection:
        connection.execute(update(background_jobs).where(is_held).values(state="queued", attempt=0, lease_until=None))
    return get_job(store, job_id)


@retried
def get_job(store: Store, job_id: int) -> Job:
    """One job. Raises JobNotFoundError."""
    with store.read() as connection:
        row = connection.execute(select(background_jobs).where(background_jobs.c.id == job_id)).first()
    if row is None:
        raise JobNotFoundError(f"There is no job {job_id}.")
    return _job(row)


@retried
def list_jobs(
    store: Store, *, limit: int = 100, before: int | None = None, kind: str | None = None, state: str | None = None
) -> list[Job]:
    """The newest jobs first. before: the id of the job that the last page ended with."""
    query = select(background_jobs).order_by(background_jobs.c.id.desc()).limit(limit)
    if before is not None:
        query = query.where(background_jobs.c.id < before)
    if kind is not None:
        query = query.where(background_jobs.c.kind == kind)
    if state is not None:
        query = query.where(background_jobs.c.state == state)
    with store.read() as connection:
        return [_job(row) for row in connection.execute(query)]


@retried
def cancel_job(store: Store, job_id: int, *, doer: Doer | None = None) -> Job:
    """End a job that has not ended; one that has stays as it is. doer: for the log. Raises JobNotFoundError."""
    unfinished = background_jobs.c.state.in_(["queued", "running"])
    with store.write() as connection:
        ended = connection.execute(
            update(background_jobs)
            .where(background_jobs.c.id == job_id, unfinished)
            .values(state="cancelled", ended_at=database_now(), lease_until=None)
        )
        if ended.rowcount:
            note_within(connection, doer, f"job {job_id}")
    return get_job(store, job_id)


# For whoever does them


@retried_call
def begin_job(
    store: Store,
    call: Call,
    *,
    worker: str,
    lease_seconds: float,
    in_hand: Collection[int] = (),
    kinds: Collection[str] | None = None,
) -> Job | None:
    """The oldest job that waits, or that nobody does any more, begun by `worker`; None where there is none.

    One that has been given up too often is failed. in_hand: the jobs that the worker knows it has begun. kinds: of
    these only.
    """
    jobs = background_jobs.c
    is_abandoned = (jobs.state == "running") & or_(jobs.lease_until.is_(None), jobs.lease_until < database_now())
    is_ours = (jobs.state == "running") & (jobs.worker == worker) & ~is_abandoned & jobs.id.not_in(list(in_hand))
    with store.write() as connection:
        begun = connection.execute(select(background_jobs).where(is_ours)).first() if call.is_repeated else None
        if begun is not None:  # and the reply was lost
            return _job(begun)
        connection.execute(
            update(background_jobs)
            .where(is_abandoned, jobs.attempt >= MOST_ATTEMPTS)
            .values(
                state="failed",
                ended_at=database_now(),
                lease_until=None,
                error=case(
                    (jobs.worker.is_(None), f"what it needs did not come within {HELD_SECONDS / 60:.0f} minutes"),
                    else_=f"its process died {MOST_ATTEMPTS} times (out of memory?)",
                ),
            )
        )
        is_free = or_(jobs.state == "queued", is_abandoned)
        is_meant = is_free if kinds is None else is_free & jobs.kind.in_(list(kinds))
        oldest = select(jobs.id).where(is_meant).order_by(jobs.id).limit(1)
        row = connection.execute(
            update(background_jobs)
            .where(jobs.id == oldest.with_for_update(skip_locked=True).scalar_subquery())
            .values(
                state="running",
                worker=worker,
                attempt=jobs.attempt + 1,
                lease_until=database_now() + lease_seconds,
                started_at=database_now(),
                done=0,
                total=None,
            )
            .returning(background_jobs)
        ).first()
    return None if row is None else _job(row)


@retried
def keep_job(store: Store, job: Job, *, lease_seconds: float, done: int, total: int | None) -> bool:
    """Go on with a job, and tell how far it is; whether it is still wanted from us."""
    return _change(store, job, lease_until=database_now() + lease_seconds, done=done, total=total)


@retried
def end_job(
    store: Store,
    job: Job,
    state: Literal["done", "failed"],
    *,
    result: Any = None,
    error: str | None = None,
    done: int | None = None,
) -> bool:
    """End a job; whether it was still wanted from us. An error is kept without the passwords of its URLs.

    What is kept from then on, also of what was asked for, goes by the rules of privacy.
    """
    privacy = current()
    reason = None if error is None else privacy.text(without_secrets(error)[:LONGEST_ERROR])
    kept: dict[str, Any] = {"settings": json.dumps(privacy.document(job.settings)), "error": reason}
    if done is not None:
        kept |= {"done": done, "total": done}
    if result is not None:
        kept |= {"result": json.dumps(privacy.document(result))}
    return _change(store, job, state=state, ended_at=database_now(), lease_until=None, **kept)


@retried
def give_back_job(store: Store, job: Job) -> bool:
    """Let another do it, or us when we are back: it does not count as an attempt."""
    return _change(store, job, state="queued", worker=None, lease_until=None, attempt=job.attempt - 1)


@retried
def abandon_job(store: Store, job: Job) -> bool:
    """Let it be begun again at once: whoever did it has died."""
    return _change(store, job, lease_until=None)


def _change(store: Store, job: Job, **values: Any) -> bool:
    jobs = background_jobs.c
    is_ours = (jobs.id == job.job_id) & (jobs.state == "running") & (jobs.attempt == job.attempt)
    with store.write() as connection:
        return bool(connection.execute(update(background_jobs).where(is_ours).values(**values)).rowcount)


def _job(row: Any) -> Job:
    return Job(
        job_id=row.id,
        kind=row.kind,
        owner=row.owner,
        state=row.state,
        settings=json.loads(row.settings),
        done=row.done,
        total=row.total,
        result=None if row.result is None else json.loads(row.result),
        error=row.error,
        attempt=row.attempt,
        created_at=datetime.fromtimestamp(row.created_at, UTC),
        started_at=_utc(row.started_at),
        ended_at=_utc(row.ended_at),
    )


def _utc(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
