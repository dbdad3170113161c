"""Which workers pull trials from the service, on which machines, and what each of them holds?

A worker that is silent for a while is away; its trials go back to the queue when their leases end. All times are the
database's: a machine whose clock is wrong is no trouble.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from optuna.trial import TrialState
from sqlalchemy import Connection, delete, select, update

from storage.database import Store, database_now, upsert
from storage.models import machines, trials
from storage.privacy import current
from storage.retries import retried
from storage.trial_rows import is_unfinished

AWAY_SECONDS = 60.0  # without a word: as long as a lease
FORGOTTEN_SECONDS = 7 * 86_400.0  # without a word


@dataclass(frozen=True, kw_only=True)
class TrialInHand:
    """A trial that a worker trains."""

    study_id: int
    number: int
    attempt: int


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A worker and the machine that it runs on."""

    worker: str  # as in the trials that it holds
    owner: str  # of the token that it came with
    host: str
    devices: tuple[str, ...]
    jobs: int  # trials side by side
    version: str  # of its program
    joined_at: datetime
    seen_at: datetime
    left_at: datetime | None  # when it said goodbye
    is_here: bool  # whether it was heard of in the last minute, and has not left
    holds: tuple[TrialInHand, ...]


@retried
def join(store: Store, *, worker: str, owner: str, host: str, devices: Sequence[str], jobs: int, version: str) -> None:
    """Note a worker that has come, or come back."""
    privacy = current()
    worker, owner, host = privacy.worker(worker), privacy.user(owner), privacy.machine(host)
    facts = {"owner": owner, "host": host, "devices": json.dumps(list(devices)), "jobs": jobs, "version": version}
    now = database_now()
    with store.write(durable=False) as connection:
        joined_at = connection.execute(select(machines.c.joined_at).where(machines.c.worker == worker)).scalar()
        row = {"worker": worker, **facts, "joined_at": joined_at or connection.scalar(select(now))}
        row |= {"seen_at": connection.scalar(select(now)), "left_at": None}
        connection.execute(upsert(store.dialect, machines), row)


@retried
def see(store: Store, worker: str) -> bool:
    """Note that a worker is there; returns whether it has joined."""
    seen = (
        update(machines)
        .where(machines.c.worker == current().worker(worker))
        .values(seen_at=database_now(), left_at=None)
    )
    with store.write(durable=False) as connection:
        return connection.execute(seen).rowcount > 0


@retried
def leave(store: Store, worker: str) -> bool:
    """Note that a worker has said goodbye; returns whether it had joined."""
    left = update(machines).where(machines.c.worker == current().worker(worker)).values(left_at=database_now())
    with store.write(durable=False) as connection:
        return connection.execute(left).rowcount > 0


@retried
def forget_silent(store: Store) -> int:
    """Forget the workers that were not heard of for a week; how many that were."""
    silent = delete(machines).where(machines.c.seen_at < database_now() - FORGOTTEN_SECONDS)
    with store.write(durable=False) as connection:
        return connection.execute(silent).rowcount


@retried
def list_machines(store: Store) -> list[Machine]:
    """The workers that came in the last week, those that are here first, then by when they were last heard of."""
    is_here = (machines.c.left_at.is_(None) & (machines.c.seen_at > database_now() - AWAY_SECONDS)).label("is_here")
    with store.read() as connection:
        rows = connection.execute(select(machines, is_here)).all()
        held = _held(connection)
    found = [
        Machine(
            worker=row.worker,
            owner=row.owner,
            host=row.host,
            devices=tuple(json.loads(row.devices)),
            jobs=row.jobs,
            version=row.version,
            joined_at=datetime.fromtimestamp(row.joined_at, UTC),
            seen_at=datetime.fromtimestamp(row.seen_at, UTC),
            left_at=None if row.left_at is None else datetime.fromtimestamp(row.left_at, UTC),
            is_here=bool(row.is_here),
            holds=tuple(held[row.worker]),
        )
        for row in rows
    ]
    return sorted(found, key=lambda machine: (not machine.is_here, -machine.seen_at.timestamp(), machine.worker))


def _held(connection: Connection) -> defaultdict[str, list[TrialInHand]]:
    """The trials that run under a lease, by worker."""
    query = (
        select(trials.c.worker, trials.c.study_id, trials.c.number, trials.c.attempt)
        .where(is_unfinished, trials.c.state == TrialState.RUNNING.value, trials.c.worker.is_not(None))
        .order_by(trials.c.study_id, trials.c.number)
    )
    held: defaultdict[str, list[TrialInHand]] = defaultdict(list)
    for row in connection.execute(query):
        held[row.worker].append(TrialInHand(study_id=row.study_id, number=row.number, attempt=row.attempt))
    return held
