"""May a value that came too late count after all, where no other has come? By somebody's word, and as one trial.

A worker whose lease has ended is refused, and what it brought is kept beside its trial (`storage.studies`). A trial
that waits to be tried again ends with the value. One that has failed stays as it is, for what is finished never
changes, and whoever has read it reads it no more: the value counts as one more trial of the study, with the same
configuration. What a study was before, it stays: one that was stopped is not taken to have gone on.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from optuna.trial import TrialState
from sqlalchemy import Connection, delete, func, insert, select, update

from storage.audit import Doer, note_within
from storage.database import Store
from storage.distributions import ParameterSets
from storage.errors import StorageError, StudyNotFoundError, TrialNotFoundError
from storage.families import note_change
from storage.models import intermediate_values, studies, study_attributes, tasks, trial_attributes, trials
from storage.retries import Call, retried_call
from storage.seals import seal_trial
from storage.studies import (
    LATE_RESULTS_ATTRIBUTE,
    NOTES_ATTRIBUTE,
    STOPPED_ATTRIBUTE,
    TOLD_AT_THE_END,
    Claim,
    mlflow_status,
    tell_of_trial,
)
from storage.trial_rows import count_trials_locking, finished_columns, insert_trial, set_attribute

LATE_RESULT_OF = "hindsight:late_result_of"  # trial system attribute: "trial" and "attempt" whose late value it has
COUNTS_AS = "counts_as"  # of a late result: the number of the trial by which it counts
NOT_COPIED = {LATE_RESULTS_ATTRIBUTE, LATE_RESULT_OF}
MAY_COUNT = (TrialState.FAIL, TrialState.WAITING)  # trials without a value, that nobody trains
_PROVENANCE = ("seed", "code_version", "data_fingerprint", "hardware")


@dataclass(frozen=True, kw_only=True)
class LateResult:
    """What an attempt brought that had lost its trial."""

    attempt: int
    state: TrialState
    value: float | None
    teller: str | None  # the owner of the worker that told it to a service
    received_at: float  # in seconds since the epoch, as finished_at
    finished_at: float
    counts_as: int | None  # the number of the trial by which it counts; None: it does not
    is_strangers: bool = False  # whoever told it was not the owner of the worker that had the attempt
    cost_seconds: float | None = None
    epochs: int | None = None
    peak_memory_bytes: int | None = None
    checkpoint: str | None = None
    measured: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()

    @property
    def has_value(self) -> bool:
        """Whether there is anything that may count."""
        is_result = self.state in (TrialState.COMPLETE, TrialState.PRUNED)
        return is_result and self.value is not None and math.isfinite(self.value)

    @property
    def started_at(self) -> float | None:
        """When its training began, by what it cost, where that can be."""
        began = self.finished_at - (math.inf if self.cost_seconds is None else self.cost_seconds)
        return began if began >= 0.0 else None

    @property
    def has_model(self) -> bool:
        """Whether its checkpoint lies on this machine."""
        return self.checkpoint is not None and Path(self.checkpoint).is_absolute() and Path(self.checkpoint).exists()


def late_results_of(system_attrs: Mapping[str, Any]) -> list[LateResult]:
    """Those of a trial, as they came."""
    return [
        LateResult(
            attempt=told["attempt"],
            state=TrialState[told["state"]],
            value=told["value"],
            teller=told.get("teller"),
            received_at=told["received_at"],
            finished_at=told.get("finished_at", told["received_at"]),
            counts_as=told.get(COUNTS_AS),
            is_strangers=told.get("is_strangers", False),
            cost_seconds=told.get("cost_seconds"),
            epochs=told.get("epochs"),
            peak_memory_bytes=told.get("peak_memory_bytes"),
            checkpoint=told.get("checkpoint"),
            measured=told.get("measured", {}),
            notes=told.get("notes", ()),
        )
        for told in system_attrs.get(LATE_RESULTS_ATTRIBUTE) or ()
    ]


def teller_of(number: int, system_attrs: Mapping[str, Any]) -> str | None:
    """The owner who told a service the late value that a trial has; None where nobody did, or it has none."""
    mark = system_attrs.get(LATE_RESULT_OF)
    if mark is not None:
        told: str | None = mark.get("teller")
        return told
    return next((late.teller for late in late_results_of(system_attrs) if late.counts_as == number), None)


@retried_call
def accept_late_result(
    store: Store, call: Call, study_id: int, number: int, *, place: int | None = None, doer: Doer | None = None
) -> int:
    """Let a late result of a trial count, one of each trial; returns the number of the trial by which it does.

    place: which of them, from 1; None: the only one with a value, unless a stranger to the attempt told it. doer: who
    says so, for the log.
    Raises StudyNotFoundError, TrialNotFoundError; StorageError where none may count, or it is not said which.
    """
    with store.write() as connection:
        next_number = count_trials_locking(connection, study_id)
        study = connection.execute(select(studies).where(studies.c.id == study_id)).first()
        if study is None:
            raise StudyNotFoundError(f"There is no study with id {study_id}.")
        trial = connection.execute(
            select(trials).where(trials.c.study_id == study_id, trials.c.number == number).with_for_update()
        ).first()
        if trial is None:
            raise TrialNotFoundError(f"There is no trial {number} in study {study.name!r}; it has {next_number}.")
        attributes = _system_attributes(connection, trial.id)
        what = f"trial {number} of study {study.name!r}"
        found = late_results_of(attributes)
        counted = next((late.counts_as for late in found if late.counts_as is not None), None)
        if counted is not None and call.is_repeated:
            return counted  # and its reply was lost
        chosen = _chosen(found, place, what)
        _check(trial, study, counted, what)
        late = found[chosen]
        if trial.state == TrialState.WAITING.value:
            counts_as, added = number, None
            _finish(store, connection, trial, late)
            claim = Claim(trial_id=trial.id, number=number, attempt=late.attempt)
        else:
            counts_as, added = next_number, _add(store, connection, trial, late, number=next_number)
            claim = Claim(trial_id=added, number=next_number, attempt=1)
            if study.mlflow_uri is not None:
                _tell_of_course(connection, call, claim, trial, late)
        told = list(attributes[LATE_RESULTS_ATTRIBUTE])
        told[chosen] = {**told[chosen], COUNTS_AS: counts_as}
        about = (trial_attributes, trial.id)
        set_attribute(store, connection, *about, kind="system", key=LATE_RESULTS_ATTRIBUTE, value=told)
        tell_of_trial(connection, replace(call, at=late.finished_at), claim, "run_finished", _outcome(late))
        _keep_stopped(store, connection, study_id)
        note_change(store, connection, study_id)
        for trial_id in (trial.id, added) if added is not None else (trial.id,):
            seal_trial(connection, trial_id)
        details = {"trial": number, **_identity(late), "value": late.value, COUNTS_AS: counts_as}
        note_within(connection, doer, study.name, details=details)
    return counts_as


def _system_attributes(connection: Connection, trial_id: int) -> dict[str, Any]:
    query = select(trial_attributes.c.key, trial_attributes.c.value).where(
        trial_attributes.c.trial_id == trial_id, trial_attributes.c.kind == "system"
    )
    return {key: json.loads(value) for key, value in connection.execute(query)}


def _chosen(found: Sequence[LateResult], place: int | None, what: str) -> int:
    """Which of them is meant, from 0. Raises StorageError."""
    usable = [at for at, late in enumerate(found) if late.has_value]
    if not usable:
        raise StorageError(f"There is no late value of {what}: none has come, or what came was no number.")
    words = ", ".join(f"{at + 1} ({_in_words(found[at])})" for at in usable)
    if place is None and len(usable) > 1:
        raise StorageError(f"There are {len(usable)} late values of {what}; say which is to count: {words}.")
    if place is None and found[usable[0]].is_strangers:
        raise StorageError(
            f"The late value of {what} is from somebody who never had it; to let it count, say which: {words}."
        )
    chosen = usable[0] if place is None else place - 1
    if chosen not in usable:
        raise StorageError(f"There is no late value {place} of {what}; there is {words}.")
    return chosen


def _in_words(late: LateResult) -> str:
    told = [] if late.teller is None else [f"told by {late.teller}" + ", a stranger to it" * late.is_strangers]
    model = [] if late.has_model else ["no model"]
    return ", ".join([f"{late.value:g}", f"attempt {late.attempt}", *told, *model])


def _identity(late: LateResult) -> dict[str, Any]:
    """Whose it is, for the log and the trial that has it."""
    told = {} if late.teller is None else {"teller": late.teller}
    return {"attempt": late.attempt, **told}


def _check(trial: Any, study: Any, counted: int | None, what: str) -> None:
    """Raises StorageError where no late result of the trial may count. counted: as which trial one does."""
    if counted is not None:
        raise StorageError(f"A late value of {what} counts already, as trial {counted}; one may.")
    if len(json.loads(study.directions)) > 1:
        raise StorageError(
            f"Study {study.name!r} has {len(json.loads(study.directions))} objectives, and of a late result "
            "the value of the first was kept: it cannot count."
        )
    state = TrialState(trial.state)
    if state not in MAY_COUNT:
        why = "it is being trained" if state == TrialState.RUNNING else f"it is {state.name.lower()}, with its own"
        raise StorageError(f"No late value of {what} may count beside another: {why}.")


def _finish(store: Store, connection: Connection, trial: Any, late: LateResult) -> None:
    """End a trial that waits to be tried again."""
    columns = _columns(late) | {"worker": None, "lease_until": None, "call_id": None, "error": None}
    connection.execute(update(trials).where(trials.c.id == trial.id).values(columns))
    if not _has_curve(trial, late):
        connection.execute(delete(intermediate_values).where(intermediate_values.c.trial_id == trial.id))
    _note_measured(store, connection, trial.id, late)


def _add(store: Store, connection: Connection, trial: Any, late: LateResult, *, number: int) -> int:
    """One more trial, with what belongs to the attempt; its id."""
    copied = {name: getattr(trial, name) for name in ("parameter_set_id", "configuration", *_PROVENANCE)}
    trial_id = insert_trial(connection, trial.study_id, number, attempt=1, **copied, **_columns(late))
    beside = select(trial_attributes).where(
        trial_attributes.c.trial_id == trial.id, trial_attributes.c.key.not_in(NOT_COPIED)
    )
    rows = [{**row._mapping, "trial_id": trial_id} for row in connection.execute(beside)]
    if rows:
        connection.execute(insert(trial_attributes), rows)
    if _has_curve(trial, late):
        points = [{**point._mapping, "trial_id": trial_id} for point in _curve(connection, trial.id)]
        if points:
            connection.execute(insert(intermediate_values), points)
    _note_measured(store, connection, trial_id, late)
    mark = {"trial": trial.number, **_identity(late)}
    set_attribute(store, connection, trial_attributes, trial_id, kind="system", key=LATE_RESULT_OF, value=mark)
    return trial_id


def _has_curve(trial: Any, late: LateResult) -> bool:
    """Whether what the trial has reported is of the attempt, and of who told its value."""
    return bool(late.attempt == trial.attempt) and not late.is_strangers


def _curve(connection: Connection, trial_id: int) -> Sequence[Any]:
    curve = select(intermediate_values).where(intermediate_values.c.trial_id == trial_id)
    return connection.execute(curve.order_by(intermediate_values.c.step)).all()


def _note_measured(store: Store, connection: Connection, trial_id: int, late: LateResult) -> None:
    about = (store, connection, trial_attributes, trial_id)
    for name, number in late.measured.items():
        set_attribute(*about, kind="user", key=name, value=number)
    if late.notes:
        set_attribute(*about, kind="system", key=NOTES_ATTRIBUTE, value=late.notes)


def _columns(late: LateResult) -> dict[str, Any]:
    assert late.value is not None
    names = ("started_at", "cost_seconds", "epochs", "peak_memory_bytes", "checkpoint")
    return finished_columns(late.state, [late.value], late.finished_at) | {name: getattr(late, name) for name in names}


def _keep_stopped(store: Store, connection: Connection, study_id: int) -> None:
    """A study that was stopped has not gone on with the trial that has ended now."""
    mine = (study_attributes.c.study_id == study_id, study_attributes.c.kind == "user")
    query = select(study_attributes.c.value).where(*mine, study_attributes.c.key == STOPPED_ATTRIBUTE)
    stopped = json.loads(connection.execute(query).scalar() or "null")
    if not isinstance(stopped, dict):
        return
    in_study = (trials.c.study_id == study_id, trials.c.state != TrialState.WAITING.value)
    started = connection.execute(select(func.count()).select_from(trials).where(*in_study)).scalar_one()
    if stopped.get("started") == started - 1:
        about, raised = (study_attributes, study_id), {**stopped, "started": started}
        set_attribute(store, connection, *about, kind="user", key=STOPPED_ATTRIBUTE, value=raised)


# What MLflow is told


def _tell_of_course(connection: Connection, call: Call, claim: Claim, trial: Any, late: LateResult) -> None:
    """How the added trial began, and what it reported."""
    known = ParameterSets().load(connection, [trial.parameter_set_id])
    params = known[trial.parameter_set_id or 0].decode(trial.configuration)
    began = {"params": params, **{name: getattr(trial, name) for name in _PROVENANCE}}
    ended = replace(call, at=late.finished_at)
    started = replace(call, at=late.finished_at if late.started_at is None else late.started_at)
    tell_of_trial(connection, started, claim, "run_started", began)
    metric = select(tasks.c.metric).join_from(studies, tasks).where(studies.c.id == trial.study_id)
    name = connection.execute(metric).scalar() or "value"
    for point in _curve(connection, claim.trial_id):
        if point.value is not None:
            told = {"step": point.step, "metrics": {name: point.value}}
            tell_of_trial(connection, ended, claim, "metrics", told)


def _outcome(late: LateResult) -> dict[str, Any]:
    told = dict.fromkeys(TOLD_AT_THE_END) | {name: getattr(late, name) for name in TOLD_AT_THE_END if name != "error"}
    told |= {"measured": dict(late.measured), "notes": list(late.notes)}
    return {"status": mlflow_status(late.state), "state": late.state.name, **told}
