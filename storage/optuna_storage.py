"""How any Optuna program keeps its studies in the history."""
# ruff: noqa: D102 - what the methods do is said in BaseStorage

import copy
import json
import uuid
from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from optuna.distributions import BaseDistribution, check_distribution_compatibility
from optuna.exceptions import DuplicatedStudyError, UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import (
    Connection,
    Double,
    Table,
    bindparam,
    delete,
    insert,
    select,
    update,
)

from storage.arrays import TrialArrays
from storage.database import Store, insert_if_absent
from storage.distributions import ParameterSet, ParameterSets
from storage.drafts import Draft, Drafts
from storage.errors import StudyExistsError, StudyNotFoundError, TrialNotFoundError
from storage.families import Family, leave_family, note_change
from storage.frozen_trials import FrozenTrials
from storage.learned import Learned, Losses, keep, losses, recall
from storage.models import (
    UNFINISHED,
    intermediate_values,
    studies,
    study_attributes,
    study_parameters,
    trial_attributes,
    trials,
)
from storage.privacy import current
from storage.retries import Call, retried, retried_call
from storage.schema import open_store
from storage.seals import begin_chains, seal_trial
from storage.sources import delete_study
from storage.statements import Statement
from storage.summaries import StudySample, Summaries
from storage.trial_costs import trial_costs
from storage.trial_rows import (
    FINISHED,
    AttributeKind,
    TrialRow,
    beside_trial,
    count_trials_locking,
    finished_columns,
    insert_study,
    insert_trial,
    is_unfinished,
    lock_study,
    lock_study_of,
    lock_trial,
    made_by,
    next_number,
    no_study,
    reported,
    set_attribute,
    study_made_by,
    value_columns,
)

DEFAULT_NAME_PREFIX = "no-name-"  # Optuna's


class HistoryStorage(BaseStorage):
    """An Optuna storage whose every trial is history at once.

    Use it wherever Optuna takes a storage: `optuna.create_study(storage=HistoryStorage("sqlite:///history.db"))`.
    Threads and processes may share it; it can be pickled. A database that is away is waited for, as long as the store
    has patience.
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
        self._drafts = Drafts()
        self._compatible: set[tuple[int, str, int]] = set()  # study id, parameter, number of a distribution

    @property
    def patience_seconds(self) -> float:
        """How long a database that is away or busy is waited for."""
        return self.store.patience_seconds

    # Beyond Optuna

    @retried
    def past_families(self) -> list[Family]:
        """The families that have finished trials."""
        return self._summaries.families(self.store)

    @retried
    def past_studies(self, family: Family) -> tuple[StudySample, ...]:
        """The latest studies of a family, each once for each objective, with its best trials and some others.

        None that is in quarantine.
        """
        return self._summaries.of(self.store, family).studies

    @retried
    def past_costs(self, family: Family, study_ids: Sequence[int], cost: str, most: int) -> dict[int, TrialArrays]:
        """What complete trials of some of its studies have cost, at most so many of each: see `storage.trial_costs`."""
        return trial_costs(self.store, family, study_ids, cost, most=most, known=self._parameter_sets)

    @retried
    def losses(self) -> Losses:
        """What has gone away from the history so far: see `storage.learned`."""
        return losses(self.store)

    @retried
    def recall(self, subject: str) -> Learned | None:
        """What some process has learned of a subject and kept."""
        return recall(self.store, subject)

    @retried
    def keep(self, subject: str, content: Learned, *, since: Losses) -> None:
        """Keep what was learned, if nothing has gone away since."""
        keep(self.store, subject, content, since=since)

    @retried
    def configure_attempt(
        self,
        trial_id: int,
        attempt: int,
        *,
        params: Mapping[str, Any],
        distributions: Mapping[str, BaseDistribution],
        system_attrs: Mapping[str, Any],
    ) -> bool:
        """Give an attempt that runs all its parameters and what is to be kept with them, whole or not at all.

        Returns whether it is still the trial's current one. Raises ValueError for a distribution that does not go with
        the study's first under that name.
        """
        drawn_from = {name: distributions[name] for name in params}
        _check_searched(drawn_from)
        system_attrs = current().document(system_attrs)
        parameter_set = ParameterSet(names=tuple(drawn_from), distributions=tuple(drawn_from.values()))
        set_id = self._parameter_sets.id_of(self.store, parameter_set)
        with self.store.write(durable=self.store.may_crash_alone) as connection:
            trial = lock_trial(connection, trial_id)
            if trial.state != TrialState.RUNNING.value or trial.attempt != attempt:
                return False
            for name, number in self._parameter_sets.content_of(connection, set_id):
                self._check_compatible(connection, trial.study_id, name, number)
            configuration = {"parameter_set_id": set_id, "configuration": parameter_set.encode(params)}
            connection.execute(update(trials).where(trials.c.id == trial_id).values(configuration))
            for key, value in system_attrs.items():
                set_attribute(self.store, connection, trial_attributes, trial_id, kind="system", key=key, value=value)
        self._drafts.forget(trial_id)
        return True

    # Studies

    def create_new_study(self, directions: Sequence[StudyDirection], study_name: str | None = None) -> int:
        name = DEFAULT_NAME_PREFIX + str(uuid.uuid4()) if study_name is None else study_name
        try:
            return self._create_study(name, [direction.name.lower() for direction in directions])
        except StudyExistsError as error:
            raise DuplicatedStudyError(str(error)) from error

    @retried_call
    def delete_study(self, call: Call, study_id: int) -> None:
        with self.store.write() as connection:
            if not delete_study(connection, study_id) and not call.is_repeated:
                raise no_study(study_id)
        self._trials.forget(study_id)

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        self._set_study_attribute(study_id, "user", key, value)

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        self._set_study_attribute(study_id, "system", key, value)

    @retried
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

    @retried
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

    @retried_call
    def create_new_trial(self, call: Call, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        if template_trial is not None:
            return self._copy_trial(call, study_id, template_trial)
        with self.store.write(durable=self.store.may_crash_alone) as connection:  # an id must not be given twice
            lock_study(connection, study_id)
            made = made_by(connection, study_id, call)
            if made is None:
                new = {"study_id": study_id, "started_at": call.at, "call_id": call.id}
                made = _CREATE.run(connection, **new).rows[0]
        self._drafts.remember(made.id, Draft(study_id=study_id))
        return int(made.id)

    @retried_call
    def set_trial_param(
        self, call: Call, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        _check_searched({param_name: distribution})
        number = self._parameter_sets.distribution_id(self.store, distribution)
        if not self._configure_at_once(trial_id, param_name, param_value_internal, number):
            self._configure_locking(call, trial_id, param_name, param_value_internal, number)

    @retried_call
    def set_trial_state_values(
        self, call: Call, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        if state == TrialState.RUNNING:
            return self._start(call, trial_id)
        if not state.is_finished():
            self._change_unfinished(_REQUEUE, trial_id)
            return True
        columns = finished_columns(state, values, call.at)
        with self.store.write() as connection:
            if call.is_repeated:
                lock_study_of(connection, trial_id)
            finished = _FINISH.run(connection, trial_id=trial_id, **columns).first
            if finished is not None:
                note_change(self.store, connection, finished.study_id)
                seal_trial(connection, trial_id)
            elif not call.is_repeated or lock_trial(connection, trial_id).finished_at != call.at:
                _updatable(connection, trial_id)  # says why not
        self._drafts.forget(trial_id)
        return True

    @retried
    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        self._change_unfinished(_REPORT, trial_id, step=step, value=reported(intermediate_value))

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        self._set_trial_attribute(trial_id, "user", key, value)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        self._set_trial_attribute(trial_id, "system", key, value)

    @retried
    def get_trial(self, trial_id: int) -> FrozenTrial:
        return self._trials.one(self.store, trial_id)

    @retried
    def get_trial_id_from_study_id_trial_number(self, study_id: int, trial_number: int) -> int:
        query = select(trials.c.id).where(trials.c.study_id == study_id, trials.c.number == trial_number)
        with self.store.read() as connection:
            trial_id = connection.execute(query).scalar()
        if trial_id is None:
            raise TrialNotFoundError(f"There is no trial {trial_number} in the study with id {study_id}.")
        return int(trial_id)

    @retried
    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        found = self._trials.all(self.store, study_id, states)
        return copy.deepcopy(found) if deepcopy else found

    # How it is done

    @retried_call
    def _create_study(self, call: Call, name: str, directions: Sequence[str]) -> int:
        with self.store.write() as connection:
            made = study_made_by(connection, call, name)
            if made is not None:
                return made
            study_id = insert_study(connection, name, directions, created_at=call.at, source="optuna")
            begin_chains(connection, [study_id])
            return study_id

    @retried
    def _study(self, study_id: int) -> Any:
        found = self.store.fetch(_STUDY, study_id=study_id)
        if not found:
            raise no_study(study_id)
        return found[0]

    def _study_attributes(self, study_id: int, kind: AttributeKind) -> dict[str, Any]:
        found = self._fetch_study_attributes(study_id, kind)
        if not found:
            self._study(study_id)  # raises where there is none
        return {row.key: json.loads(row.value) for row in found}

    @retried
    def _fetch_study_attributes(self, study_id: int, kind: AttributeKind) -> list[Any]:
        return self.store.fetch(_STUDY_ATTRIBUTES, study_id=study_id, kind=kind)

    @retried
    def _set_study_attribute(self, study_id: int, kind: AttributeKind, key: str, value: Any) -> None:
        found = _hidden(kind, key, value)
        with self.store.write() as connection:
            if not _STUDY.run(connection, study_id=study_id).rows:
                raise no_study(study_id)
            for kept in found:
                set_attribute(self.store, connection, study_attributes, study_id, kind=kind, key=key, value=kept)

    @retried
    def _set_trial_attribute(self, trial_id: int, kind: AttributeKind, key: str, value: Any) -> None:
        for kept in _hidden(kind, key, value):
            self._change_unfinished(_SET_ATTRIBUTE, trial_id, kind=kind, key=key, value=json.dumps(kept))

    def _change_unfinished(self, statement: Statement, trial_id: int, **values: Any) -> None:
        """Run a statement that changes something only if the trial is unfinished."""
        if self.store.change(statement, trial_id=trial_id, **values).changed == 0:
            with self.store.write(durable=self.store.may_crash_alone) as connection:
                _updatable(connection, trial_id)  # says why not
                statement.run(connection, trial_id=trial_id, **values)

    def _configure_at_once(self, trial_id: int, name: str, value: float, number: int) -> bool:
        """Set a parameter in one statement, if the trial is still as we remember it and all else is known."""
        draft = self._drafts.of(trial_id)
        if draft is None or (draft.study_id, name, number) not in self._compatible:
            return False
        content, configuration = draft.with_parameter(name, number, value)
        set_id = self._parameter_sets.known_id(content)
        if set_id is None:
            return False
        after = replace(draft, parameter_set_id=set_id, content=content, configuration=configuration)
        if self.store.change(_CONFIGURE, trial_id=trial_id, **_from(draft, after)).changed == 0:
            return False
        self._drafts.remember(trial_id, after)
        return True

    def _configure_locking(self, call: Call, trial_id: int, name: str, value: float, number: int) -> None:
        with self.store.write(durable=self.store.may_crash_alone) as connection:
            if call.is_repeated:
                lock_study_of(connection, trial_id)
            trial = _updatable(connection, trial_id)
            self._check_compatible(connection, trial.study_id, name, number)
            draft = Draft(
                study_id=trial.study_id,
                parameter_set_id=trial.parameter_set_id,
                content=self._parameter_sets.content_of(connection, trial.parameter_set_id),
                configuration=trial.configuration,
            )
            content, configuration = draft.with_parameter(name, number, value)
            set_id = self._parameter_sets.intern(self.store, connection, content)
            after = replace(draft, parameter_set_id=set_id, content=content, configuration=configuration)
            _CONFIGURE.run(connection, trial_id=trial_id, **_from(draft, after))
        # only now is all this certain to stay
        self._compatible.add((trial.study_id, name, number))
        self._parameter_sets.remember(set_id, content)
        self._drafts.remember(trial_id, after)

    def _start(self, call: Call, trial_id: int) -> bool:
        """Take a waiting trial; False when somebody else was faster. One conditional update decides.

        It is an attempt as a claim is one: whoever held the trial before is refused from now on.
        """
        with self.store.write() as connection:
            started = _START.run(connection, trial_id=trial_id, started_at=call.at, call_id=call.id).first
            if started is None:
                trial = _updatable(connection, trial_id)
                return call.is_repeated and bool(trial.call_id == call.id)
            if started.attempt > 1:
                connection.execute(delete(intermediate_values).where(intermediate_values.c.trial_id == trial_id))
            return True

    def _copy_trial(self, call: Call, study_id: int, template: FrozenTrial) -> int:
        drawn_from = {name: template.distributions[name] for name in template.params}
        _check_searched(drawn_from)
        parameter_set = ParameterSet(names=tuple(drawn_from), distributions=tuple(drawn_from.values()))
        set_id = self._parameter_sets.id_of(self.store, parameter_set)
        with self.store.write() as connection:
            number = count_trials_locking(connection, study_id)
            made = made_by(connection, study_id, call)
            if made is not None:
                return int(made.id)
            content = self._parameter_sets.content_of(connection, set_id)
            for name, distribution_id in content:
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
                call_id=call.id,
                **value_columns(template.values),
            )
            _insert_all(connection, trial_attributes, _attribute_rows(trial_id, template))
            _insert_all(connection, intermediate_values, _curve_rows(trial_id, template))
            if template.state.is_finished():
                note_change(self.store, connection, study_id)
                seal_trial(connection, trial_id)
        self._compatible.update((study_id, name, distribution_id) for name, distribution_id in content)
        return trial_id

    def _check_compatible(self, connection: Connection, study_id: int, name: str, distribution_id: int) -> None:
        """Raises ValueError if a distribution does not go with the first one that the study used under that name."""
        if (study_id, name, distribution_id) in self._compatible:
            return
        key = {"study_id": study_id, "name": name}
        row = {**key, "distribution_id": distribution_id}
        if connection.execute(_FIRST_DISTRIBUTION, key).first() is None:
            connection.execute(insert_if_absent(self.store.dialect, study_parameters), row)
            _space_has_grown(connection, study_id)
        first = connection.execute(_FIRST_DISTRIBUTION, key).scalar_one()
        if first != distribution_id:
            known = self._parameter_sets.load_distributions(connection, [first, distribution_id])
            check_distribution_compatibility(known[first], known[distribution_id])


_is_it = trials.c.id == bindparam("trial_id")
_CREATE = Statement(
    insert(trials)
    .values(
        study_id=bindparam("study_id"),
        number=next_number,
        call_id=bindparam("call_id"),
        started_at=bindparam("started_at", type_=Double),
        state=TrialState.RUNNING.value,
    )
    .returning(trials.c.id)
)
_START = Statement(
    update(trials)
    .where(_is_it, trials.c.state == TrialState.WAITING.value)
    .values(
        state=TrialState.RUNNING.value,
        attempt=trials.c.attempt + 1,
        started_at=bindparam("started_at", type_=Double),
        call_id=bindparam("call_id"),
        worker=None,
        error=None,
    )
    .returning(trials.c.attempt)
)
_CONFIGURE = Statement(
    update(trials)
    .where(
        *(_is_it, is_unfinished),
        trials.c.parameter_set_id.is_not_distinct_from(bindparam("old_set_id")),
        trials.c.configuration.is_not_distinct_from(bindparam("old_configuration")),
    )
    .values(parameter_set_id=bindparam("parameter_set_id"), configuration=bindparam("configuration"))
)
_REPORT = beside_trial(intermediate_values, is_unfinished)
_SET_ATTRIBUTE = beside_trial(trial_attributes, is_unfinished)
_REQUEUE = Statement(
    update(trials)
    .where(_is_it, is_unfinished)
    .values(state=TrialState.WAITING.value, worker=None, lease_until=None, call_id=None)
)
_FINISH = Statement(update(trials).where(_is_it, is_unfinished).values(FINISHED).returning(trials.c.study_id))
_STUDY = Statement(
    select(studies.c.id, studies.c.name, studies.c.directions).where(studies.c.id == bindparam("study_id"))
)
_STUDY_ATTRIBUTES = Statement(
    select(study_attributes.c.key, study_attributes.c.value).where(
        study_attributes.c.study_id == bindparam("study_id"), study_attributes.c.kind == bindparam("kind")
    )
)
_FIRST_DISTRIBUTION = select(study_parameters.c.distribution_id).where(
    study_parameters.c.study_id == bindparam("study_id"), study_parameters.c.name == bindparam("name")
)


def _from(before: Draft, after: Draft) -> dict[str, Any]:
    """The values of the statement that brings a trial from one draft to another."""
    return {
        "old_set_id": before.parameter_set_id,
        "old_configuration": before.configuration,
        "parameter_set_id": after.parameter_set_id,
        "configuration": after.configuration,
    }


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


def _hidden(kind: AttributeKind, key: str, value: Any) -> list[Any]:
    """An attribute's value by the rules of privacy, in a list, which is empty where it is dropped."""
    privacy = current()
    if privacy.is_open:
        return [value]
    return list(privacy.attributes({key: value}).values()) if kind == "user" else [privacy.document(value)]


def _check_searched(drawn_from: Mapping[str, BaseDistribution]) -> None:
    """Raises PrivacyError where a parameter must not be stored."""
    privacy = current()
    if not privacy.is_open:
        for name, distribution in drawn_from.items():
            privacy.check_searched(name, getattr(distribution, "choices", None))


def _insert_all(connection: Connection, table: Table, rows: list[dict[str, Any]]) -> None:
    if rows:
        connection.execute(insert(table), rows)


def _attribute_rows(trial_id: int, trial: FrozenTrial) -> list[dict[str, Any]]:
    kinds: dict[AttributeKind, dict[str, Any]] = {"user": trial.user_attrs, "system": trial.system_attrs}
    return [
        {"trial_id": trial_id, "kind": kind, "key": key, "value": json.dumps(kept)}
        for kind, attributes in kinds.items()
        for key, value in attributes.items()
        for kept in _hidden(kind, key, value)
    ]


def _curve_rows(trial_id: int, trial: FrozenTrial) -> list[dict[str, Any]]:
    curve = trial.intermediate_values.items()
    return [{"trial_id": trial_id, "step": step, "value": reported(value)} for step, value in curve]


def _directions(study: Any) -> list[StudyDirection]:
    return [StudyDirection[name.upper()] for name in json.loads(study.directions)]


def _seconds(local: datetime | None) -> float | None:
    return None if local is None else local.timestamp()
