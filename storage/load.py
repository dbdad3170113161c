"""How much runs now, of all that a service hands out or trains itself?

Whoever may start something only where that leaves room looks from within the transaction that starts it: then no other
server that has the same history does so before that is committed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from sqlalchemy import Connection, exists, func, select, text

from storage.database import Store
from storage.launches import ACTIVE, Launch, is_held_by_somebody, list_launches_within
from storage.models import launches, trials
from storage.privacy import OWN_WORKER
from storage.retries import retried
from storage.statements import Statement


@dataclass(frozen=True, kw_only=True)
class Load:
    """What runs, and what waits to."""

    launches: Sequence[Launch]  # that are queued or running
    asked: Mapping[str, int]  # trials of other studies that workers of a service have, by their owner


MayStart: TypeAlias = Callable[[Load], bool]


@retried
def current_load(store: Store) -> Load:
    """As it is at this moment."""
    with store.read() as connection:
        return _load(connection)


def load_alone(store: Store, connection: Connection) -> Load:
    """The same, for whoever is about to start something: nobody else reads it so before we commit."""
    if store.dialect == "postgresql":  # SQLite has one writer at a time
        connection.execute(_ALONE)
    return _load(connection)


def room_within(store: Store, may_start: MayStart) -> Callable[[Connection], bool]:
    """Whether something may start, to be asked within the transaction that starts it."""
    return lambda connection: may_start(load_alone(store, connection))


def _load(connection: Connection) -> Load:
    asked: Counter[str] = Counter()
    for row in _ASKED.run(connection).rows:
        if OWN_WORKER.fullmatch(row.worker) is None:  # that of `hpo tune`, which no service has handed a trial
            asked[row.worker.partition("/")[0]] += row.running
    return Load(launches=list_launches_within(connection, ACTIVE), asked=asked)


_ALONE = text("SELECT pg_advisory_xact_lock(hashtextextended('hindsight start', 0))")
_is_launched_for_workers = exists().where(launches.c.study_id == trials.c.study_id, launches.c.place == "workers")
_ASKED = Statement(
    select(trials.c.worker, func.count().label("running"))
    .where(is_held_by_somebody, trials.c.lease_until.is_not(None), ~_is_launched_for_workers)
    .group_by(trials.c.worker)
)
