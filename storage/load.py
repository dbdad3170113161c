"""How much runs now, of all that a service hands out or trains itself?

Whoever may start something only where that leaves room looks from within the transaction that starts it: then no other
server that has the same history does so before that is committed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, func, or_, select, text

from storage.database import Store
from storage.launches import ACTIVE, Launch, MayStart, is_held_by_somebody, list_launches_within
from storage.models import launches, trials
from storage.privacy import OWN_WORKER
from storage.retries import retried
from storage.statements import Statement


@dataclass(frozen=True, kw_only=True)
class Load:
    """What runs, and what waits to."""

    launches: Sequence[Launch]  # that are queued or running
    asked: Sequence[Asked]  # what workers of a service have of all other studies, for each owner of theirs


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Trials that no launch counts: of studies that were never launched for workers, or are not any more."""

    owner: str  # as he is called in the history
    trials: int
    devices: int  # that these have


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


def room_within(store: Store, may_start: Callable[[Load], bool]) -> MayStart:
    """Whether something may start, to be asked within the transaction that starts it."""
    return lambda connection: may_start(load_alone(store, connection))


def _load(connection: Connection) -> Load:
    trials_of: Counter[str] = Counter()
    devices_of: Counter[str] = Counter()
    for row in _ASKED.run(connection).rows:
        if OWN_WORKER.fullmatch(row.worker) is None:  # that of `hpo tune`, which no service has handed a trial
            owner = row.worker.partition("/")[0]
            trials_of[owner] += row.trials
            devices_of[owner] += row.devices
    asked = [Asked(owner=owner, trials=count, devices=devices_of[owner]) for owner, count in trials_of.items()]
    return Load(launches=list_launches_within(connection, ACTIVE), asked=asked)


_ALONE = text("SELECT pg_advisory_xact_lock(hashtextextended('hindsight start', 0))")
_is_counted_by_none = or_(
    launches.c.study_id.is_(None),
    launches.c.place != "workers",
    launches.c.state.not_in(ACTIVE),  # workers go on with what they have
)
_ASKED = Statement(
    select(
        trials.c.worker,
        func.count().label("trials"),
        func.sum(func.coalesce(launches.c.devices, 1)).label("devices"),
    )
    .join_from(trials, launches, launches.c.study_id == trials.c.study_id, isouter=True)
    .where(is_held_by_somebody, trials.c.lease_until.is_not(None), _is_counted_by_none)
    .group_by(trials.c.worker)
)
