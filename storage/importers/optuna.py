"""How the studies of other Optuna storages come into the history: databases, journals, and other histories.

Taken are trials that are complete, pruned or failed, with distributions, intermediate values and user attributes.
A pruned trial without a value has that of its last report, as in Optuna. A value that is not finite counts as a
failure. Of the system attributes those are kept that say something about the trial itself, under `optuna:system`;
the rest are notes that samplers leave for themselves. Studies with several objectives are left out: the history of a
task has one metric.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import make_url

from storage.database import Store
from storage.distributions import ParameterSet
from storage.errors import ImportFailedError, did_you_mean
from storage.export_spaces import widened
from storage.families import METRIC_NAMES, Space
from storage.history import TrialRecord, list_studies, list_trials
from storage.importers.intake import Intake
from storage.importers.logged.runs import source_name
from storage.importers.mapping import RunMapping, check_template, scaled, task_name
from storage.importers.optuna_storages import OtherStorage, StoragePlace, is_history, name_of_time, place_of
from storage.importers.recorded.mapping import mapped_space
from storage.importers.recorded.space import RecordedSpace
from storage.importers.report import ImportReport, RowByRow
from storage.importers.runs import PastRun, PastTask
from storage.optuna_storage import HistoryStorage
from storage.schema import open_store
from storage.sources import Source
from storage.studies import SPACE_ATTRIBUTE

RUNS_AT_A_TIME = 5_000
UNNAMED_METRIC = "value"
TELLING_ATTRIBUTES = ("constraints", "fixed_params", "failed_trial", "retry_history")  # system attributes of trials

T = TypeVar("T", FrozenTrial, TrialRecord)


@dataclass(kw_only=True)
class _OtherStudy:
    """A study of the other storage, with its trials."""

    name: str
    task: str
    metric: str
    directions: tuple[str, ...]
    space: Space  # as declared; empty where it was defined by running
    created_at: float | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    user_attrs: Mapping[str, Any] = field(default_factory=dict)
    runs: list[PastRun] = field(default_factory=list)
    distributions: dict[tuple[str, BaseDistribution], None] = field(default_factory=dict)  # that runs were drawn from
    skipped: list[tuple[str, str]] = field(default_factory=list)  # trials, with the reason

    def add(self, trial: T, as_run: Callable[[T], PastRun]) -> None:
        """Note a trial."""
        if trial.state.is_finished():
            run = as_run(trial)
            run.label = f"{self.name} trial {trial.number}"
            self.runs.append(run)
            self.distributions.update(dict.fromkeys(trial.distributions.items()))
        else:
            self.skipped.append((f"{self.name} trial {trial.number}", f"not finished yet: {trial.state.name}"))


def import_optuna(
    store: Store,
    *,
    storage: str,
    studies: Sequence[str] = (),
    source: str | None = None,
    dry_run: bool = False,
    progress: Callable[[int], None] | None = None,
    row_by_row: RowByRow | None = None,
    mapping: RunMapping | Mapping[str, Any] | None = None,
) -> ImportReport:
    """Import the studies of another Optuna storage, each trial once, however often it is imported.

    storage: the URL of a database, or the path of an SQLite file or of a journal's log; it is only read.
    studies: names; all if there are none. source: what to call the place in the history.
    progress: told how many more trials are done. row_by_row: told what became of each.
    Raises ImportFailedError, with nothing written, where the storage cannot be read or a study is not there.
    """
    mapping = RunMapping.of(mapping)
    if mapping.task is not None:
        check_template(mapping.task)
    place = place_of(storage)
    is_ours = is_history(place)
    if is_ours and (place.path or place.url) == (store.path or make_url(store.url)):
        raise ImportFailedError(f"{place.location} is the history itself.")
    name = source or source_name(store, "optuna", place.short, place.location)
    settings = {"studies": list(studies)}
    intake = Intake(
        store,
        source=Source(name=name, kind="optuna", location=place.location, settings=settings),
        dry_run=dry_run,
        row_by_row=row_by_row,
    )
    with closing(_History(place) if is_ours else _Optuna(place)) as other:
        known = other.names()
        for wanted in studies:
            if wanted not in known:
                raise ImportFailedError(
                    f"There is no study {wanted!r} in {place.location}.{did_you_mean(wanted, known)}"
                )
        for study in other.studies(studies or known):
            _take(intake, study, mapping, name, progress or (lambda _number: None))
    return intake.finish()


# What is there


class _Optuna:
    """A storage of Optuna's own."""

    def __init__(self, place: StoragePlace) -> None:
        self._place, self._other = place, OtherStorage(place)
        self._known = {study.study_name: study for study in self._other.studies()}

    def names(self) -> Sequence[str]:
        return list(self._known)

    def studies(self, names: Sequence[str]) -> Iterator[_OtherStudy]:
        for name in names:
            study = self._known[name]
            metrics = study.system_attrs.get(METRIC_NAMES) or [UNNAMED_METRIC]
            found = _OtherStudy(
                name=name,
                task=name,
                metric=str(metrics[0]),
                directions=tuple(direction.name.lower() for direction in study.directions),
                space=study.system_attrs.get(SPACE_ATTRIBUTE) or {},
                user_attrs=study.user_attrs,
            )
            for trial in self._other.trials(study) if len(found.directions) == 1 else ():
                found.add(trial, lambda trial: _run_of_optuna(self._place, trial))
            found.created_at = min((run.started_at for run in found.runs if run.started_at is not None), default=None)
            yield found

    def close(self) -> None:
        self._other.close()


class _History:
    """A history, which knows more about its trials than Optuna does."""

    def __init__(self, place: StoragePlace) -> None:
        assert place.url is not None
        self._other = open_store(place.url.render_as_string(hide_password=False), upgrade=False)
        self._known = {study.name: study for study in list_studies(self._other)}

    def names(self) -> Sequence[str]:
        return list(self._known)

    def studies(self, names: Sequence[str]) -> Iterator[_OtherStudy]:
        attributes = HistoryStorage(self._other)
        for name in names:
            study = self._known[name]
            metrics = attributes.get_study_system_attrs(study.study_id).get(METRIC_NAMES) or [UNNAMED_METRIC]
            found = _OtherStudy(
                name=name,
                task=study.task or name,
                metric=study.metric or str(metrics[0]),
                directions=study.directions,
                space=study.space or {},
                created_at=study.created_at.timestamp(),
                provenance=study.provenance or {},
                user_attrs=attributes.get_study_user_attrs(study.study_id),
            )
            for trial in list_trials(self._other, study.study_id) if len(found.directions) == 1 else ():
                found.add(trial, _run_of_history)
            yield found

    def close(self) -> None:
        self._other.dispose()


def _run_of_optuna(place: StoragePlace, trial: FrozenTrial) -> PastRun:
    started, ended = trial.datetime_start, trial.datetime_complete
    value = trial.values[0] if trial.values else None
    telling = {key: trial.system_attrs[key] for key in TELLING_ATTRIBUTES if key in trial.system_attrs}
    return _judged(
        PastRun(
            key=_key(trial.number, name_of_time(place, started)),
            params=trial.params,
            value=value,
            state=trial.state,
            curve=sorted(trial.intermediate_values.items()),
            started_at=None if started is None else started.timestamp(),
            finished_at=None if ended is None else ended.timestamp(),
            cost_seconds=None if started is None or ended is None else max((ended - started).total_seconds(), 0.0),
            user_attrs=trial.user_attrs | ({"optuna:system": telling} if telling else {}),
        )
    )


def _run_of_history(trial: TrialRecord) -> PastRun:
    started, ended = trial.started_at, trial.finished_at
    return _judged(
        PastRun(
            key=_key(trial.number, "" if started is None else started.isoformat()),
            params=trial.params,
            value=trial.value,
            state=trial.state,
            curve=sorted(trial.intermediate_values.items()),
            started_at=None if started is None else started.timestamp(),
            finished_at=None if ended is None else ended.timestamp(),
            cost_seconds=trial.cost_seconds,
            epochs=trial.epochs,
            seed=trial.seed,
            code_version=trial.code_version,
            data_fingerprint=trial.data_fingerprint,
            hardware=trial.hardware,
            checkpoint=trial.checkpoint,
            error=trial.error,
            user_attrs=trial.user_attrs,
        )
    )


def _key(number: int, started: str) -> str:
    """A study that was made anew under its name has the same numbers, but other times."""
    return f"{number}@{started}" if started else str(number)


def _judged(run: PastRun) -> PastRun:
    """The run with the value that counts."""
    if run.state == TrialState.PRUNED and run.value is None and run.curve:
        run.value = run.curve[-1][1]
    if run.state == TrialState.FAIL:
        run.value = None
    elif run.value is not None and not math.isfinite(run.value):
        if run.state == TrialState.COMPLETE:
            run.state, run.error = TrialState.FAIL, f"the value is {run.value}"
        run.value = None
    return run


# What is taken


def _take(intake: Intake, study: _OtherStudy, mapping: RunMapping, source: str, done: Callable[[int], None]) -> None:
    for row, reason in study.skipped:
        intake.skip(row, reason)
    done(len(study.skipped))
    if len(study.directions) > 1:
        intake.skip(study.name, f"several objectives: {len(study.directions)}, and a task has one metric")
        return
    sets = [ParameterSet(names=(name,), distributions=(part,)) for name, part in study.distributions]
    try:
        described = RecordedSpace(
            name=study.name,
            metric=study.metric,
            direction=study.directions[0],
            parameters=widened(study.space, sets),
        )
        space = mapped_space(described, replace(mapping, task=None, value=None))
    except ValueError as error:
        intake.reject(study.name, str(error))
        return
    for task, runs in _by_task(intake, study, mapping).items():
        past_task = PastTask(
            name=task,
            study=f"{source}/{task}",
            metric=space.metric,
            direction=space.direction,
            space=space.words,
            created_at=study.created_at,
            provenance=study.provenance,
            user_attrs=study.user_attrs,
        )
        for start in range(0, len(runs), RUNS_AT_A_TIME):
            some = [_mapped(run, space, mapping) for run in runs[start : start + RUNS_AT_A_TIME]]
            intake.take(past_task, some)
            done(len(some))


def _by_task(intake: Intake, study: _OtherStudy, mapping: RunMapping) -> Mapping[str, list[PastRun]]:
    if mapping.task is None:
        return {study.task: study.runs} if study.runs else {}
    found: defaultdict[str, list[PastRun]] = defaultdict(list)
    for run in study.runs:
        try:
            found[task_name(mapping.task, {"study": study.name}, params=run.params, tags=study.user_attrs)].append(run)
        except ValueError as error:
            intake.reject(run.label or run.key, str(error))
    return found


def _mapped(run: PastRun, space: RecordedSpace, mapping: RunMapping) -> PastRun:
    """The run with its parameters and values as a mapping wants them."""
    old = {mapping.rename.get(name, name): name for name in run.params}
    params = {
        part.name: scaled(run.params[old[part.name]], part.factor) if part.factor != 1.0 else run.params[old[part.name]]
        for part in space.parameters
        if part.name in old
    }
    curve = [(step, scaled(value, space.factor)) for step, value in run.curve]
    value = None if run.value is None else scaled(run.value, space.factor)
    if mapping.value == "best" and value is not None:
        finite = [point for _, point in curve if math.isfinite(point)] or [value]
        value = min(finite) if space.direction == "minimize" else max(finite)
    return replace(run, params=params, curve=curve, value=value)
