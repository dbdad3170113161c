"""How studies and trials live: created, claimed under a lease, reported, finished exactly once.

A claim gives a worker a trial until its lease ends by the database's clock. Each claim is a new attempt, and its number
is the fencing token: whoever comes back with an older one is refused, and what it brought is kept as a late result.
An attempt that ends with its process or its lease is a death; a trial that took too many workers with it is given up.
Everything that belongs together, the row and its message to MLflow, is one transaction.

Every function may be interrupted by a database that goes away, and is repeated when it is back: what it has done
already it recognises by its call's id, or by the time of the call.

Nobody waits for another in a circle, because rows are locked in one order: study, trials by their ids, family,
`study_changes`, the chain of seals. Who holds a trial and needs its study takes that only if it is free. If it is not,
he begins anew and takes the study first: then he stands in line with the others, and comes in however many they are.
"""

import json
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from optuna.trial import TrialState
from sqlalchemy import (
    ColumnElement,
    Connection,
    Double,
    Integer,
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

from storage.audit import Doer, note_within
from storage.database import Store, database_now, insert_if_absent
from storage.errors import StaleAttemptError, StorageError, StudyNotFoundError
from storage.families import note_change, settle_family
from storage.launches import MayStart
from storage.models import (
    UNFINISHED,
    intermediate_values,
    launches,
    outbox,
    studies,
    study_attributes,
    tasks,
    trial_attributes,
    trials,
)
from storage.privacy import current
from storage.retries import Call, retried, retried_call
from storage.seals import begin_chains, seal_trial
from storage.sources import delete_study
from storage.statements import Statement
from storage.trial_rows import (
    FINISHED,
    TrialRow,
    beside_trial,
    count_trials_locking,
    finished_columns,
    insert_study,
    is_unfinished,
    lock_study_of,
    lock_trial,
    made_by,
    no_study,
    reported,
    set_attribute,
    study_made_by,
)

SPACE_ATTRIBUTE = "hindsight:space"  # study system attribute: the declared search space
LATE_RESULTS_ATTRIBUTE = "hindsight:late_results"  # trial system attribute: what refused attempts brought
NOTES_ATTRIBUTE = "hindsight:notes"  # trial system attribute: how it ran, where that is not as asked
STOPPED_ATTRIBUTE = "hindsight:stopped"  # study user attribute: why it ended early, with how many trials "started"
MAX_ATTEMPTS = 3  # heuristic: a trial that took three workers with it is at fault itself
MOST_LATE_RESULTS = 3  # of one attempt, from each who tells a service (heuristic: one is to be expected)


@dataclass(frozen=True, kw_only=True)
class Claim:
    """The right to work on a trial."""

    trial_id: int
    number: int  # of the trial within its study
    attempt: int  # 1, 2, ...: valid until somebody else is given the next one


@retried_call
def create_study(
    store: Store,
    call: Call,
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
    doer: Doer | None = None,
) -> int:
    """Create a study, and its task where that is new; returns the study's id. doer: who is logged to have done it.

    A metric without a task makes the study a task of its own.
    Raises StudyExistsError; StorageError when the task is known with the opposite direction; PrivacyError where what is
    searched over must not be stored.
    """
    privacy = current()
    for parameter, fields in (space or {}).items():
        privacy.check_searched(parameter, fields.get("choices"))
    spec = None if spec is None else privacy.study_file(spec)
    provenance = None if provenance is None else privacy.document(provenance)
    with store.write() as connection:
        made = study_made_by(connection, call, name)
        if made is not None:
            return made
        task_id = None
        if task is not None or metric is not None:
            task_id = task_id_for(store, connection, task or name, metric or "value", directions[0])
        study_id = insert_study(
            connection,
            name,
            directions,
            created_at=call.at,
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
        about = {"study_id": study_id, "trial_id": None, "attempt": None}
        _TELL_OF_STUDY.run(connection, kind="study_started", payload="{}", created_at=call.at, **about)
        note_within(connection, doer, f"study {study_id}")
        begin_chains(connection, [study_id])
    return study_id


@retried
def set_mlflow_uri(store: Store, study_id: int, uri: str | None) -> None:
    """Follow a study in another MLflow from now on, or in none. Raises StudyNotFoundError.

    What has not arrived yet goes to the new one; with none it is kept until there is one again.
    """
    with store.write() as connection:
        changed = connection.execute(update(studies).where(studies.c.id == study_id).values(mlflow_uri=uri))
        if changed.rowcount == 0:
            raise no_study(study_id)


@retried_call
def delete_study_without_results(store: Store, call: Call, name: str) -> bool:
    """Delete a study in which no trial is complete or pruned; returns whether it did.

    It does not while somebody holds the lease of a trial in it, or a service is to run it. A task that no study is left
    of goes too, and what MLflow has yet to be told. Raises StudyNotFoundError.
    """
    with store.write() as connection:
        study = connection.execute(_STUDY_NAMED, {"name": name}).first()
        if study is None:
            if call.is_repeated:
                return True
            raise StudyNotFoundError.named(name, connection.execute(select(studies.c.name)).scalars())
        if any(
            connection.execute(query, {"study_id": study.id}).first() for query in (_IS_WORTH_KEEPING, _IS_LAUNCHED)
        ):
            return False
        delete_study(connection, study.id)
        return True


@retried_call
def claim_trial(
    store: Store,
    call: Call,
    study_id: int,
    *,
    worker: str,
    lease_seconds: float,
    max_trials: int | None,
    max_attempts: int = MAX_ATTEMPTS,
    holding: Collection[int] | None = None,
    request: str | None = None,
    may_start: MayStart | None = None,
) -> Claim | None:
    """Claim the next trial: one whose lease ended, else the oldest waiting, else a new one; None when all are taken.

    What the worker itself holds is not taken from it, even if its lease ended while the machine was suspended.
    `holding` are the ids of the trials that it knows to be its own: what it was given besides, by a claim whose reply
    it never got, is reclaimed as anybody's; None: it knows all. A trial whose `max_attempts`th lease ended is given
    up: it fails with that as the reason. No trial is started once `max_trials` run or are finished. Trials that run
    without a lease, as plain Optuna's do, are left alone. `request` names the claim: what was given to the same
    request and still runs is given again, for who repeats it got no answer. `may_start` is asked last: None where
    it says no.
    """
    worker = current().worker(worker)
    with store.write() as connection:
        number_of_trials = count_trials_locking(connection, study_id)
        made = made_by(connection, study_id, call)
        if made is not None:
            return Claim(trial_id=made.id, number=made.number, attempt=made.attempt)
        given = None
        if request is not None:
            given = _GIVE_AGAIN.run(connection, study_id=study_id, call_id=request, seconds=lease_seconds).first
        if given is not None:
            return Claim(trial_id=given.id, number=given.number, attempt=given.attempt)
        for trial in _EXPIRED.run(connection, study_id=study_id).rows:
            if trial.worker != worker or (holding is not None and trial.id not in holding):
                _requeue(store, connection, call, trial, reason="its lease ended", max_deaths=max_attempts)
        if _is_spent(connection, study_id, number_of_trials, max_trials):
            return None
        if may_start is not None and not may_start(connection):
            return None
        terms = {"worker": worker, "seconds": lease_seconds, "started_at": call.at, "call_id": request or call.id}
        waiting = _OLDEST_WAITING.run(connection, study_id=study_id).first
        if waiting is not None:
            given = _CLAIM.run(connection, trial_id=waiting.id, **terms).rows[0]
            if given.attempt > 1:
                connection.execute(delete(intermediate_values).where(intermediate_values.c.trial_id == waiting.id))
        elif max_trials is None or number_of_trials < max_trials:
            given = _CLAIM_NEW.run(connection, study_id=study_id, number=number_of_trials, **terms).rows[0]
        else:
            return None
        return Claim(trial_id=given.id, number=given.number, attempt=given.attempt)


@retried
def extend_leases(store: Store, claims: Iterable[Claim], *, worker: str, lease_seconds: float) -> set[int]:
    """Extend the leases; returns the ids of the trials that are still ours. The others must be stopped."""
    worker = current().worker(worker)
    held = [(claim.trial_id, claim.attempt) for claim in claims]
    if not held:
        return set()
    with store.write(durable=False) as connection:
        ours = connection.execute(
            select(trials.c.id)
            .where(tuple_(trials.c.id, trials.c.attempt).in_(held), trials.c.worker == worker, _is_running)
            .order_by(trials.c.id)
            .with_for_update()
        )
        ids = set(ours.scalars())
        lease_until = database_now() + lease_seconds
        connection.execute(update(trials).where(trials.c.id.in_(ids)).values(lease_until=lease_until))
        return ids


@retried_call
def release_trial(
    store: Store, call: Call, claim: Claim, *, reason: str, counts: bool = False, max_attempts: int = MAX_ATTEMPTS
) -> bool:
    """Give a claimed trial back to the queue, as when the user interrupts; returns whether it will be tried again.

    `counts`: the trial's process died. At the `max_attempts`th death it fails instead of waiting.
    Raises StaleAttemptError.
    """
    with store.write() as connection:
        if call.is_repeated:
            lock_study_of(connection, claim.trial_id)
        trial = lock_trial(connection, claim.trial_id)
        if call.is_repeated and trial.attempt == claim.attempt and trial.worker is None:
            return bool(trial.state == TrialState.WAITING.value)
        if not _holds(trial, claim):
            raise _stale(trial, claim)
        max_deaths = max_attempts if counts else None
        return _requeue(store, connection, call, trial, reason=reason, max_deaths=max_deaths)


@retried
def study_of_request(store: Store, study_ids: Collection[int], request: str) -> int | None:
    """Which of the studies has a trial that runs and was claimed by this request; None: none has."""
    asked = select(trials.c.study_id).where(
        trials.c.study_id.in_(study_ids),
        *(_is_running, is_unfinished, trials.c.lease_until.is_not(None), trials.c.call_id == request),
    )
    with store.read() as connection:
        found = connection.scalar(asked.limit(1))
    return None if found is None else int(found)


@retried_call
def requeue_expired(store: Store, call: Call, study_id: int, *, max_attempts: int = MAX_ATTEMPTS) -> int:
    """Requeue the trials of a study whose leases have ended, whoever has them; returns how many that were."""
    with store.write() as connection:
        count_trials_locking(connection, study_id)
        expired = _EXPIRED.run(connection, study_id=study_id).rows
        for trial in expired:
            _requeue(store, connection, call, trial, reason="its lease ended", max_deaths=max_attempts)
        return len(expired)


@retried_call
def reclaim_dead_workers(
    store: Store, call: Call, study_id: int, is_alive: Callable[[str], bool], *, max_attempts: int = MAX_ATTEMPTS
) -> int:
    """Requeue at once what workers hold that are known to be dead; returns how many trials that were."""
    with store.write() as connection:
        count_trials_locking(connection, study_id)
        leased = _LEASED.run(connection, study_id=study_id).rows
        dead = {worker for worker in {trial.worker for trial in leased} if not is_alive(worker)}
        orphans = [trial for trial in leased if trial.worker in dead]
        for trial in orphans:
            _requeue(store, connection, call, trial, reason="its worker died", max_deaths=max_attempts)
        return len(orphans)


@retried_call
def start_trial(
    store: Store,
    call: Call,
    claim: Claim,
    *,
    params: Mapping[str, Any],
    seed: int | None = None,
    code_version: str | None = None,
    data_fingerprint: str | None = None,
    hardware: str | None = None,
) -> None:
    """Note what an attempt is about to train, and with what. Raises StaleAttemptError."""
    privacy = current()
    params = privacy.params(params)
    provenance = {
        "seed": seed,
        "code_version": privacy.text(code_version),
        "data_fingerprint": data_fingerprint,
        "hardware": privacy.text(hardware),
    }
    with store.write() as connection:
        if not _START.run(connection, trial_id=claim.trial_id, attempt=claim.attempt, **provenance).changed:
            raise _refusal(connection, claim)
        tell_of_trial(connection, call, claim, "run_started", {"params": dict(params), **provenance})


@retried_call
def report(
    store: Store,
    call: Call,
    claim: Claim,
    *,
    step: int,
    value: float | None,
    metrics: Mapping[str, float] | None = None,
) -> None:
    """Note the metric, where it was logged, and what else was, at a step. Raises StaleAttemptError."""
    told = {"step": step, "metrics": dict(metrics or {})}
    with store.write(durable=store.may_crash_alone) as connection:
        attempt = {"trial_id": claim.trial_id, "attempt": claim.attempt}
        if value is None:
            is_current = connection.execute(_CURRENT, attempt).first() is not None
        else:
            is_current = bool(_REPORT.run(connection, step=step, value=reported(value), **attempt).changed)
        if not is_current:
            raise _refusal(connection, claim)
        tell_of_trial(connection, call, claim, "metrics", told)


@retried_call
def finish_trial(
    store: Store,
    call: Call,
    claim: Claim,
    *,
    state: TrialState,
    value: float | None,
    more_values: Sequence[float] = (),
    measured: Mapping[str, float] | None = None,
    notes: Sequence[str] = (),
    cost_seconds: float | None = None,
    epochs: int | None = None,
    peak_memory_bytes: int | None = None,
    checkpoint: str | None = None,
    error: str | None = None,
    finished_at: float | None = None,
    teller: str | None = None,
) -> None:
    """Record the outcome of an attempt, once. Saying the same again is fine: it may be repeated until it is in.

    more_values: of further objectives. measured: what else is known of it, by name: kept as user attributes of the
    trial, and told MLflow. notes: how it ran, where that is not as asked; kept and told likewise. finished_at: when it
    ended, in seconds since the epoch; None: now. teller: the owner of the worker that tells a service; None: no such.
    Raises ValueError for a NaN or a missing value; StaleAttemptError when the attempt is not the trial's current one:
    then the outcome is kept as a late result, unless this teller has brought several.
    """
    privacy = current()
    measured, notes = privacy.attributes(measured or {}), [str(privacy.text(note)) for note in notes]
    values = None if value is None else [value, *more_values]
    columns = finished_columns(state, values, finished_at or call.at) | {
        "cost_seconds": cost_seconds,
        "epochs": epochs,
        "peak_memory_bytes": peak_memory_bytes,
        "checkpoint": privacy.path(checkpoint),
        "error": _without_nul(privacy.text(error)),
    }
    with store.write() as connection:
        if call.is_repeated:
            lock_study_of(connection, claim.trial_id)
        finished = _FINISH.run(connection, trial_id=claim.trial_id, attempt=claim.attempt, **columns).first
        if finished is not None:
            note_change(store, connection, finished.study_id)
            for name, number in measured.items():
                set_attribute(store, connection, trial_attributes, claim.trial_id, kind="user", key=name, value=number)
            if notes:
                about = (trial_attributes, claim.trial_id)
                set_attribute(store, connection, *about, kind="system", key=NOTES_ATTRIBUTE, value=notes)
            told = {name: columns[name] for name in TOLD_AT_THE_END}
            told |= {"measured": measured, "notes": notes}
            outcome = {"status": mlflow_status(state), "state": state.name, **told}
            tell_of_trial(connection, call, claim, "run_finished", outcome)
            seal_trial(connection, claim.trial_id)
            return
        trial = lock_trial(connection, claim.trial_id)
        if _is_repeated(trial, claim, state, value):
            return
        late = {"attempt": claim.attempt, "state": state.name, "value": value, "received_at": call.at}
        beside = {name: columns[name] for name in TOLD_OF_LATE} | {"measured": measured, "notes": notes}
        late |= {name: told for name, told in beside.items() if told not in (None, {}, [])}
        _keep_late_result(store, connection, trial, late, teller=teller)
    raise _stale(trial, claim)


@retried_call
def refuse_outcome(
    store: Store, call: Call, claim: Claim, *, state: TrialState, value: float | None, teller: str
) -> NoReturn:
    """Keep the value that came for somebody else's trial as a late result, if few are. Raises StaleAttemptError."""
    with store.write() as connection:
        trial = lock_trial(connection, claim.trial_id)
        is_kept = value is not None and not _is_repeated(trial, claim, state, value)
        if is_kept:
            late = {"attempt": claim.attempt, "state": state.name, "value": value, "received_at": call.at}
            is_kept = _keep_late_result(store, connection, trial, {**late, "is_strangers": True}, teller=teller)
    kept = "; the value that came for it is kept as late" if is_kept else ""
    raise StaleAttemptError(f"Trial {claim.number} is with a worker of somebody else{kept}.")


@retried
def check_attempt(store: Store, claim: Claim) -> None:
    """Raises StaleAttemptError, or TrialNotFoundError, unless the attempt is the trial's current one."""
    if not store.fetch(_IS_CURRENT, trial_id=claim.trial_id, attempt=claim.attempt):
        with store.write(durable=False) as connection:
            raise _refusal(connection, claim)


@retried
def holder_of(store: Store, claim: Claim) -> str | None:
    """The worker of an attempt that is the trial's latest; None where it is not, or where nobody has the trial."""
    found = store.fetch(_HOLDER, trial_id=claim.trial_id, attempt=claim.attempt)
    return found[0].worker if found else None


@retried
def running_attempts(store: Store, study_id: int) -> set[tuple[int, int]]:
    """Which trials of a study run, by number, each with its attempt; also where the lease of that has ended."""
    return {(row.number, row.attempt) for row in store.fetch(_RUNNING_ATTEMPTS, study_id=study_id)}


@retried
def count_running(store: Store, study_id: int) -> int:
    """How many trials of a study run."""
    return int(store.fetch(_RUNNING, study_id=study_id)[0].running)


# How it is done

TOLD_OF_LATE = ("finished_at", "cost_seconds", "epochs", "peak_memory_bytes", "checkpoint")
TOLD_AT_THE_END = ("value", *TOLD_OF_LATE, "error")

_in_study = trials.c.study_id == bindparam("study_id")
_is_running = trials.c.state == TrialState.RUNNING.value
# `is_unfinished` is said besides, and behind: only so does SQLite see that there is an index, and use it for one state
_waits_in_study = and_(_in_study, trials.c.state == TrialState.WAITING.value, is_unfinished)
_is_leased = and_(_in_study, _is_running, is_unfinished, trials.c.lease_until.is_not(None))
_is_the_attempt = and_(trials.c.id == bindparam("trial_id"), _is_running, trials.c.attempt == bindparam("attempt"))
_claimed = {
    "state": TrialState.RUNNING.value,
    "worker": bindparam("worker"),
    "lease_until": database_now() + bindparam("seconds", type_=Double),
    "started_at": bindparam("started_at", type_=Double),
    "call_id": bindparam("call_id"),
    "error": None,
}

_IS_CURRENT = Statement(select(trials.c.id).where(_is_the_attempt))
_HOLDER = Statement(
    select(trials.c.worker).where(trials.c.id == bindparam("trial_id"), trials.c.attempt == bindparam("attempt"))
)
_RUNNING = Statement(select(func.count().label("running")).where(_in_study, _is_running, is_unfinished))
_RUNNING_ATTEMPTS = Statement(select(trials.c.number, trials.c.attempt).where(_in_study, _is_running, is_unfinished))
_held = select(trials.c.id, trials.c.study_id, trials.c.attempt, trials.c.deaths, trials.c.worker).where(_is_leased)
_LEASED = Statement(_held.order_by(trials.c.id).with_for_update())
_now = select(database_now()).scalar_subquery()  # asked once, not for each row
_EXPIRED = Statement(_held.where(trials.c.lease_until < _now).order_by(trials.c.id).with_for_update())
_MORE_WAIT_THAN = Statement(
    select(trials.c.id).where(_waits_in_study).limit(1).offset(bindparam("many", type_=Integer))
)
_OLDEST_WAITING = Statement(
    select(trials.c.id)
    .where(_waits_in_study)
    .order_by(trials.c.id)
    .limit(1)
    .with_for_update(skip_locked=True)  # plain Optuna may be starting it
)
_given = (trials.c.id, trials.c.number, trials.c.attempt)
_GIVE_AGAIN = Statement(
    update(trials)
    .where(_is_leased, trials.c.call_id == bindparam("call_id"))
    .values(lease_until=_claimed["lease_until"])
    .returning(*_given)
)
_CLAIM = Statement(
    update(trials)
    .where(trials.c.id == bindparam("trial_id"))
    .values(attempt=trials.c.attempt + 1, **_claimed)
    .returning(*_given)
)
_CLAIM_NEW = Statement(
    insert(trials)
    .values(study_id=bindparam("study_id"), number=bindparam("number"), attempt=1, **_claimed)
    .returning(*_given)
)
_END_ATTEMPT = Statement(
    update(trials)
    .where(trials.c.id == bindparam("trial_id"))
    .values(
        state=bindparam("state"),
        finished_at=bindparam("finished_at", type_=Double),
        deaths=bindparam("deaths"),
        error=bindparam("error"),
        worker=None,
        lease_until=None,
        call_id=None,
    )
)
_START = Statement(
    update(trials)
    .where(_is_the_attempt)
    .values({name: bindparam(name) for name in ("seed", "code_version", "data_fingerprint", "hardware")})
)
_CURRENT = select(trials.c.id).where(_is_the_attempt).with_for_update(key_share=True)
_REPORT = beside_trial(intermediate_values, _is_running, trials.c.attempt == bindparam("attempt"))
_FINISH = Statement(
    update(trials)
    .where(_is_the_attempt)
    .values(
        **FINISHED,
        cost_seconds=bindparam("cost_seconds", type_=Double),
        **{name: bindparam(name) for name in ("epochs", "peak_memory_bytes", "checkpoint", "error")},
    )
    .returning(trials.c.study_id)
)
_STUDY_NAMED = (
    select(studies.c.id, studies.c.name, studies.c.created_at, studies.c.task_id)
    .where(studies.c.name == bindparam("name"))
    .with_for_update(key_share=True)
)
_has_result = trials.c.state.in_([TrialState.COMPLETE.value, TrialState.PRUNED.value])
_IS_WORTH_KEEPING = (
    select(trials.c.id)
    .where(_in_study, or_(_has_result, and_(_is_running, trials.c.lease_until >= database_now())))
    .limit(1)
)
_IS_LAUNCHED = select(launches.c.study_id).where(
    launches.c.study_id == bindparam("study_id"), launches.c.state.in_(["queued", "running", "paused"])
)


def _message(about: ColumnElement[bool]) -> Statement:
    """A statement that leaves a message about a study, or about a trial of it, if it is followed in MLflow."""
    said = ("trial_id", "attempt", "kind", "payload", "created_at")
    values = (bindparam(name, type_=outbox.c[name].type) for name in said)
    row = select(studies.c.id, *values).where(about, studies.c.mlflow_uri.is_not(None))
    return Statement(insert(outbox).from_select(["study_id", *said], row))


_TELL_OF_STUDY = _message(studies.c.id == bindparam("study_id"))
_TELL_OF_TRIAL = _message(
    studies.c.id == select(trials.c.study_id).where(trials.c.id == bindparam("trial_id")).scalar_subquery()
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


def _holds(trial: TrialRow, claim: Claim) -> bool:
    return bool(trial.state == TrialState.RUNNING.value and trial.attempt == claim.attempt)


def _is_repeated(trial: TrialRow, claim: Claim, state: TrialState, value: float | None) -> bool:
    return (trial.attempt, trial.state, trial.value) == (claim.attempt, state.value, value)


def _refusal(connection: Connection, claim: Claim) -> StaleAttemptError:
    """Why a claim is not good any more. Raises TrialNotFoundError."""
    return _stale(lock_trial(connection, claim.trial_id), claim)


def _stale(trial: TrialRow, claim: Claim) -> StaleAttemptError:
    now = TrialState(trial.state).name
    return StaleAttemptError(
        f"Attempt {claim.attempt} at trial {claim.number} is not the current one: "
        f"the trial is {now}, attempt {trial.attempt}."
    )


def _is_spent(connection: Connection, study_id: int, number_of_trials: int, max_trials: int | None) -> bool:
    """Whether `max_trials` run or are finished."""
    if max_trials is None or number_of_trials < max_trials:
        return False
    return not _MORE_WAIT_THAN.run(connection, study_id=study_id, many=number_of_trials - max_trials).rows


def _requeue(
    store: Store, connection: Connection, call: Call, trial: TrialRow, *, reason: str, max_deaths: int | None
) -> bool:
    """End an attempt without an outcome: back into the queue, or given up after so many deaths; None: it is no death.

    Returns whether it is back in the queue.
    """
    deaths = trial.deaths + (max_deaths is not None)
    is_given_up = max_deaths is not None and deaths >= max_deaths
    if is_given_up:
        reason = f"gave up after {deaths} attempts: {reason}"
    state = TrialState.FAIL if is_given_up else TrialState.WAITING
    outcome = {"state": state.value, "finished_at": call.at if is_given_up else None}
    error = _without_nul(current().text(reason))
    _END_ATTEMPT.run(connection, trial_id=trial.id, deaths=deaths, error=error, **outcome)
    if is_given_up:
        note_change(store, connection, trial.study_id)
        seal_trial(connection, trial.id)
    attempt = Claim(trial_id=trial.id, number=-1, attempt=trial.attempt)
    tell_of_trial(connection, call, attempt, "run_finished", {"status": "KILLED", "state": state.name, "error": error})
    return not is_given_up


def _keep_late_result(
    store: Store, connection: Connection, trial: TrialRow, late: Mapping[str, Any], *, teller: str | None
) -> bool:
    """Whether it is kept: not of an attempt that there never was, nor beside others of the same attempt and teller."""
    if late["attempt"] > trial.attempt:
        return False
    known = connection.execute(
        select(trial_attributes.c.value).where(
            trial_attributes.c.trial_id == trial.id,
            trial_attributes.c.kind == "system",
            trial_attributes.c.key == LATE_RESULTS_ATTRIBUTE,
        )
    ).scalar()
    results = json.loads(known or "[]")
    like = [each for each in results if (each["attempt"], each.get("teller")) == (late["attempt"], teller)]
    if any((each["state"], each["value"]) == (late["state"], late["value"]) for each in like):
        return True  # said again
    if teller is not None and len(like) >= MOST_LATE_RESULTS:
        return False
    results.append({**late} if teller is None else {**late, "teller": teller})
    key = LATE_RESULTS_ATTRIBUTE
    set_attribute(store, connection, trial_attributes, trial.id, kind="system", key=key, value=results)
    if trial.state not in UNFINISHED:
        seal_trial(connection, trial.id)
    return True


def tell_of_trial(connection: Connection, call: Call, claim: Claim, kind: str, payload: Mapping[str, Any]) -> None:
    """Leave a message about an attempt in the outbox, if the study is followed in MLflow."""
    attempt = {"trial_id": claim.trial_id, "attempt": claim.attempt}
    _TELL_OF_TRIAL.run(connection, kind=kind, payload=json.dumps(payload), created_at=call.at, **attempt)


def mlflow_status(state: TrialState) -> str:
    """What MLflow calls it that an attempt ended so."""
    return "FAILED" if state == TrialState.FAIL else "FINISHED"


def _without_nul(text: str | None) -> str | None:
    return None if text is None else text.replace("\0", "")  # PostgreSQL's text cannot hold it


def _json_or_none(value: Any) -> str | None:
    return None if value is None else json.dumps(value)
