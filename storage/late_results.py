"""May a value that came too late count after all, where no other has come? By somebody's word, and as one trial.

A worker whose lease has ended is refused, and what it brought is kept beside its trial (`storage.studies`). A trial
that waits to be tried again ends with the value. One that has failed stays as it is, for what is finished never
changes, and whoever has read it reads it no more: the value counts as one more trial of the study, with the same
configuration.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.trial import TrialState
from sqlalchemy import Connection, delete, insert, select, update

from storage.audit import Doer, note_within
from storage.database import Store
from storage.errors import StorageError, StudyNotFoundError, TrialNotFoundError
from storage.families import note_change
from storage.models import intermediate_values, studies, trial_attributes, trials
from storage.retries import Call, retried_call
from storage.seals import seal_trial
from storage.studies import LATE_RESULTS_ATTRIBUTE, TOLD_AT_THE_END, Claim, mlflow_status, tell_of_trial
from storage.trial_rows import count_trials_locking, finished_columns, insert_trial, set_attribute

LATE_RESULT_OF = "hindsight:late_result_of"  # trial system attribute: {"trial", "attempt"} whose late value it has
COUNTS_AS = "counts_as"  # of a late result: the number of the trial by which it counts
NOT_COPIED = {LATE_RESULTS_ATTRIBUTE, LATE_RESULT_OF}
MAY_COUNT = (TrialState.FAIL, TrialState.WAITING)  # trials without a value, that nobody trains
_COPIED = ("parameter_set_id", "configuration", "started_at", "seed", "code_version", "data_fingerprint", "hardware")


@dataclass(frozen=True, kw_only=True)
class LateResult:
    """What an attempt brought that had lost its trial."""

    attempt: int
    state: TrialState
    value: float | None
    teller: str | None  # the owner of the worker that told it to a service
    received_at: float  # in seconds since the epoch
    counts_as: int | None  # the number of the trial by which it counts; None: it does not

    @property
    def has_value(self) -> bool:
        """Whether there is anything that may count."""
        is_result = self.state in (TrialState.COMPLETE, TrialState.PRUNED)
        return is_result and self.value is not None and math.isfinite(self.value)


def late_results_of(system_attrs: Mapping[str, Any]) -> list[LateResult]:
    """Those of a trial, as they came."""
    return [
        LateResult(
            attempt=told["attempt"],
            state=TrialState[told["state"]],
            value=told["value"],
            teller=told.get("teller"),
            received_at=told["received_at"],
            counts_as=told.get(COUNTS_AS),
        )
        for told in system_attrs.get(LATE_RESULTS_ATTRIBUTE) or ()
    ]


@retried_call
def accept_late_result(
    store: Store, call: Call, study_id: int, number: int, *, place: int | None = None, doer: Doer | None = None
) -> int:
    """Let a late result of a trial count, one of each trial; returns the number of the trial by which it does.

    place: which of them, from 1; None: the only one with a value. doer: who says so, for the log.
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
            _finish(connection, trial, late)
        else:
            counts_as, added = next_number, _add(store, connection, trial, late, number=next_number)
        told = list(attributes[LATE_RESULTS_ATTRIBUTE])
        told[chosen] = {**told[chosen], COUNTS_AS: counts_as}
        about = (trial_attributes, trial.id)
        set_attribute(store, connection, *about, kind="system", key=LATE_RESULTS_ATTRIBUTE, value=told)
        claim = Claim(trial_id=trial.id, number=number, attempt=late.attempt)
        tell_of_trial(connection, call, claim, "run_finished", _outcome(late))
        note_change(store, connection, study_id)
        for trial_id in (trial.id, added) if added is not None else (trial.id,):
            seal_trial(connection, trial_id)
        details = {"attempt": late.attempt, "value": late.value, COUNTS_AS: counts_as}
        note_within(connection, doer, f"{study.name}#{number}", details=details)
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
    words = ", ".join(f"{at + 1} ({found[at].value:g}, attempt {found[at].attempt})" for at in usable)
    if place is None and len(usable) > 1:
        raise StorageError(f"There are {len(usable)} late values of {what}; say which is to count: {words}.")
    chosen = usable[0] if place is None else place - 1
    if chosen not in usable:
        raise StorageError(f"There is no late value {place} of {what}; there is {words}.")
    return chosen


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


def _finish(connection: Connection, trial: Any, late: LateResult) -> None:
    """End a trial that waits to be tried again."""
    columns = _columns(late) | {"worker": None, "lease_until": None, "call_id": None, "error": None}
    connection.execute(update(trials).where(trials.c.id == trial.id).values(columns))
    if late.attempt != trial.attempt:  # what was reported is another attempt's
        connection.execute(delete(intermediate_values).where(intermediate_values.c.trial_id == trial.id))


def _add(store: Store, connection: Connection, trial: Any, late: LateResult, *, number: int) -> int:
    """One more trial, with what belongs to the attempt; its id."""
    copied = {name: getattr(trial, name) for name in _COPIED}
    trial_id = insert_trial(connection, trial.study_id, number, attempt=1, **copied, **_columns(late))
    beside = select(trial_attributes).where(
        trial_attributes.c.trial_id == trial.id, trial_attributes.c.key.not_in(NOT_COPIED)
    )
    rows = [{**row._mapping, "trial_id": trial_id} for row in connection.execute(beside)]
    if rows:
        connection.execute(insert(trial_attributes), rows)
    if late.attempt == trial.attempt:
        curve = select(intermediate_values).where(intermediate_values.c.trial_id == trial.id)
        points = [{**row._mapping, "trial_id": trial_id} for row in connection.execute(curve)]
        if points:
            connection.execute(insert(intermediate_values), points)
    mark = {"trial": trial.number, "attempt": late.attempt}
    set_attribute(store, connection, trial_attributes, trial_id, kind="system", key=LATE_RESULT_OF, value=mark)
    return trial_id


def _columns(late: LateResult) -> dict[str, Any]:
    assert late.value is not None
    return finished_columns(late.state, [late.value], late.received_at)


def _outcome(late: LateResult) -> dict[str, Any]:
    """What MLflow is told of the attempt."""
    told = dict.fromkeys(TOLD_AT_THE_END) | {"value": late.value, "finished_at": late.received_at}
    return {"status": mlflow_status(late.state), "state": late.state.name, **told, "measured": {}, "notes": []}
