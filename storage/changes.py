"""What has changed in a study since one last looked? Asked often, so it costs no more than what runs.

Trials that run or wait are looked at, with how far they have reported, and those that are new; what is finished
changes no more. So a look takes the same time in a study of ten trials and in one of ten thousand.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from optuna.trial import TrialState
from sqlalchemy import ColumnElement, Connection, Integer, and_, bindparam, func, or_, select

from storage.database import Store
from storage.distributions import ParameterSets
from storage.history import TrialRecord, records_of
from storage.models import intermediate_values, launches, studies, trials
from storage.retries import retried
from storage.statements import Row, Statement
from storage.trial_rows import is_unfinished

MOST_TRIALS = 1_000  # that one look tells of: the newest


@dataclass(frozen=True, kw_only=True)
class Change:
    """What is new."""

    trials: list[TrialRecord]  # that began, reported, ended, or went back into the queue
    is_of_study: bool  # whether the counts of its trials have changed, or how it is run
    is_gone: bool = False  # it was deleted


class StudyChanges:
    """Looks at one study again and again. For one thread."""

    def __init__(self, store: Store, study_id: int, known: ParameterSets | None = None) -> None:
        self._store, self._study_id, self._sets = store, study_id, known or ParameterSets()
        self._last_number = -1
        self._unfinished: Mapping[int, Row] = {}  # by id: state, attempt, what it trains, last step
        self._run: Any = None  # how the service runs it
        self.look()

    def look(self) -> Change:
        """What has changed since the look before; the first one sees what runs as new."""
        return _look(self._store, self)

    def current(self, *, since: float | None = None) -> list[TrialRecord]:
        """The trials that run, and those that ended after a time, in seconds since the epoch."""
        return _current(self._store, self, since)


@retried
def _look(store: Store, seen: StudyChanges) -> Change:
    study_id = seen._study_id
    with store.read() as connection:
        study = connection.execute(_STUDY.where(studies.c.id == study_id)).first()
        if study is None:
            return Change(trials=[], is_of_study=True, is_gone=True)
        now = {row.id: row for row in _UNFINISHED.run(connection, study_id=study_id).rows}
        new = {
            row.id: row.number for row in _NEWER.run(connection, study_id=study_id, last_number=seen._last_number).rows
        }
        before, is_first = seen._unfinished, seen._run is None
        moved = {trial_id for trial_id, row in now.items() if before.get(trial_id) != row}
        ended = before.keys() - now.keys()
        if is_first:
            changed = {trial_id for trial_id, row in now.items() if row.state == TrialState.RUNNING.value}
        else:
            changed = moved | ended | new.keys()
        records = _records(connection, changed, seen._sets)
    counted = {trial_id for trial_id in moved if trial_id not in before or now[trial_id][:3] != before[trial_id][:3]}
    is_of_study = bool(counted or ended or new) or tuple(study) != seen._run
    seen._unfinished, seen._run = now, tuple(study)
    seen._last_number = max([seen._last_number, *new.values()])
    return Change(trials=records, is_of_study=is_of_study)


@retried
def _current(store: Store, seen: StudyChanges, since: float | None) -> list[TrialRecord]:
    in_study = trials.c.study_id == seen._study_id
    wanted: ColumnElement[bool] = and_(in_study, trials.c.state == TrialState.RUNNING.value, is_unfinished)
    if since is not None:
        wanted = or_(wanted, and_(in_study, trials.c.finished_at >= since))
    query = select(trials.c.id).where(wanted).order_by(trials.c.id.desc()).limit(MOST_TRIALS)
    with store.read() as connection:
        return _records(connection, connection.execute(query).scalars(), seen._sets)


_STUDY = select(studies.c.name, launches.c.state, launches.c.wanted, launches.c.message, launches.c.priority).join_from(
    studies, launches, isouter=True
)


_in_study = trials.c.study_id == bindparam("study_id")
_last_step = (
    select(func.max(intermediate_values.c.step)).where(intermediate_values.c.trial_id == trials.c.id).scalar_subquery()
)
_UNFINISHED = Statement(
    select(
        *(trials.c.id, trials.c.state, trials.c.attempt),
        *(trials.c.parameter_set_id, trials.c.seed, _last_step.label("step")),
    ).where(_in_study, is_unfinished)
)
_NEWER = Statement(
    select(trials.c.id, trials.c.number).where(_in_study, trials.c.number > bindparam("last_number", type_=Integer))
)


def _records(connection: Connection, ids: Iterable[int], known: ParameterSets) -> list[TrialRecord]:
    newest = sorted(ids)[-MOST_TRIALS:]
    if not newest:
        return []
    which = trials.c.id.in_(newest)
    rows = connection.execute(select(trials).where(which).order_by(trials.c.id)).all()
    return records_of(connection, rows, known, which)
