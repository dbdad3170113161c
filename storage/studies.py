"""How studies and trials live: created, claimed under a lease, reported, finished exactly once.

A claim gives a worker a trial until its lease ends by the database's clock. Each claim is a new attempt, and its number
is the fencing token: whoever comes back with an older one is refused, and what it brought is kept as a late result.
An attempt that ends with its process or its lease is a death; a trial that took too many workers with it is given up.
Everything that belongs together, the row and its message to MLflow, is one transaction.
"""

import json
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from optuna.trial import TrialState
from sqlalchemy import (
    BindParameter,
    Connection,
    Table,
    and_,
    bindparam,
    delete,
    func,
    insert,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy.exc import IntegrityError

from storage.database import Store, database_now, insert_if_absent, upsert
from storage.errors import StaleAttemptError, StorageError, StudyExistsError, StudyNotFoundError, TrialNotFoundError
from storage.families import note_change, settle_family
from storage.models import (
    intermediate_values,
    outbox,
    studies,
    study_attributes,
    tasks,
    trial_attributes,
    trials,
)
from storage.sources import delete_study

SPACE_ATTRIBUTE = "hindsight:space"  # study system attribute: the declared search space
LATE_RESULTS_ATTRIBUTE = "hindsight:late_results"  # trial system attribute: what refused attempts brought
MAX_ATTEMPTS = 3  # heuristic: a trial that took three workers with it is at fault itself

AttributeKind = Literal["user", "system"]
TrialRow: TypeAlias = Any  # a row of `trials`, with some of its columns


@dataclass(frozen=True, kw_only=True)
class Claim:
    """The right to work on a trial."""

    trial_id: int
    number: int  # of the trial within its study
    attempt: int  # 1, 2, ...: valid until somebody else is given the next one


def create_study(
    store: Store,
    *,
    name: str,
    directions: Sequence[str] = ("minimize",),
    task: str | None = None,
    metric: str | None = None,
    space: Mapping[str, Any] | None = None,
    spec: Mapping[str, Any] | None = None,
    mlflow_uri: str | None = None,
    provenance: Mapping[str, Any] | None = None,
    source: str = "hindsight",
) -> int:
    """Create a study, and its task where that is new; returns the study's id.

    A metric without a task makes the study a task of its own.
    Raises StudyExistsError; StorageError when the task is known with the opposite direction.
    """
    with store.write() as connection:
        task_id = None
        if task is not None or metric is not None:
            task_id = task_id_for(store, connection, task or name, metric or "value", directions[0])
        study_id = insert_study(
            connection,
            name,
            directions,
            task_id=task_id,
            space=_json_or_none(space),
            spec=_json_or_none(spec),
            mlflow_uri=mlflow_uri,
            provenance=_json_or_none(provenance),
            source=source,
        )
        if space is not None:
            set_attribute(
                store, connection, study_attributes, study_id, kind="system", key=SPACE_ATTRIBUTE, value=space
            )
            settle_family(store, connection, study_id)
        _tell_mlflow(connection, study_id, "study_started", {})
    return study_id


def set_mlflow_uri(store: Store, study_id: int, uri: str | None) -> None:
    """Follow a study in another MLflow from now on, or in none. Raises StudyNotFoundError.

    What has not arrived yet goes to the new one; with none it is kept until there is one again.
    """
    with store.write() as connection:
        changed = connection.execute(update(studies).where(studies.c.id == study_id).values(mlflow_uri=uri))
        if changed.rowcount == 0:
            raise StudyNotFoundError(f"There is no study with id {study_id}.")


def delete_study_without_results(store: Store, name: str) -> bool:
    """Delete a study in which no trial is complete or pruned; returns whether it did.

    It does not while somebody holds the lease of a trial in it. A task that no study is left of goes too, and what
    MLflow has yet to be told. Raises StudyNotFoundError.
    """
    with store.write() as connection:
        study = connection.execute(_STUDY_NAMED, {"name": name}).first()
        if study is None:
            raise StudyNotFoundError.named(name, connection.execute(select(studies.c.name)).scalars())
        if connection.execute(_IS_WORTH_KEEPING, {"study_id": study.id}).first() is not None:
            return False
        delete_study(connection, study.id)
        return True


def claim_trial(
    store: Store,
    study_id: int,
    *,
    worker: str,
    lease_seconds: float,
    max_trials: int | None,
    max_attempts: int = MAX_ATTEMPTS,
) -> Claim | None:
    """Claim the next trial: one whose lease ended, else the oldest waiting, else a new one; None when all are taken.

    What the worker itself holds is not taken from it, even if its lease ended while the machine was suspended. A trial
    whose `max_attempts`th lease ended is given up: it fails with that as the reason. No trial is started once
    `max_trials` run or are finished. Trials that run without a lease, as plain Optuna's do, are left alone.
    """
    study = {"study_id": study_id}
    with store.write() as connection:
        number_of_trials = count_trials_locking(connection, study_id)
        for trial in connection.execute(_EXPIRED, {**study, "by": worker}).all():
            _requeue(store, connection, trial, reason="its lease ended", max_deaths=max_attempts)
        if max_trials is not None and number_of_trials - _number_waiting(connection, study_id) >= max_trials:
            return None
        trial_id = connection.execute(_OLDEST_WAITING, study).scalar()
        if trial_id is None:
            if max_trials is not None and number_of_trials >= max_trials:
                return None
            trial_id = insert_trial(connection, study_id, number_of_trials, state=TrialState.WAITING.value)
        given = connection.execute(
            _CLAIM, {"claimed_id": trial_id, "by": worker, "seconds": lease_seconds, "now": time.time()}
        ).one()
        if given.attempt > 1:
            connection.execute(delete(intermediate_values).where(intermediate_values.c.trial_id == trial_id))
        return Claim(trial_id=trial_id, number=given.number, attempt=given.attempt)


def extend_leases(store: Store, claims: Iterable[Claim], *, worker: str, lease_seconds: float) -> set[int]:
    """Extend the leases; returns the ids of the trials that are still ours. The others must be stopped."""
    held = [(claim.trial_id, claim.attempt) for claim in claims]
    if not held:
        return set()
    with store.write(durable=False) as connection:
        extended = connection.execute(
            update(trials)
            .where(tuple_(trials.c.id, trials.c.attempt).in_(held), trials.c.worker == worker, _is_running)
            .values(lease_until=database_now() + lease_seconds)
            .returning(trials.c.id)
        )
        return set(extended.scalars())


def release_trial(
    store: Store, claim: Claim, *, reason: str, counts: bool = False, max_attempts: int = MAX_ATTEMPTS
) -> bool:
    """Give a claimed trial back to the queue, as when the user interrupts; returns whether it will be tried again.

    `counts`: the trial's process died. At the `max_attempts`th death it fails instead of waiting.
    Raises StaleAttemptError.
    """
    with store.write() as connection:
        trial = _current(connection, claim)
        return _requeue(store, connection, trial, reason=reason, max_deaths=max_attempts if counts else None)


def reclaim_dead_workers(
    store: Store, study_id: int, is_alive: Callable[[str], bool], *, max_attempts: int = MAX_ATTEMPTS
) -> int:
    """Requeue at once what workers hold that are known to be dead; returns how many trials that were."""
    with store.write() as connection:
        count_trials_locking(connection, study_id)
        leased = connection.execute(_LEASED, {"study_id": study_id}).all()
        alive = {worker: is_alive(worker) for worker in {trial.worker for trial in leased}}
        orphans = [trial for trial in leased if not alive[trial.worker]]
        for trial in orphans:
            _requeue(store, connection, trial, reason="its worker died", max_deaths=max_attempts)
        return len(orphans)


def start_trial(
    store: Store,
    claim: Claim,
    *,
    params: Mapping[str, Any],
    seed: int | None = None,
    code_version: str | None = None,
    data_fingerprint: str | None = None,
    hardware: str | None = None,
) -> None:
    """Note what an attempt is about to train, and with what. Raises StaleAttemptError."""
    provenance = {
        "seed": seed,
        "code_version": code_version,
        "data_fingerprint": data_fingerprint,
        "hardware": hardware,
    }
    with store.write() as connection:
        trial = _current(connection, claim)
        change_trial(connection, claim.trial_id, **provenance)
        _tell_mlflow(connection, trial.study_id, "run_started", {"params": dict(params), **provenance}, claim)


def report(store: Store, claim: Claim, *, step: int, value: float, metrics: Mapping[str, float] | None = None) -> None:
    """Note the metric, and what else was logged, at a step. Raises StaleAttemptError."""
    with store.write(durable=False) as connection:
        trial = _current(connection, claim)
        set_intermediate_value(store, connection, claim.trial_id, step, value)
        _tell_mlflow(connection, trial.study_id, "metrics", {"step": step, "metrics": dict(metrics or {})}, claim)


def finish_trial(
    store: Store,
    claim: Claim,
    *,
    state: TrialState,
    value: float | None,
    cost_seconds: float | None = None,
    epochs: int | None = None,
    peak_memory_bytes: int | None = None,
    checkpoint: str | None = None,
    error: str | None = None,
    finished_at: float | None = None,
) -> None:
    """Record the outcome of an attempt, once. Saying the same again is fine: it may be repeated until it is in.

    finished_at: when it ended, in seconds since the epoch; None: now.
    Raises ValueError for a NaN or a missing value; StaleAttemptError when the attempt is not the trial's current one:
    then the outcome is kept as a late result.
    """
    columns = finished_columns(state, None if value is None else [value])
    columns |= {
        "finished_at": finished_at or columns["finished_at"],
        "cost_seconds": cost_seconds,
        "epochs": epochs,
        "peak_memory_bytes": peak_memory_bytes,
        "checkpoint": checkpoint,
        "error": None if error is None else error.replace("\0", ""),  # PostgreSQL's text cannot hold a NUL
    }
    with store.write() as connection:
        trial = lock_trial(connection, claim.trial_id)
        if _holds(trial, claim):
            change_trial(connection, claim.trial_id, **columns)
            note_change(store, connection, trial.study_id)
            told = {name: columns[name] for name in _TOLD_AT_THE_END}
            outcome = {"status": _mlflow_status(state), "state": state.name, **told}
            _tell_mlflow(connection, trial.study_id, "run_finished", outcome, claim)
            return
        if _is_repeated(trial, claim, state, value):
            return
        _keep_late_result(store, connection, claim, state, value)
    raise _stale(trial, claim)


# Shared with the Optuna storage


def insert_study(connection: Connection, name: str, directions: Sequence[str], **columns: Any) -> int:
    """Insert a study; returns its id. Raises StudyExistsError."""
    row = {"name": name, "directions": json.dumps(list(directions)), "created_at": time.time(), **columns}
    try:
        return int(connection.execute(insert(studies).values(**row).returning(studies.c.id)).scalar_one())
    except IntegrityError as error:
        raise StudyExistsError(f"A study named {name!r} exists already.") from error


def count_trials_locking(connection: Connection, study_id: int) -> int:
    """How many trials the study has, which is the next one's number; nobody else makes one before we commit.

    Raises StudyNotFoundError.
    """
    if connection.execute(_LOCK_STUDY, {"study_id": study_id}).first() is None:
        raise StudyNotFoundError(f"There is no study with id {study_id}.")
    return int(connection.execute(_NEXT_NUMBER, {"study_id": study_id}).scalar_one())


def next_numbers_locking(connection: Connection, study_ids: Sequence[int]) -> dict[int, int]:
    """As `count_trials_locking`, for many studies at once, in one order so that nobody waits in a circle."""
    ids = {"study_ids": list(study_ids)}
    connection.execute(_LOCK_STUDIES, ids)
    taken = {row.study_id: row.taken for row in connection.execute(_NEXT_NUMBERS, ids)}
    return dict.fromkeys(study_ids, 0) | taken


def insert_trial(connection: Connection, study_id: int, number: int, **columns: Any) -> int:
    """Insert a trial under the number that `count_trials_locking` gave; returns its id."""
    row = {"study_id": study_id, "number": number, **columns}
    return int(connection.execute(_INSERT_TRIAL, row).scalar_one())


def change_trial(connection: Connection, trial_id: int, **columns: Any) -> None:
    """Set columns of a trial that is locked."""
    connection.execute(_CHANGE_TRIAL, {"changed_id": trial_id, **columns})


def lock_trial(connection: Connection, trial_id: int) -> TrialRow:
    """The trial's id, study, number, state, attempt, value and configuration; nobody else changes it before we commit.

    Raises TrialNotFoundError.
    """
    trial = connection.execute(_LOCK_TRIAL, {"trial_id": trial_id}).first()
    if trial is None:
        raise TrialNotFoundError(f"There is no trial with id {trial_id}.")
    return trial


def finished_columns(state: TrialState, values: Sequence[float] | None) -> dict[str, Any]:
    """The columns of a trial that ends with these values, one per objective. Raises ValueError."""
    if values is None and state == TrialState.COMPLETE:
        raise ValueError("A complete trial needs a value.")
    if any(math.isnan(value) for value in values or ()):
        raise ValueError("NaN is not a value: a trial without one fails.")
    return {"state": state.value, "finished_at": time.time(), "lease_until": None, **value_columns(values)}


def value_columns(values: Sequence[float] | None) -> dict[str, Any]:
    """The columns of a trial's values, one per objective."""
    if not values:
        return {"value": None, "more_values": None}
    first, *more = map(float, values)
    return {"value": first, "more_values": json.dumps(more) if more else None}


def set_intermediate_value(store: Store, connection: Connection, trial_id: int, step: int, value: float) -> None:
    """Set the value at a step."""
    row = {"trial_id": trial_id, "step": step, "value": None if math.isnan(value) else float(value)}
    connection.execute(upsert(store.dialect, intermediate_values), row)


def set_attribute(
    store: Store, connection: Connection, table: Table, owner_id: int, *, kind: AttributeKind, key: str, value: Any
) -> None:
    """Set an attribute in the table of a study's or a trial's."""
    owner = "study_id" if table is study_attributes else "trial_id"
    row = {owner: owner_id, "kind": kind, "key": key, "value": json.dumps(value)}
    connection.execute(upsert(store.dialect, table), row)


# How it is done

_TOLD_AT_THE_END = ("value", "finished_at", "cost_seconds", "epochs", "peak_memory_bytes", "checkpoint", "error")

_is_running = trials.c.state == TrialState.RUNNING.value
_is_leased = and_(trials.c.study_id == bindparam("study_id"), _is_running, trials.c.lease_until.is_not(None))
_INSERT_TRIAL = insert(trials).returning(trials.c.id)
_CHANGE_TRIAL = update(trials).where(trials.c.id == bindparam("changed_id"))

_held = (trials.c.id, trials.c.study_id, trials.c.attempt, trials.c.deaths, trials.c.worker)

_LEASED = select(*_held).where(_is_leased).order_by(trials.c.number).with_for_update()
_EXPIRED = _LEASED.where(trials.c.lease_until < database_now(), trials.c.worker != bindparam("by"))
_is_waiting = and_(trials.c.study_id == bindparam("study_id"), trials.c.state == TrialState.WAITING.value)
_NUMBER_WAITING = select(func.count()).select_from(trials).where(_is_waiting)
_OLDEST_WAITING = (
    select(trials.c.id)
    .where(_is_waiting)
    .order_by(trials.c.number)
    .limit(1)
    .with_for_update(skip_locked=True)  # plain Optuna may be starting it
)
_CLAIM = (
    update(trials)
    .where(trials.c.id == bindparam("claimed_id"))
    .values(
        state=TrialState.RUNNING.value,
        attempt=trials.c.attempt + 1,
        worker=bindparam("by"),
        lease_until=database_now() + bindparam("seconds"),
        started_at=bindparam("now"),
        error=None,
    )
    .returning(trials.c.number, trials.c.attempt)
)
_LOCK_STUDY = select(studies.c.id).where(studies.c.id == bindparam("study_id")).with_for_update(key_share=True)
_STUDY_IDS: BindParameter[Any] = bindparam("study_ids", expanding=True)
_LOCK_STUDIES = (
    select(studies.c.id).where(studies.c.id.in_(_STUDY_IDS)).order_by(studies.c.id).with_for_update(key_share=True)
)
_NEXT_NUMBERS = (
    select(trials.c.study_id, (func.max(trials.c.number) + 1).label("taken"))
    .where(trials.c.study_id.in_(_STUDY_IDS))
    .group_by(trials.c.study_id)
)
_STUDY_NAMED = (
    select(studies.c.id, studies.c.name, studies.c.created_at, studies.c.task_id)
    .where(studies.c.name == bindparam("name"))
    .with_for_update()
)
_has_result = trials.c.state.in_([TrialState.COMPLETE.value, TrialState.PRUNED.value])
_IS_WORTH_KEEPING = (
    select(trials.c.id)
    .where(
        trials.c.study_id == bindparam("study_id"),
        or_(_has_result, and_(_is_running, trials.c.lease_until >= database_now())),
    )
    .limit(1)
)
_NEXT_NUMBER = select(func.coalesce(func.max(trials.c.number), -1) + 1).where(
    trials.c.study_id == bindparam("study_id")
)
_LOCK_TRIAL = (
    select(*_held, trials.c.number, trials.c.state, trials.c.value)
    .add_columns(trials.c.parameter_set_id, trials.c.configuration)
    .where(trials.c.id == bindparam("trial_id"))
    .with_for_update()
)
_TELL_MLFLOW = insert(outbox).from_select(
    ["study_id", "trial_id", "attempt", "kind", "payload", "created_at"],
    select(
        studies.c.id,
        bindparam("trial_id", type_=outbox.c.trial_id.type),
        bindparam("attempt", type_=outbox.c.attempt.type),
        bindparam("kind", type_=outbox.c.kind.type),
        bindparam("payload", type_=outbox.c.payload.type),
        bindparam("created_at", type_=outbox.c.created_at.type),
    ).where(studies.c.id == bindparam("study_id"), studies.c.mlflow_uri.is_not(None)),
)


def task_id_for(store: Store, connection: Connection, name: str, metric: str, direction: str) -> int:
    """The task of that name and metric, new or old. Raises StorageError where it is known with another direction."""
    row = {"name": name, "metric": metric, "direction": direction, "created_at": time.time()}
    connection.execute(insert_if_absent(store.dialect, tasks), row)
    task = connection.execute(select(tasks).where(tasks.c.name == name, tasks.c.metric == metric)).one()
    if task.direction != direction:
        raise StorageError(
            f"Task {name!r} is known to {task.direction} {metric}, not to {direction} it. "
            f"Correct the direction or name another task or metric."
        )
    return int(task.id)


def _current(connection: Connection, claim: Claim) -> TrialRow:
    trial = lock_trial(connection, claim.trial_id)
    if not _holds(trial, claim):
        raise _stale(trial, claim)
    return trial


def _holds(trial: TrialRow, claim: Claim) -> bool:
    return bool(trial.state == TrialState.RUNNING.value and trial.attempt == claim.attempt)


def _is_repeated(trial: TrialRow, claim: Claim, state: TrialState, value: float | None) -> bool:
    return (trial.attempt, trial.state, trial.value) == (claim.attempt, state.value, value)


def _stale(trial: TrialRow, claim: Claim) -> StaleAttemptError:
    now = TrialState(trial.state).name
    return StaleAttemptError(
        f"Attempt {claim.attempt} at trial {claim.number} is not the current one: "
        f"the trial is {now}, attempt {trial.attempt}."
    )


def _requeue(store: Store, connection: Connection, trial: TrialRow, *, reason: str, max_deaths: int | None) -> bool:
    """End an attempt without an outcome: back into the queue, or given up after so many deaths; None: it is no death.

    Returns whether it is back in the queue.
    """
    deaths = trial.deaths + (max_deaths is not None)
    is_given_up = max_deaths is not None and deaths >= max_deaths
    if is_given_up:
        reason = f"gave up after {deaths} attempts: {reason}"
        columns = finished_columns(TrialState.FAIL, None)
    else:
        columns = {"state": TrialState.WAITING.value, "lease_until": None}
    error = reason.replace("\0", "")  # PostgreSQL's text cannot hold a NUL
    change_trial(connection, trial.id, worker=None, deaths=deaths, error=error, **columns)
    if is_given_up:
        note_change(store, connection, trial.study_id)
    attempt = Claim(trial_id=trial.id, number=-1, attempt=trial.attempt)
    outcome = {"status": "KILLED", "state": TrialState(columns["state"]).name, "error": error}
    _tell_mlflow(connection, trial.study_id, "run_finished", outcome, attempt)
    return not is_given_up


def _number_waiting(connection: Connection, study_id: int) -> int:
    return int(connection.execute(_NUMBER_WAITING, {"study_id": study_id}).scalar_one())


def _keep_late_result(
    store: Store, connection: Connection, claim: Claim, state: TrialState, value: float | None
) -> None:
    known = connection.execute(
        select(trial_attributes.c.value).where(
            trial_attributes.c.trial_id == claim.trial_id,
            trial_attributes.c.kind == "system",
            trial_attributes.c.key == LATE_RESULTS_ATTRIBUTE,
        )
    ).scalar()
    results = json.loads(known or "[]")
    if any((late["attempt"], late["state"], late["value"]) == (claim.attempt, state.name, value) for late in results):
        return  # said again
    results.append({"attempt": claim.attempt, "state": state.name, "value": value, "received_at": time.time()})
    key = LATE_RESULTS_ATTRIBUTE
    set_attribute(store, connection, trial_attributes, claim.trial_id, kind="system", key=key, value=results)


def _tell_mlflow(
    connection: Connection, study_id: int, kind: str, payload: Mapping[str, Any], claim: Claim | None = None
) -> None:
    """Leave a message in the outbox, if the study is followed in MLflow."""
    connection.execute(
        _TELL_MLFLOW,
        {
            "study_id": study_id,
            "trial_id": claim and claim.trial_id,
            "attempt": claim and claim.attempt,
            "kind": kind,
            "payload": json.dumps(payload),
            "created_at": time.time(),
        },
    )


def _mlflow_status(state: TrialState) -> str:
    return "FAILED" if state == TrialState.FAIL else "FINISHED"


def _json_or_none(value: Any) -> str | None:
    return None if value is None else json.dumps(value)
