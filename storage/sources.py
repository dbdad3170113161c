"""Where imported studies came from, and how all influence of a source is removed."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from sqlalchemy import ColumnElement, Connection, and_, delete, func, or_, select

from storage.audit import Doer, note_within
from storage.database import Store, upsert
from storage.errors import LaunchError, SourceNotFoundError, StorageError, did_you_mean
from storage.families import leave_family
from storage.mlflow_runs import study_run_key
from storage.models import UNFINISHED, launches, mlflow_runs, sources, studies, tasks, trials
from storage.seals import end_chains
from storage.trial_rows import lock_studies

SourceKind = Literal["mlflow", "optuna", "table", "lightning"]
STUDIES_AT_A_TIME = 200  # forgotten in one transaction: others want to write in between


@dataclass(frozen=True, kw_only=True)
class Source:
    """A place where runs were kept."""

    name: str
    kind: SourceKind
    location: str  # URI or path, without passwords
    settings: Mapping[str, Any] = field(default_factory=dict)  # how it was read


@dataclass(frozen=True, kw_only=True)
class KnownSource:
    """A source as the history knows it; programs that write into the history themselves are sources too."""

    name: str
    kind: str  # of a Source, or hindsight or optuna for studies that ran here
    location: str | None
    studies: int
    trials: int
    first_import: datetime | None
    last_import: datetime | None


@dataclass(frozen=True, kw_only=True)
class Forgotten:
    """What went with a source."""

    studies: int
    trials: int


def list_sources(store: Store) -> list[KnownSource]:
    """Everything that studies came from, by name."""
    per_study = (
        select(trials.c.study_id, func.count().label("trials")).group_by(trials.c.study_id).subquery("trials_per_study")
    )
    counts = (
        select(studies.c.source, func.count(), func.coalesce(func.sum(per_study.c.trials), 0))
        .join_from(studies, per_study, per_study.c.study_id == studies.c.id, isouter=True)
        .group_by(studies.c.source)
    )
    with store.read() as connection:
        sizes = {name: (number, int(total)) for name, number, total in connection.execute(counts)}
        rows = {row.name: row for row in connection.execute(select(sources))}
    return [_known(name, rows.get(name), *sizes.get(name, (0, 0))) for name in sorted({*sizes, *rows})]


def note_source(store: Store, connection: Connection, source: Source) -> None:
    """Note that something is being imported from a source."""
    first = connection.execute(select(sources.c.created_at).where(sources.c.name == source.name)).scalar()
    row = {
        "name": source.name,
        "kind": source.kind,
        "location": source.location,
        "settings": json.dumps(source.settings),
        "created_at": first or time.time(),
        "imported_at": time.time(),
    }
    connection.execute(upsert(store.dialect, sources), row)


def ran_here(store: Store, name: str) -> bool:
    """Whether the studies of that name of a source were made here, by a program, rather than imported."""
    imported = select(sources.c.name).where(sources.c.name == name).exists()
    with store.read() as connection:
        return connection.execute(select(studies.c.id).where(studies.c.source == name, ~imported)).first() is not None


def forget(store: Store, name: str, *, dry_run: bool = False, doer: Doer | None = None) -> Forgotten:
    """Remove a source with all its studies and trials, and what was learned from them.

    Raises SourceNotFoundError; StorageError while one of its trials is running, LaunchError while a service runs one of
    its studies, or is to. One that is taken up meanwhile stays, with those after it.
    doer: who does it, for the log, which has an entry of those that go in one transaction.
    """
    with store.read() as connection:
        found = connection.execute(select(studies.c.id).where(studies.c.source == name)).scalars().all()
        known = connection.execute(select(sources.c.name).where(sources.c.name == name)).first()
        if not found and known is None:
            names = {
                *connection.execute(select(studies.c.source)).scalars(),
                *connection.execute(select(sources.c.name)).scalars(),
            }
            raise SourceNotFoundError(f"Nothing was imported from a source named {name!r}.{did_you_mean(name, names)}")
        all_of_it = _sizes(connection, studies.c.source == name)
        _check_at_rest(connection, studies.c.source == name)
    if not dry_run:
        for start in range(0, len(found), STUDIES_AT_A_TIME):
            with store.write() as connection:
                some = found[start : start + STUDIES_AT_A_TIME]
                lock_studies(connection, some)  # nobody claims a trial of them or launches one any more
                which = studies.c.id.in_(some)
                _check_at_rest(connection, which)
                note_within(connection, doer, name, details=asdict(_sizes(connection, which)))
                delete_studies(connection, some)
        with store.write() as connection:
            note_within(connection, None if found else doer, name, details=asdict(all_of_it))
            connection.execute(delete(sources).where(sources.c.name == name))
    return all_of_it


def delete_studies(connection: Connection, study_ids: Sequence[int]) -> list[int]:
    """Delete studies with their trials and what was learned from them; returns those that there were.

    A task that no study is left of goes too, and what MLflow has yet to be told. The last thing in a transaction.
    """
    gone = [study_id for study_id in study_ids if _delete_study(connection, study_id)]
    end_chains(connection, gone)
    return gone


def delete_study(connection: Connection, study_id: int) -> bool:
    """As `delete_studies`, for one; whether there was one."""
    return bool(delete_studies(connection, [study_id]))


def _delete_study(connection: Connection, study_id: int) -> bool:
    study = connection.execute(
        select(studies.c.name, studies.c.created_at, studies.c.task_id)
        .where(studies.c.id == study_id)
        .with_for_update(key_share=True)
    ).first()
    if study is None:
        return False
    _forget_mlflow_runs(connection, study)
    connection.execute(delete(trials).where(trials.c.study_id == study_id))  # before the family: see `storage.studies`
    leave_family(connection, study_id)
    connection.execute(delete(studies).where(studies.c.id == study_id))
    is_used = select(studies.c.id).where(studies.c.task_id == tasks.c.id).exists()
    connection.execute(delete(tasks).where(tasks.c.id == study.task_id, ~is_used))
    return True


def _check_at_rest(connection: Connection, which: ColumnElement[bool]) -> None:
    held = and_(trials.c.state.in_(UNFINISHED), trials.c.lease_until.is_not(None))
    running = connection.execute(select(trials.c.number, studies.c.name).join(studies).where(which, held)).first()
    if running is not None:
        raise StorageError(
            f"Trial {running.number} of study {running.name!r} is running: end the study first, then forget its source."
        )
    not_over = launches.c.state.in_(["queued", "running", "paused"])
    launched = connection.execute(
        select(studies.c.name, launches.c.state).join(launches).where(which, not_over)
    ).first()
    if launched is not None:
        raise LaunchError(
            f"study {launched.name!r} is {launched.state} on the service: stop it first, then forget its source"
        )


def _forget_mlflow_runs(connection: Connection, study: Any) -> None:
    key = study_run_key(study.name, study.created_at)
    is_its_run = or_(mlflow_runs.c.run_key == key, mlflow_runs.c.run_key.startswith(f"{key}/", autoescape=True))
    connection.execute(delete(mlflow_runs).where(is_its_run))


def _sizes(connection: Connection, which: ColumnElement[bool]) -> Forgotten:
    of_studies = select(func.count()).select_from(studies).where(which)
    of_trials = select(func.count()).select_from(trials.join(studies)).where(which)
    return Forgotten(
        studies=int(connection.execute(of_studies).scalar_one()), trials=int(connection.execute(of_trials).scalar_one())
    )


def _known(name: str, row: Any, number: int, total: int) -> KnownSource:
    return KnownSource(
        name=name,
        kind=name if row is None else row.kind,
        location=None if row is None else row.location,
        studies=number,
        trials=total,
        first_import=None if row is None else datetime.fromtimestamp(row.created_at, UTC),
        last_import=None if row is None else datetime.fromtimestamp(row.imported_at, UTC),
    )
