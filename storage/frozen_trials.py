"""How stored trials become Optuna's, and are not read twice once they are finished."""

import json
import math
from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import BigInteger, Double, Executable, Text, bindparam, cast, null, select, union_all

from storage.database import Store
from storage.distributions import ParameterSet, ParameterSets
from storage.errors import StudyNotFoundError, TrialNotFoundError
from storage.locks import ForkSafeLock
from storage.models import intermediate_values, studies, trial_attributes, trials
from storage.statements import Dialect, Row, Statement, is_listed
from storage.trial_rows import is_unfinished


class FrozenTrials:
    """The trials of a store, for one process. A finished trial never changes, so it is read once.

    Trials are read before what belongs to them, so what is found of a finished trial is all that there is.
    """

    def __init__(self, known_sets: ParameterSets) -> None:
        self._parameter_sets = known_sets
        self._studies: dict[int, _StudyTrials] = {}
        self._finished: dict[int, FrozenTrial] = {}  # by trial id
        self._lock = ForkSafeLock()

    def one(self, store: Store, trial_id: int) -> FrozenTrial:
        """The trial. Raises TrialNotFoundError."""
        known = self._finished.get(trial_id)
        if known is not None:
            return known
        found = self._read(store, _ONE, trial_id=trial_id)
        if not found:
            raise TrialNotFoundError(f"There is no trial with id {trial_id}.")
        return found[0]

    def all(self, store: Store, study_id: int, states: Container[TrialState] | None) -> list[FrozenTrial]:
        """The trials of a study by number. Raises StudyNotFoundError."""
        if _asks_only_for_waiting(states):
            return self._read(store, _WAITING, study_id=study_id) or self._none_in(store, study_id)
        with self._lock:
            count, unfinished = self._study(study_id).outlook()
        if count == 0:
            fresh = self._read(store, _ALL, study_id=study_id)
        else:
            look_at = json.dumps(sorted(unfinished))
            fresh = self._read(store, _NEWS, study_id=study_id, known=count - 1, numbers=look_at)
        if not fresh:
            self._none_in(store, study_id)
        with self._lock:
            everything = self._study(study_id).updated(fresh)
            self._finished.update((trial._trial_id, trial) for trial in fresh if trial.state.is_finished())
        return everything if states is None else [trial for trial in everything if trial.state in states]

    def forget(self, study_id: int) -> None:
        """Drop what is known of a study that was deleted."""
        with self._lock:
            for trial in self._study(study_id).finished:
                self._finished.pop(trial._trial_id, None)
            del self._studies[study_id]

    def _none_in(self, store: Store, study_id: int) -> list[FrozenTrial]:
        """No trials, if there is a study to have none. Raises StudyNotFoundError."""
        if not store.fetch(_STUDY_EXISTS, study_id=study_id):
            self.forget(study_id)
            raise StudyNotFoundError(f"There is no study with id {study_id}.")
        return []

    def _study(self, study_id: int) -> "_StudyTrials":
        return self._studies.setdefault(study_id, _StudyTrials())

    def _read(self, store: Store, query: Statement, **values: Any) -> list[FrozenTrial]:
        rows = store.fetch(query, **values)
        if not rows:
            return []
        ids = json.dumps([row.id for row in rows])
        attributes: dict[tuple[int, str], dict[str, Any]] = defaultdict(dict)
        curves: dict[int, dict[int, float]] = defaultdict(dict)
        for trial_id, step, value, kind, key, text in store.fetch(_BESIDE, ids=ids):
            if kind is None:
                curves[trial_id][step] = math.nan if value is None else value
            else:
                attributes[trial_id, kind][key] = json.loads(text)
        known = self._parameter_sets.known(store, {row.parameter_set_id for row in rows})
        return [
            FrozenTrial(
                number=row.number,
                state=_STATES[row.state],
                value=None,
                values=_values(row),
                datetime_start=_naive_local(row.started_at),
                datetime_complete=_naive_local(row.finished_at),
                params=params,
                distributions=dict(known[row.parameter_set_id or 0].by_name),
                user_attrs=attributes.get((row.id, "user"), {}),
                system_attrs=attributes.get((row.id, "system"), {}),
                intermediate_values=dict(sorted(curves[row.id].items())),
                trial_id=row.id,
            )
            for row, params in zip(rows, _decoded(rows, known), strict=True)
        ]


class _StudyTrials:
    """What is known of one study's trials."""

    def __init__(self) -> None:
        self._by_number: list[FrozenTrial | None] = []  # None: not finished, as far as is known
        self._unfinished: set[int] = set()  # the numbers of those

    @property
    def finished(self) -> Iterator[FrozenTrial]:
        return (trial for trial in self._by_number if trial is not None)

    def outlook(self) -> tuple[int, set[int]]:
        """How many trials there are, and the numbers of those to look at again."""
        return len(self._by_number), set(self._unfinished)

    def updated(self, fresh: Iterable[FrozenTrial]) -> list[FrozenTrial]:
        """All trials, of which `fresh` have been read. Another thread may know more by now: that some have finished."""
        running = {}
        for trial in fresh:
            while len(self._by_number) <= trial.number:
                self._unfinished.add(len(self._by_number))
                self._by_number.append(None)
            if trial.state.is_finished():
                self._by_number[trial.number] = trial
                self._unfinished.discard(trial.number)
            else:
                running[trial.number] = trial
        everything: list[Any] = list(self._by_number)
        for number in self._unfinished & running.keys():
            everything[number] = running[number]
        is_complete = self._unfinished <= running.keys()
        return everything if is_complete else [trial for trial in everything if trial is not None]


_ROWS = select(
    *(trials.c.id, trials.c.number, trials.c.state, trials.c.value, trials.c.more_values),
    *(trials.c.parameter_set_id, trials.c.configuration, trials.c.started_at, trials.c.finished_at),
).order_by(trials.c.number)
_in_study = trials.c.study_id == bindparam("study_id")


def _news(dialect: Dialect) -> Executable:
    """Whatever may be new to somebody who knows so many trials, and the numbers of those that were unfinished."""
    conditions = (is_unfinished, trials.c.number > bindparam("known"), is_listed(dialect, trials.c.number, "numbers"))
    found = union_all(*(select(trials.c.id).where(_in_study, condition) for condition in conditions)).subquery()
    return _ROWS.where(trials.c.id.in_(select(found.c.id)))


def _beside(dialect: Dialect) -> Executable:
    """The points of trials' curves, and their attributes, in one table."""
    point, attribute = intermediate_values.c, trial_attributes.c
    no_step, no_value = cast(null(), BigInteger).label("step"), cast(null(), Double).label("value")
    no_attribute = (cast(null(), Text).label(name) for name in ("kind", "key", "text"))
    points = (  # only for its order does PostgreSQL take the index for ten thousand trials as for one
        select(point.trial_id, point.step, point.value, *no_attribute)
        .where(is_listed(dialect, point.trial_id, "ids"))
        .order_by(point.trial_id, point.step)
        .subquery()
    )
    attributes = select(attribute.trial_id, no_step, no_value, attribute.kind, attribute.key, attribute.value)
    return union_all(
        select(points),
        attributes.where(is_listed(dialect, attribute.trial_id, "ids")),
    )


_ONE = Statement(_ROWS.where(trials.c.id == bindparam("trial_id")))
_ALL = Statement(_ROWS.where(_in_study))
_WAITING = Statement(_ROWS.where(_in_study, trials.c.state == TrialState.WAITING.value, is_unfinished))
_NEWS = Statement(_news)
_BESIDE = Statement(_beside, plain=True)
_STUDY_EXISTS = Statement(select(studies.c.id).where(studies.c.id == bindparam("study_id")))
_STATES = {state.value: state for state in TrialState}


def _asks_only_for_waiting(states: Container[TrialState] | None) -> bool:
    """What Optuna asks before each trial, to see whether one was enqueued."""
    return states is not None and [state for state in TrialState if state in states] == [TrialState.WAITING]


def _decoded(rows: Sequence[Row], known: Mapping[int, ParameterSet]) -> Iterator[dict[str, Any]]:
    """The configurations of trials in their order; those of one parameter set are decoded together."""
    members: dict[int, list[bytes]] = defaultdict(list)
    for row in rows:
        members[row.parameter_set_id or 0].append(row.configuration)
    decoded = {set_id: iter(known[set_id].decode_all(some)) for set_id, some in members.items()}
    return (next(decoded[row.parameter_set_id or 0]) for row in rows)


def _values(row: Row) -> list[float] | None:
    if row.value is None:
        return None
    return [row.value, *json.loads(row.more_values)] if row.more_values else [row.value]


def _naive_local(seconds: float | None) -> datetime | None:
    """Optuna's trials carry local times without a zone."""
    return None if seconds is None else datetime.fromtimestamp(seconds)
