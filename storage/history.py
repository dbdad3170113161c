"""What past runs say: studies, their trials, and which of them belong together."""

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.trial import TrialState
from sqlalchemy import ColumnElement, Connection, Select, and_, case, or_, select

from storage.database import Store
from storage.distributions import ParameterSet, ParameterSets
from storage.errors import StudyNotFoundError
from storage.families import METRIC_NAMES, family_of, undeclared_spaces
from storage.models import (
    UNFINISHED,
    families,
    intermediate_values,
    studies,
    study_attributes,
    tasks,
    trial_attributes,
    trials,
)
from storage.retries import retried
from storage.study_progress import MOST_LISTED, Part, progress_of

FEW = 10  # studies that are looked at one by one


@dataclass(frozen=True, kw_only=True)
class StudySummary:
    """A study at a glance."""

    study_id: int
    name: str
    task: str | None
    metric: str | None
    directions: tuple[str, ...]
    family: str  # the same for studies that share space, metric and directions
    source: str  # which program ran it
    counts: Mapping[TrialState, int]  # trials in each state
    objectives: tuple[str, ...]  # what is measured, one per direction; `value 0` and so on where nobody says it
    best: float | None  # of the first objective; always finite
    created_at: datetime
    finished_at: datetime | None  # when its last trial did
    space: Mapping[str, Any] | None  # as declared
    spec: Mapping[str, Any] | None  # the study file
    mlflow_uri: str | None
    provenance: Mapping[str, Any] | None

    @property
    def has_parameters(self) -> bool:
        """Whether any is declared or was used; studies without one have a family in name only."""
        return self.family != family_of({}, self.metric, self.directions)

    @property
    def trials(self) -> int:
        """How many trials there are in all."""
        return sum(self.counts.values())


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """A trial as it went."""

    trial_id: int
    number: int
    state: TrialState
    value: float | None  # of the first objective
    values: tuple[float, ...]  # of all objectives; none where there is none
    params: Mapping[str, Any]  # as the training code got them
    distributions: Mapping[str, BaseDistribution]  # what they were drawn from
    started_at: datetime | None
    finished_at: datetime | None
    attempt: int
    worker: str | None
    cost_seconds: float | None
    epochs: int | None
    peak_memory_bytes: int | None
    seed: int | None
    code_version: str | None
    data_fingerprint: str | None
    hardware: str | None
    checkpoint: str | None
    error: str | None
    intermediate_values: Mapping[int, float]  # by step
    user_attrs: Mapping[str, Any]
    system_attrs: Mapping[str, Any]  # Optuna's, and ours: why it was proposed, which results came too late


@dataclass(frozen=True, kw_only=True)
class StudyTrials:
    """A study with its trials."""

    study: StudySummary
    trials: tuple[TrialRecord, ...]


@retried
def list_studies(store: Store) -> list[StudySummary]:
    """All studies, oldest first."""
    with store.read() as connection:
        return _summaries(store, connection, _STUDIES)


@retried
def newest_studies(
    store: Store, *, limit: int, name: str | None = None, search: str | None = None, before: int | None = None
) -> list[StudySummary]:
    """At most so many studies, the newest first.

    name: exactly this one. search: part of the name, task or family. before: only studies with a smaller id.
    """
    words = select(studies.c.id, studies.c.name, tasks.c.name.label("task"), families.c.name.label("family"))
    words = words.select_from(_JOINED).order_by(studies.c.id.desc())
    if name is not None:
        words = words.where(studies.c.name == name)
    if before is not None:
        words = words.where(studies.c.id < before)
    with store.read() as connection:
        if search is None:
            ids = list(connection.execute(words.limit(limit)).scalars())
        else:
            ids = _found(store, connection, words, search.lower(), limit)
        return _summaries(store, connection, _STUDIES.where(studies.c.id.in_(ids)))[::-1]


def _found(store: Store, connection: Connection, words: Select[Any], search: str, limit: int) -> list[int]:
    """The ids of studies in which a text in small letters is found."""
    ids: list[int] = []
    for row in connection.execute(words):
        family = row.family
        if family is None:  # none of its trials has finished: what its family will be is in its space
            family = _summaries(store, connection, _STUDIES.where(studies.c.id == row.id))[0].family
        if any(search in word.lower() for word in (row.name, row.task or "", family)):
            ids.append(row.id)
            if len(ids) == limit:
                break
    return ids


@retried
def get_study(store: Store, name: str) -> StudySummary:
    """The study of that name. Raises StudyNotFoundError, which lists near names."""
    with store.read() as connection:
        found = _summaries(store, connection, _STUDIES.where(studies.c.name == name))
        if not found:
            raise StudyNotFoundError.named(name, connection.execute(select(studies.c.name)).scalars())
    return found[0]


@retried
def study_of_id(store: Store, study_id: int) -> StudySummary:
    """The study of that id. Raises StudyNotFoundError."""
    with store.read() as connection:
        found = _summaries(store, connection, _STUDIES.where(studies.c.id == study_id))
    if not found:
        raise StudyNotFoundError(f"There is no study with id {study_id}.")
    return found[0]


@retried
def ids_of_studies(store: Store, names: Iterable[str]) -> dict[str, int]:
    """The ids of studies by name; of names that no study has, nothing."""
    query = select(studies.c.name, studies.c.id).where(studies.c.name.in_(list(names)))
    with store.read() as connection:
        return {row.name: row.id for row in connection.execute(query)}


@retried
def latest_names(store: Store, *, most: int) -> list[str]:
    """The names of the studies that were made last, the newest first."""
    with store.read() as connection:
        return list(connection.execute(select(studies.c.name).order_by(studies.c.id.desc()).limit(most)).scalars())


@retried
def names_of_ids(store: Store, ids: Iterable[int]) -> dict[int, str]:
    """The names of studies by id; of ids that there are not, nothing."""
    query = select(studies.c.id, studies.c.name).where(studies.c.id.in_(list(ids)))
    with store.read() as connection:
        return {row.id: row.name for row in connection.execute(query)}


def contrary_study(
    store: Store, *, task: str, metric: str, directions: Iterable[str], family: str, except_for: str
) -> StudySummary | None:
    """A study, other than the one named, with these directions: of the same task and metric, or of the family."""
    wanted = json.dumps(list(directions))
    same_task = and_(tasks.c.name == task, tasks.c.metric == metric, studies.c.directions == wanted)
    same_family = studies.c.family_id == select(families.c.id).where(families.c.name == family).scalar_subquery()
    query = _STUDIES.where(or_(same_task, same_family), studies.c.name != except_for).limit(1)
    with store.read() as connection:
        found = _summaries(store, connection, query)
    return found[0] if found else None


@retried
def list_trials(store: Store, study_id: int) -> list[TrialRecord]:
    """The trials of a study by number. Raises StudyNotFoundError."""
    with store.read() as connection:
        if connection.execute(select(studies.c.id).where(studies.c.id == study_id)).first() is None:
            raise StudyNotFoundError(f"There is no study with id {study_id}.")
        return _records(connection, study_id, ParameterSets())


@retried
def completed_values(store: Store, study_id: int) -> list[float]:
    """The first value of each finished trial of a study by number; NaN for one that was pruned or failed."""
    query = (
        select(case((trials.c.state == TrialState.COMPLETE.value, trials.c.value)))
        .where(trials.c.study_id == study_id, trials.c.state.not_in(UNFINISHED))
        .order_by(trials.c.number)
    )
    with store.read() as connection:
        return [math.nan if value is None else value for value in connection.execute(query).scalars()]


def family_trials(store: Store, family_or_task: str) -> list[StudyTrials]:
    """The studies of a family, or of a task, each with its trials; empty when there are none."""
    known = ParameterSets()
    with store.read() as connection:
        related = [
            study for study in _summaries(store, connection, _STUDIES) if family_or_task in (study.family, study.task)
        ]
        return [
            StudyTrials(study=study, trials=tuple(_records(connection, study.study_id, known))) for study in related
        ]


@retried
def peak_memory(store: Store, family: str, *, most: int = 1_000) -> list[int]:
    """The bytes that the newest trials of a family took at their peak, `most` at most."""
    peak = trials.c.peak_memory_bytes
    query = (
        select(peak)
        .join_from(trials, studies)
        .join(families)
        .where(families.c.name == family, peak.is_not(None))
        .order_by(trials.c.id.desc())
        .limit(most)
    )
    with store.read() as connection:
        return list(connection.execute(query).scalars())


_JOINED = studies.outerjoin(tasks, tasks.c.id == studies.c.task_id).outerjoin(
    families, families.c.id == studies.c.family_id
)
_STUDIES = (
    select(studies, tasks.c.name.label("task"), tasks.c.metric, families.c.name.label("family_name"))
    .select_from(_JOINED)
    .order_by(studies.c.id)
)


def _summaries(store: Store, connection: Connection, query: Select[Any]) -> list[StudySummary]:
    rows = connection.execute(query).all()
    ids = [row.id for row in rows]
    undeclared = [row.id for row in rows if row.family_name is None and row.space is None]
    if len(undeclared) <= FEW:
        spaces = {each: found for one in undeclared for each, found in undeclared_spaces(connection, one).items()}
    else:
        spaces = undeclared_spaces(connection)
    progress = progress_of(store, connection, {row.id: row.created_at for row in rows})
    names = _metric_names(connection, ids if len(ids) <= MOST_LISTED else None)
    return [_summary(row, spaces.get(row.id, {}), progress.get(row.id, []), names.get(row.id)) for row in rows]


def _summary(row: Any, undeclared: Mapping[str, Mapping[str, Any]], progress: list[Part], names: Any) -> StudySummary:
    directions = tuple(json.loads(row.directions))
    if not isinstance(names, list) or len(names) != len(directions):
        several = [f"value {place}" for place in range(len(directions))]
        names = several if len(directions) > 1 else [row.metric or "value"]
    space = _from_json(row.space)
    best = [part.lowest if directions[0] == "minimize" else part.highest for part in progress]
    known_best = [value for value in best if value is not None]
    return StudySummary(
        study_id=row.id,
        name=row.name,
        task=row.task,
        metric=row.metric,
        directions=directions,
        objectives=tuple(map(str, names)),
        family=row.family_name or family_of(space or undeclared, row.metric, directions),
        source=row.source,
        counts=dict.fromkeys(TrialState, 0) | {TrialState(part.state): part.trials for part in progress},
        best=known_best[0] if known_best else None,
        created_at=datetime.fromtimestamp(row.created_at, UTC),
        finished_at=_utc(max((part.last for part in progress if part.last is not None), default=None)),
        space=space,
        spec=_from_json(row.spec),
        mlflow_uri=row.mlflow_uri,
        provenance=_from_json(row.provenance),
    )


def _metric_names(connection: Connection, study_ids: list[int] | None) -> dict[int, Any]:
    """What studies say that their objectives measure."""
    query = select(study_attributes.c.study_id, study_attributes.c.value).where(
        study_attributes.c.kind == "system", study_attributes.c.key == METRIC_NAMES
    )
    if study_ids is not None:
        query = query.where(study_attributes.c.study_id.in_(study_ids))
    return {row.study_id: json.loads(row.value) for row in connection.execute(query)}


def _records(connection: Connection, study_id: int, known: ParameterSets) -> list[TrialRecord]:
    rows = connection.execute(select(trials).where(trials.c.study_id == study_id).order_by(trials.c.number)).all()
    return records_of(connection, rows, known, trials.c.study_id == study_id)


def records_of(
    connection: Connection, rows: Sequence[Any], known: ParameterSets, which: ColumnElement[bool], *, full: bool = True
) -> list[TrialRecord]:
    """Rows of `trials` with what belongs to them. which: the condition that they meet. full: with their curves."""
    curves: dict[int, dict[int, float]] = defaultdict(dict)
    points = select(intermediate_values).join(trials).where(which)
    for trial_id, step, value in connection.execute(points.order_by(intermediate_values.c.step)).all() if full else ():
        curves[trial_id][step] = math.nan if value is None else value
    attributes: dict[int, dict[str, dict[str, Any]]] = defaultdict(lambda: {"user": {}, "system": {}})
    noted = select(trial_attributes).join(trials).where(which)
    for trial_id, kind, key, value in connection.execute(noted).all():
        attributes[trial_id][kind][key] = json.loads(value)
    sets = known.load(connection, {row.parameter_set_id for row in rows})
    return [_record(row, sets[row.parameter_set_id or 0], curves.get(row.id, {}), attributes[row.id]) for row in rows]


def _record(
    row: Any,
    parameter_set: ParameterSet,
    curve: Mapping[int, float],
    attributes: Mapping[str, Mapping[str, Any]],
) -> TrialRecord:
    return TrialRecord(
        trial_id=row.id,
        number=row.number,
        state=TrialState(row.state),
        value=row.value,
        values=() if row.value is None else (row.value, *json.loads(row.more_values or "[]")),
        params=parameter_set.decode(row.configuration),
        distributions=parameter_set.by_name,
        started_at=_utc(row.started_at),
        finished_at=_utc(row.finished_at),
        attempt=row.attempt,
        worker=row.worker,
        cost_seconds=row.cost_seconds,
        epochs=row.epochs,
        peak_memory_bytes=row.peak_memory_bytes,
        seed=row.seed,
        code_version=row.code_version,
        data_fingerprint=row.data_fingerprint,
        hardware=row.hardware,
        checkpoint=row.checkpoint,
        error=row.error,
        intermediate_values=curve,
        user_attrs=attributes["user"],
        system_attrs=attributes["system"],
    )


def _utc(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def _from_json(text: str | None) -> Any:
    return None if text is None else json.loads(text)
