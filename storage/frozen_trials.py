"""How stored trials become Optuna's, and are not read twice once they are finished."""

import json
import math
from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import ColumnElement, Connection, bindparam, or_, select

from storage.database import Store
from storage.distributions import ParameterSet, ParameterSets
from storage.errors import StudyNotFoundError, TrialNotFoundError
from storage.locks import ForkSafeLock
from storage.models import UNFINISHED, intermediate_values, studies, trial_attributes, trials

NUMBERS_PER_QUERY = 10_000  # SQLite takes at most 32,766 values in a statement


class FrozenTrials:
    """The trials of a store, for one process. A finished trial never changes, so it is read once."""

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
        with store.read() as connection:
            found = self._read(connection, _ONE, {"trial_id": trial_id})
        if not found:
            raise TrialNotFoundError(f"There is no trial with id {trial_id}.")
        return found[0]

    def all(self, store: Store, study_id: int, states: Container[TrialState] | None) -> list[FrozenTrial]:
        """The trials of a study by number. Raises StudyNotFoundError."""
        study = {"study_id": study_id}
        with store.read() as connection:
            if connection.execute(_STUDY_EXISTS, study).first() is None:
                self.forget(study_id)
                raise StudyNotFoundError(f"There is no study with id {study_id}.")
            if _asks_only_for_waiting(states):
                return self._read(connection, _WAITING, study)
            with self._lock:
                count, unfinished = self._study(study_id).outlook()
            fresh = self._read(connection, _UNFINISHED_OR_LATER, {**study, "after": count - 1})
            for numbers in _slices(unfinished - {trial.number for trial in fresh}):  # finished since we last looked
                fresh += self._read(connection, _NUMBERED, {**study, "numbers": numbers})
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

    def _study(self, study_id: int) -> "_StudyTrials":
        return self._studies.setdefault(study_id, _StudyTrials())

    def _read(self, connection: Connection, query: "_Query", values: Mapping[str, Any]) -> list[FrozenTrial]:
        rows = connection.execute(query.trials, values).all()
        if not rows:
            return []
        attributes: dict[tuple[int, str], dict[str, Any]] = defaultdict(dict)
        for trial_id, kind, key, value in connection.execute(query.attributes, values):
            attributes[trial_id, kind][key] = json.loads(value)
        curves: dict[int, dict[int, float]] = defaultdict(dict)
        for trial_id, step, value in connection.execute(query.curves, values):
            curves[trial_id][step] = math.nan if value is None else value
        known = self._parameter_sets.load(connection, {row.parameter_set_id for row in rows})
        return [self._frozen(row, known[row.parameter_set_id or 0], attributes, curves) for row in rows]

    def _frozen(
        self,
        row: Any,
        parameter_set: ParameterSet,
        attributes: Mapping[tuple[int, str], dict[str, Any]],
        curves: Mapping[int, dict[int, float]],
    ) -> FrozenTrial:
        return FrozenTrial(
            number=row.number,
            state=TrialState(row.state),
            value=None,
            values=_values(row),
            datetime_start=_naive_local(row.started_at),
            datetime_complete=_naive_local(row.finished_at),
            params=parameter_set.decode(row.configuration),
            distributions=dict(parameter_set.by_name),
            user_attrs=attributes.get((row.id, "user"), {}),
            system_attrs=attributes.get((row.id, "system"), {}),
            intermediate_values=curves.get(row.id, {}),
            trial_id=row.id,
        )


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
        """All trials, of which `fresh` have just been read."""
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
        everything = list(self._by_number)
        for number in self._unfinished:
            everything[number] = running.get(number)
        return [trial for trial in everything if trial is not None]


class _Query:
    """What to read of the trials that meet a condition."""

    def __init__(self, condition: ColumnElement[bool]) -> None:
        row = trials.c
        outcome = (row.state, row.value, row.more_values, row.started_at, row.finished_at)
        self.trials = (
            select(row.id, row.number, row.parameter_set_id, row.configuration, *outcome)
            .where(condition)
            .order_by(row.number)
        )
        self.attributes = select(trial_attributes).join(trials).where(condition)
        self.curves = select(intermediate_values).join(trials).where(condition).order_by(intermediate_values.c.step)


_in_study = trials.c.study_id == bindparam("study_id")
_is_later = trials.c.number > bindparam("after")
_ONE = _Query(trials.c.id == bindparam("trial_id"))
_WAITING = _Query(_in_study & (trials.c.state == TrialState.WAITING.value))
_UNFINISHED_OR_LATER = _Query(_in_study & or_(trials.c.state.in_(UNFINISHED), _is_later))
_NUMBERED = _Query(_in_study & trials.c.number.in_(bindparam("numbers", expanding=True)))
_STUDY_EXISTS = select(studies.c.id).where(studies.c.id == bindparam("study_id"))


def _asks_only_for_waiting(states: Container[TrialState] | None) -> bool:
    """What Optuna asks before each trial, to see whether one was enqueued."""
    return states is not None and [state for state in TrialState if state in states] == [TrialState.WAITING]


def _slices(numbers: set[int]) -> Iterator[list[int]]:
    ordered = sorted(numbers)
    return (ordered[start : start + NUMBERS_PER_QUERY] for start in range(0, len(ordered), NUMBERS_PER_QUERY))


def _values(row: Any) -> list[float] | None:
    return None if row.value is None else [row.value, *json.loads(row.more_values or "[]")]


def _naive_local(seconds: float | None) -> datetime | None:
    """Optuna's trials carry local times without a zone."""
    return None if seconds is None else datetime.fromtimestamp(seconds)
