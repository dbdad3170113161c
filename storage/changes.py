"""What has changed in a study since one last looked? Asked often, so it costs no more than what runs.

Trials that run are looked at, with how far they have reported, and those that are new; what is finished changes no
more. So a look takes the same time in a study of ten trials and in one of ten thousand.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from optuna.trial import TrialState
from sqlalchemy import ColumnElement, Connection, and_, func, or_, select

from storage.database import Store
from storage.distributions import ParameterSets
from storage.history import TrialRecord, records_of
from storage.models import intermediate_values, launches, studies, trials
from storage.retries import retried
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
        self._last_id = -1
        self._running: Mapping[int, Any] = {}  # by id: attempt and last step
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
        running = {row.id: (row.attempt, row.step) for row in connection.execute(_running_in(study_id))}
        is_new = and_(trials.c.study_id == study_id, trials.c.id > seen._last_id)
        new = connection.execute(select(trials.c.id).where(is_new).order_by(trials.c.id)).scalars().all()
        moved = {trial_id for trial_id, state in running.items() if seen._running.get(trial_id) != state}
        ended = seen._running.keys() - running.keys()
        is_first = seen._last_id < 0
        changed = moved if is_first else moved | ended | set(new)
        records = _records(connection, changed, seen._sets)
    began = running.keys() - seen._running.keys()
    restarted = any(running[each][0] != seen._running[each][0] for each in running.keys() & seen._running.keys())
    is_of_study = bool(began or ended or new or restarted) or tuple(study) != seen._run
    seen._running, seen._run = running, tuple(study)
    seen._last_id = max([seen._last_id, 0, *new])
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


def _running_in(study_id: int) -> Any:
    """Which trials run, and how far each has reported."""
    last_step = (
        select(func.max(intermediate_values.c.step))
        .where(intermediate_values.c.trial_id == trials.c.id)
        .scalar_subquery()
    )
    is_its = and_(trials.c.study_id == study_id, trials.c.state == TrialState.RUNNING.value, is_unfinished)
    return select(trials.c.id, trials.c.attempt, last_step.label("step")).where(is_its)


def _records(connection: Connection, ids: Iterable[int], known: ParameterSets) -> list[TrialRecord]:
    newest = sorted(ids)[-MOST_TRIALS:]
    if not newest:
        return []
    which = trials.c.id.in_(newest)
    rows = connection.execute(select(trials).where(which).order_by(trials.c.id)).all()
    return records_of(connection, rows, known, which)
