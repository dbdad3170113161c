"""How any Optuna program keeps its studies in the history."""
# ruff: noqa: D102 - what the methods do is said in BaseStorage

import copy
import json
import time
import uuid
from collections.abc import Container, Sequence
from datetime import datetime
from typing import Any

from optuna.distributions import BaseDistribution, check_distribution_compatibility
from optuna.exceptions import DuplicatedStudyError, UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, bindparam, delete, select, update

from storage.database import Store, insert_if_absent
from storage.distributions import ParameterSet, ParameterSets, pack, unpack
from storage.errors import StudyExistsError, StudyNotFoundError, TrialNotFoundError
from storage.families import Family, leave_family, note_change
from storage.frozen_trials import FrozenTrials
from storage.models import (
    UNFINISHED,
    intermediate_values,
    studies,
    study_attributes,
    study_parameters,
    trial_attributes,
    trials,
)
from storage.schema import open_store
from storage.sources import delete_study
from storage.studies import (
    AttributeKind,
    TrialRow,
    change_trial,
    count_trials_locking,
    finished_columns,
    insert_study,
    insert_trial,
    lock_trial,
    set_attribute,
    set_intermediate_value,
    value_columns,
)
from storage.summaries import StudySample, Summaries

DEFAULT_NAME_PREFIX = "no-name-"  # Optuna's


class HistoryStorage(BaseStorage):
    """An Optuna storage whose every trial is history at once.

    Use it wherever Optuna takes a storage: `optuna.create_study(storage=HistoryStorage("sqlite:///history.db"))`.
    Threads and processes may share it; it can be pickled.
    """

    def __init__(self, url: str | Store) -> None:
        self.store = url if isinstance(url, Store) else open_store(url)
        self._remember_nothing()

    def __getstate__(self) -> dict[str, Any]:
        return {"store": self.store}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.store = state["store"]
        self._remember_nothing()

    def _remember_nothing(self) -> None:
        self._parameter_sets = ParameterSets()
        self._trials = FrozenTrials(self._parameter_sets)
        self._summaries = Summaries(self._parameter_sets)
        self._first_distributions: dict[tuple[int, str], int] = {}  # study id, parameter -> distribution id

    # Beyond Optuna

    def past_families(self) -> list[Family]:
        """The families that have finished trials of one objective."""
        return self._summaries.families(self.store)

    def past_studies(self, family: Family) -> tuple[StudySample, ...]:
        """The latest studies of a family, each with its best trials and some others; none that is in quarantine."""
        return self._summaries.of(self.store, family).studies

    # Studies

    def create_new_study(self, directions: Sequence[StudyDirection], study_name: str | None = None) -> int:
        name = DEFAULT_NAME_PREFIX + str(uuid.uuid4()) if study_name is None else study_name
        names = [direction.name.lower() for direction in directions]
        try:
            with self.store.write() as connection:
                return insert_study(connection, name, names, source="optuna")
        except StudyExistsError as error:
            raise DuplicatedStudyError(str(error)) from error

    def delete_study(self, study_id: int) -> None:
        with self.store.write() as connection:
            if not delete_study(connection, study_id):
                raise _no_study(study_id)
        self._trials.forget(study_id)

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        self._set_study_attribute(study_id, "user", key, value)

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        self._set_study_attribute(study_id, "system", key, value)

    def get_study_id_from_name(self, study_name: str) -> int:
        with self.store.read() as connection:
            study_id = connection.execute(select(studies.c.id).where(studies.c.name == study_name)).scalar()
            if study_id is None:
                raise StudyNotFoundError.named(study_name, connection.execute(select(studies.c.name)).scalars())
        return int(study_id)

    def get_study_name_from_id(self, study_id: int) -> str:
        return str(self._study(study_id).name)

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        return _directions(self._study(study_id))

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        return self._study_attributes(study_id, "user")

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        return self._study_attributes(study_id, "system")

    def get_all_studies(self) -> list[FrozenStudy]:
        with self.store.read() as connection:
            rows = connection.execute(select(studies.c.id, studies.c.name, studies.c.directions).order_by(studies.c.id))
            attributes: dict[tuple[int, str], dict[str, Any]] = {}
            for row in connection.execute(select(study_attributes)):
                attributes.setdefault((row.study_id, row.kind), {})[row.key] = json.loads(row.value)
            return [
                FrozenStudy(
                    study_name=row.name,
                    direction=None,
                    directions=_directions(row),
                    user_attrs=attributes.get((row.id, "user"), {}),
                    system_attrs=attributes.get((row.id, "system"), {}),
                    study_id=row.id,
                )
                for row in rows
            ]

    # Trials

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        if template_trial is not None:
            return self._copy_trial(study_id, template_trial)
        with self.store.write(durable=False) as connection:
            number = count_trials_locking(connection, study_id)
            running = {"state": TrialState.RUNNING.value, "started_at": time.time()}
            return insert_trial(connection, study_id, number, **running)

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        number = self._parameter_sets.distribution_id(self.store, distribution)
        with self.store.write(durable=False) as connection:
            trial = _updatable(connection, trial_id)
            first = self._check_compatible(connection, trial.study_id, param_name, number)
            content = dict(self._parameter_sets.content_of(connection, trial.parameter_set_id)) | {param_name: number}
            values = dict(zip(content, unpack(trial.configuration).tolist(), strict=False))
            values[param_name] = float(param_value_internal)
            known = tuple(content.items())
            set_id = self._parameter_sets.intern(self.store, connection, known)
            change_trial(connection, trial_id, parameter_set_id=set_id, configuration=pack(values.values()))
        self._first_distributions[trial.study_id, param_name] = first  # only now is it certain to stay
        self._parameter_sets.remember(set_id, known)

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        if state == TrialState.RUNNING:
            return self._start(trial_id)
        columns = finished_columns(state, values) if state.is_finished() else {"state": state.value}
        with self.store.write() as connection:
            trial = _updatable(connection, trial_id)
            change_trial(connection, trial_id, **columns)
            if state.is_finished():
                note_change(self.store, connection, trial.study_id)
        return True

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        with self.store.write(durable=False) as connection:
            _updatable(connection, trial_id)
            set_intermediate_value(self.store, connection, trial_id, step, intermediate_value)

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        self._set_trial_attribute(trial_id, "user", key, value)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        self._set_trial_attribute(trial_id, "system", key, value)

    def get_trial(self, trial_id: int) -> FrozenTrial:
        return self._trials.one(self.store, trial_id)

    def get_trial_id_from_study_id_trial_number(self, study_id: int, trial_number: int) -> int:
        query = select(trials.c.id).where(trials.c.study_id == study_id, trials.c.number == trial_number)
        with self.store.read() as connection:
            trial_id = connection.execute(query).scalar()
        if trial_id is None:
            raise TrialNotFoundError(f"There is no trial {trial_number} in the study with id {study_id}.")
        return int(trial_id)

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        found = self._trials.all(self.store, study_id, states)
        return copy.deepcopy(found) if deepcopy else found

    # How it is done

    def _study(self, study_id: int) -> Any:
        with self.store.read() as connection:
            study = connection.execute(_STUDY, {"study_id": study_id}).first()
        if study is None:
            raise _no_study(study_id)
        return study

    def _study_attributes(self, study_id: int, kind: AttributeKind) -> dict[str, Any]:
        with self.store.read() as connection:
            if connection.execute(_STUDY, {"study_id": study_id}).first() is None:
                raise _no_study(study_id)
            rows = connection.execute(_STUDY_ATTRIBUTES, {"study_id": study_id, "kind": kind})
            return {row.key: json.loads(row.value) for row in rows}

    def _set_study_attribute(self, study_id: int, kind: AttributeKind, key: str, value: Any) -> None:
        with self.store.write() as connection:
            if connection.execute(_STUDY, {"study_id": study_id}).first() is None:
                raise _no_study(study_id)
            set_attribute(self.store, connection, study_attributes, study_id, kind=kind, key=key, value=value)

    def _set_trial_attribute(self, trial_id: int, kind: AttributeKind, key: str, value: Any) -> None:
        with self.store.write(durable=False) as connection:
            _updatable(connection, trial_id)
            set_attribute(self.store, connection, trial_attributes, trial_id, kind=kind, key=key, value=value)

    def _start(self, trial_id: int) -> bool:
        """Take a waiting trial; False when somebody else was faster. One conditional update decides.

        It is an attempt as a claim is one: whoever held the trial before is refused from now on.
        """
        with self.store.write() as connection:
            attempt = connection.execute(_START, {"trial_id": trial_id, "now": time.time()}).scalar()
            if attempt is None:
                _updatable(connection, trial_id)
                return False
            if attempt > 1:
                connection.execute(delete(intermediate_values).where(intermediate_values.c.trial_id == trial_id))
            return True

    def _copy_trial(self, study_id: int, template: FrozenTrial) -> int:
        drawn_from = {name: template.distributions[name] for name in template.params}
        parameter_set = ParameterSet(names=tuple(drawn_from), distributions=tuple(drawn_from.values()))
        set_id = self._parameter_sets.id_of(self.store, parameter_set)
        with self.store.write() as connection:
            number = count_trials_locking(connection, study_id)
            for name, distribution_id in self._parameter_sets.content_of(connection, set_id):
                self._check_compatible(connection, study_id, name, distribution_id)
            trial_id = insert_trial(
                connection,
                study_id,
                number,
                state=template.state.value,
                parameter_set_id=set_id,
                configuration=parameter_set.encode(template.params) if drawn_from else None,
                started_at=_seconds(template.datetime_start),
                finished_at=_seconds(template.datetime_complete),
                **value_columns(template.values),
            )
            for kind, attributes in _attributes(template).items():
                for key, value in attributes.items():
                    set_attribute(self.store, connection, trial_attributes, trial_id, kind=kind, key=key, value=value)
            for step, value in template.intermediate_values.items():
                set_intermediate_value(self.store, connection, trial_id, step, value)
            if template.state.is_finished():
                note_change(self.store, connection, study_id)
        return trial_id

    def _check_compatible(self, connection: Connection, study_id: int, name: str, distribution_id: int) -> int:
        """The study's first distribution of that name. Raises ValueError if this one does not go with it."""
        first = self._first_distributions.get((study_id, name))
        if first is None:
            key = {"study_id": study_id, "name": name}
            row = {**key, "distribution_id": distribution_id}
            is_known = connection.execute(_FIRST_DISTRIBUTION, key).first() is not None
            if not is_known:
                connection.execute(insert_if_absent(self.store.dialect, study_parameters), row)
                _space_has_grown(connection, study_id)
            first = connection.execute(_FIRST_DISTRIBUTION, key).scalar_one()
        if first != distribution_id:
            known = self._parameter_sets.load_distributions(connection, [first, distribution_id])
            check_distribution_compatibility(known[first], known[distribution_id])
        return int(first)


_STUDY = select(studies.c.id, studies.c.name, studies.c.directions).where(studies.c.id == bindparam("study_id"))
_STUDY_ATTRIBUTES = select(study_attributes.c.key, study_attributes.c.value).where(
    study_attributes.c.study_id == bindparam("study_id"), study_attributes.c.kind == bindparam("kind")
)
_FIRST_DISTRIBUTION = select(study_parameters.c.distribution_id).where(
    study_parameters.c.study_id == bindparam("study_id"), study_parameters.c.name == bindparam("name")
)
_START = (
    update(trials)
    .where(trials.c.id == bindparam("trial_id"), trials.c.state == TrialState.WAITING.value)
    .values(
        state=TrialState.RUNNING.value,
        attempt=trials.c.attempt + 1,
        started_at=bindparam("now"),
        worker=None,
        error=None,
    )
    .returning(trials.c.attempt)
)


def _space_has_grown(connection: Connection, study_id: int) -> None:
    """A study that is defined by running is of another family with each new parameter."""
    declared = connection.execute(select(studies.c.space).where(studies.c.id == study_id)).scalar_one()
    if declared is None:
        leave_family(connection, study_id)


def _updatable(connection: Connection, trial_id: int) -> TrialRow:
    """The trial, locked. Raises TrialNotFoundError, UpdateFinishedTrialError."""
    trial = lock_trial(connection, trial_id)
    if trial.state not in UNFINISHED:
        raise UpdateFinishedTrialError(f"Trial {trial.number} has already finished and can not be updated.")
    return trial


def _attributes(trial: FrozenTrial) -> dict[AttributeKind, dict[str, Any]]:
    return {"user": trial.user_attrs, "system": trial.system_attrs}


def _directions(study: Any) -> list[StudyDirection]:
    return [StudyDirection[name.upper()] for name in json.loads(study.directions)]


def _seconds(local: datetime | None) -> float | None:
    return None if local is None else local.timestamp()


def _no_study(study_id: int) -> StudyNotFoundError:
    return StudyNotFoundError(f"There is no study with id {study_id}.")
