"""How the rows of studies and trials are made, locked and changed: what live work and Optuna's storage share."""

import json
import math
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

from optuna.trial import TrialState
from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Connection,
    Double,
    Executable,
    Table,
    bindparam,
    func,
    insert,
    select,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError

from storage.database import Store, upsert
from storage.errors import StudyExistsError, StudyNotFoundError, TrialNotFoundError
from storage.models import UNFINISHED, studies, study_attributes, trials
from storage.retries import Call
from storage.statements import Dialect, Statement

AttributeKind = Literal["user", "system"]
TrialRow: TypeAlias = Any  # a row of `trials`, with some of its columns


# Studies


def insert_study(
    connection: Connection, name: str, directions: Sequence[str], *, created_at: float, **columns: Any
) -> int:
    """Insert a study; returns its id. Raises StudyExistsError."""
    row = {"name": name, "directions": json.dumps(list(directions)), "created_at": created_at, **columns}
    try:
        return int(connection.execute(insert(studies).values(**row).returning(studies.c.id)).scalar_one())
    except IntegrityError as error:
        raise StudyExistsError(f"A study named {name!r} exists already.") from error


def study_made_by(connection: Connection, call: Call, name: str) -> int | None:
    """The study that a call that is repeated has created already: the one that is as old as the call."""
    mine = select(studies.c.id).where(studies.c.name == name, studies.c.created_at == call.at)
    return connection.execute(mine).scalar() if call.is_repeated else None


def count_trials_locking(connection: Connection, study_id: int) -> int:
    """How many trials the study has, which is the next one's number; nobody else makes one before we commit.

    Raises StudyNotFoundError.
    """
    lock_study(connection, study_id)
    return int(_NEXT_NUMBER.run(connection, study_id=study_id).rows[0].number)


def lock_study(connection: Connection, study_id: int) -> None:
    """Nobody else makes or claims a trial of the study before we commit. Raises StudyNotFoundError."""
    if not _LOCK_STUDY.run(connection, study_id=study_id).rows:
        raise no_study(study_id)


def lock_studies(connection: Connection, study_ids: Sequence[int]) -> None:
    """As `lock_study`, for many at once, in one order so that nobody waits in a circle; those that are gone are not."""
    connection.execute(_LOCK_STUDIES, {"study_ids": list(study_ids)})


def lock_study_of(connection: Connection, trial_id: int) -> None:
    """As `lock_study`, for the study of a trial, if there is such a trial."""
    _LOCK_STUDY_OF.run(connection, trial_id=trial_id)


def next_numbers_locking(connection: Connection, study_ids: Sequence[int]) -> dict[int, int]:
    """As `count_trials_locking`, for many studies at once."""
    lock_studies(connection, study_ids)
    taken = {row.study_id: row.taken for row in connection.execute(_NEXT_NUMBERS, {"study_ids": list(study_ids)})}
    return dict.fromkeys(study_ids, 0) | taken


def no_study(study_id: int) -> StudyNotFoundError:
    """The error for an id that no study has."""
    return StudyNotFoundError(f"There is no study with id {study_id}.")


# Trials


def insert_trial(connection: Connection, study_id: int, number: int, **columns: Any) -> int:
    """Insert a trial under the number that `count_trials_locking` gave; returns its id."""
    row = {"study_id": study_id, "number": number, **columns}
    return int(connection.execute(insert(trials).returning(trials.c.id), row).scalar_one())


def lock_trial(connection: Connection, trial_id: int) -> TrialRow:
    """A trial: whose it is, how it stands, its configuration; nobody else changes it before we commit.

    Raises TrialNotFoundError.
    """
    trial = _LOCK_TRIAL.run(connection, trial_id=trial_id).first
    if trial is None:
        raise TrialNotFoundError(f"There is no trial with id {trial_id}.")
    return trial


def made_by(connection: Connection, study_id: int, call: Call) -> TrialRow | None:
    """What a call that is repeated has made or claimed already: id, number, state and attempt; None if nothing."""
    return _MADE_BY.run(connection, study_id=study_id, call_id=call.id).first if call.is_repeated else None


def finished_columns(state: TrialState, values: Sequence[float] | None, at: float) -> dict[str, Any]:
    """The columns of a trial that ends with these values, one per objective, at that time. Raises ValueError."""
    if values is None and state == TrialState.COMPLETE:
        raise ValueError("A complete trial needs a value.")
    if any(math.isnan(value) for value in values or ()):
        raise ValueError("NaN is not a value: a trial without one fails.")
    return {"state": state.value, "finished_at": at, **value_columns(values)}


def value_columns(values: Sequence[float] | None) -> dict[str, Any]:
    """The columns of a trial's values, one per objective."""
    if not values:
        return {"value": None, "more_values": None}
    first, *more = map(float, values)
    return {"value": first, "more_values": json.dumps(more) if more else None}


def reported(value: float) -> float | None:
    """An intermediate value as it is stored."""
    return None if math.isnan(value) else float(value)


def set_attribute(
    store: Store, connection: Connection, table: Table, owner_id: int, *, kind: AttributeKind, key: str, value: Any
) -> None:
    """Set an attribute in the table of a study's or a trial's."""
    owner = "study_id" if table is study_attributes else "trial_id"
    row = {owner: owner_id, "kind": kind, "key": key, "value": json.dumps(value)}
    connection.execute(upsert(store.dialect, table), row)


# Statements for those that have more to say of a trial


def beside_trial(table: Table, *conditions: ColumnElement[bool]) -> Statement:
    """A statement that puts a row of the table beside a trial, if the trial meets the conditions.

    It takes the place of the row that has its key. No row is counted where the trial does not, or is not there.
    """
    names = [column.name for column in table.columns if column.name != "trial_id"]
    keys = [column.name for column in table.primary_key]

    def build(dialect: Dialect) -> Executable:
        values = (bindparam(name, type_=table.c[name].type) for name in names)
        row = select(trials.c.id, *values).where(trials.c.id == bindparam("trial_id"), *conditions)
        statement = (sqlite.Insert if dialect == "sqlite" else postgresql.Insert)(table).from_select(
            ["trial_id", *names], row.with_for_update(key_share=True)
        )
        replaced = {name: statement.excluded[name] for name in names if name not in keys}
        return statement.on_conflict_do_update(index_elements=keys, set_=replaced)

    return Statement(build)


is_unfinished = trials.c.state.in_(UNFINISHED)
FINISHED = {
    "state": bindparam("state"),
    "value": bindparam("value", type_=Double),
    "more_values": bindparam("more_values"),
    "finished_at": bindparam("finished_at", type_=Double),
    "lease_until": None,
    "call_id": None,
}
"""What a trial that ends is set to; the values are those of `finished_columns`."""

# How it is done

_LOCK_STUDY = Statement(
    select(studies.c.id).where(studies.c.id == bindparam("study_id")).with_for_update(key_share=True)
)
_its_study_id = select(trials.c.study_id).where(trials.c.id == bindparam("trial_id")).scalar_subquery()
_LOCK_STUDY_OF = Statement(select(studies.c.id).where(studies.c.id == _its_study_id).with_for_update(key_share=True))
next_number = (  # in a study that is locked
    select((func.coalesce(func.max(trials.c.number), -1) + 1).label("number"))
    .where(trials.c.study_id == bindparam("study_id"))
    .scalar_subquery()
)
_NEXT_NUMBER = Statement(select(next_number.label("number")))
_STUDY_IDS: BindParameter[Any] = bindparam("study_ids", expanding=True)
_LOCK_STUDIES = (
    select(studies.c.id).where(studies.c.id.in_(_STUDY_IDS)).order_by(studies.c.id).with_for_update(key_share=True)
)
_NEXT_NUMBERS = (
    select(trials.c.study_id, (func.max(trials.c.number) + 1).label("taken"))
    .where(trials.c.study_id.in_(_STUDY_IDS))
    .group_by(trials.c.study_id)
)
_LOCK_TRIAL = Statement(
    select(
        *(trials.c.id, trials.c.study_id, trials.c.number, trials.c.state, trials.c.value, trials.c.finished_at),
        *(trials.c.attempt, trials.c.deaths, trials.c.worker, trials.c.call_id),
        *(trials.c.parameter_set_id, trials.c.configuration),
    )
    .where(trials.c.id == bindparam("trial_id"))
    .with_for_update()
)
_MADE_BY = Statement(
    select(trials.c.id, trials.c.number, trials.c.state, trials.c.attempt).where(
        trials.c.study_id == bindparam("study_id"), trials.c.call_id == bindparam("call_id")
    )
)
