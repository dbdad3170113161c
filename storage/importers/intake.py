"""How runs that a reader has found become trials: each once, in whole batches, with a reason for those that do not.

A run is known by its key. Within its study (or, where keys are unique in the world, in the whole history) it is taken
once; what comes again with other content is rejected and the first stays, for finished trials never change.
Batches are transactions: whatever kills an import, it can be run again, and goes on.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

from sqlalchemy import BindParameter, Connection, bindparam, select, text, update

from storage.database import Store, insert_if_absent, insert_many, upsert
from storage.distributions import ParameterSet, ParameterSets, distribution_of, pack, unpack
from storage.errors import ImportFailedError, StorageError
from storage.families import Space, family_id_for, family_of, leave_family, note_changes
from storage.importers.flags import find_flags
from storage.importers.report import ROWS_KEPT, ImportReport, NotTaken, TaskReport, Verdict, general
from storage.importers.rows import DETAILS, Batch, Row, rows_of, rows_of_table
from storage.importers.runs import PastRun, PastTask, RunColumns
from storage.importers.spaces import merged
from storage.models import (
    intermediate_values,
    sources,
    studies,
    study_attributes,
    study_parameters,
    tasks,
    trial_attributes,
    trials,
)
from storage.retries import patiently
from storage.sources import Source, note_source
from storage.studies import SPACE_ATTRIBUTE
from storage.trial_rows import next_numbers_locking

RUNS_PER_TRANSACTION = 10_000
SECONDS_BETWEEN_WRITES = 3.0  # at most: what was slow to read must not be lost
KEYS_PER_QUERY = 10_000
RESERVED_NAMES = ("hindsight", "optuna")  # the sources of studies that ran here
COLUMNS = ("study_id", "number", "state", "value", "parameter_set_id", "configuration", *DETAILS, "source_key")

T = TypeVar("T")
Content = tuple[int, float | None, tuple[str, ...], bytes]
"""What must be the same when a run comes again: state, value, active parameters, configuration."""


@dataclass(kw_only=True)
class _Outcome:
    """What became of the rows of a batch: names with reasons for those that were not taken."""

    taken: list[Row] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    rejected: list[tuple[str, str]] = field(default_factory=list)


class Intake:
    """Takes runs into the history, batch by batch, and keeps account of what became of each.

    scope: where keys are unique. "store": in the world, as MLflow's run ids, so the same run under another source is
    recognised too. "study": among the runs of a study.
    """

    def __init__(
        self, store: Store, *, source: Source, dry_run: bool = False, scope: Literal["study", "store"] = "study"
    ) -> None:
        self._store, self._scope = store, scope
        self._sets = ParameterSets()
        self._waiting: list[Batch] = []
        self._imagined: dict[str, dict[str, Content]] = {}  # what a dry run would have taken, by study and key
        self._families: dict[str, int] = {}  # in the transaction under way
        self._report = ImportReport(source=source, dry_run=dry_run)
        self._written_at = time.monotonic()
        self._check_source(source)

    # What a reader asks and tells

    def known_keys(self, keys: Sequence[str]) -> set[str]:
        """Which of these runs are in the history already, wherever they came from."""
        known: set[str] = set()
        with self._store.read() as connection:
            for some in _slices(keys, KEYS_PER_QUERY):
                known |= set(connection.execute(_KNOWN_KEYS, {"keys": some}).scalars())
        return known

    def known_space(self, study: str) -> Space | None:
        """The space of a study that was imported before, to be widened; None for a new one."""
        with self._store.read() as connection:
            space = connection.execute(select(studies.c.space).where(studies.c.name == study)).scalar()
        return None if space is None else dict(json.loads(space))

    def take(self, task: PastTask, runs: Sequence[PastRun]) -> None:
        """Take runs of a task."""
        self._account(task)
        self._wait(rows_of(task, runs, lambda row, reason: self.reject(row, reason, study=task.study)))

    def take_table(self, task: PastTask, columns: RunColumns) -> None:
        """Take many runs that are checked already: they lie in the task's space."""
        self._account(task)
        self._wait(rows_of_table(task, columns))

    def reject(self, row: str, reason: str, *, study: str | None = None) -> None:
        """Note a run that cannot be used. Particulars go behind a colon: `a value outside of the space: lr = 3`."""
        self._not_taken(row, "rejected", reason, study)

    def skip(self, row: str, reason: str, *, study: str | None = None) -> None:
        """Note a run that is left out though nothing is wrong with it."""
        self._not_taken(row, "skipped", reason, study)

    def note(self, text: str) -> None:
        """Note a guess that the user should see."""
        if text not in self._report.notes:
            self._report.notes.append(text)

    def finish(self) -> ImportReport:
        """Write what is left, look at the whole for what is odd, and report."""
        self._write_waiting()
        if not self._report.dry_run:
            with self._store.write() as connection:
                note_source(self._store, connection, self._report.source)
            touched = [task.study for task in self._report.tasks.values() if task.taken]
            self._report.flags += find_flags(self._store, touched)
        return self._report

    # Accounts

    def _check_source(self, source: Source) -> None:
        with self._store.read() as connection:
            known = connection.execute(select(sources).where(sources.c.name == source.name)).first()
        if source.name in RESERVED_NAMES:
            owner = "studies that ran here"
        elif known is not None and (known.kind, known.location) != (source.kind, source.location):
            owner = f"{known.kind} runs from {known.location}"
        else:
            return
        raise ImportFailedError(f"The source name {source.name!r} stands for {owner} already: give another one.")

    def _account(self, task: PastTask) -> None:
        if task.study not in self._report.tasks:
            self._report.tasks[task.study] = TaskReport(
                task=task.name,
                study=task.study,
                family=family_of(task.space, task.metric, [task.direction]) if task.space else None,
                metric=task.metric,
                direction=task.direction,
                space=task.space,
            )

    def _not_taken(self, row: str, verdict: Verdict, reason: str, study: str | None) -> None:
        counter = self._report.skipped if verdict == "skipped" else self._report.rejected
        counter[general(reason)] += 1
        if len(self._report.rows) < ROWS_KEPT:
            self._report.rows.append(NotTaken(row=row, verdict=verdict, reason=reason))
        task = self._report.tasks.get(study or "")
        if task is not None:
            setattr(task, verdict, getattr(task, verdict) + 1)

    def _settle(self, batch: Batch, outcome: _Outcome) -> None:
        study = batch.task.study
        for key, reason in outcome.skipped:
            self.skip(key, reason, study=study)
        for key, reason in outcome.rejected:
            self.reject(key, reason, study=study)
        self._report.taken += len(outcome.taken)
        self._report.tasks[study].taken += len(outcome.taken)

    # Writing

    def _wait(self, batch: Batch) -> None:
        """Keep a batch until there are enough for a transaction; a big one goes in slices."""
        for rows in _slices(batch.rows, RUNS_PER_TRANSACTION):
            if any(waiting.task.study == batch.task.study for waiting in self._waiting):
                self._write_waiting()
            self._waiting.append(replace(batch, rows=rows))
            is_much = sum(len(waiting.rows) for waiting in self._waiting) >= RUNS_PER_TRANSACTION
            if is_much or time.monotonic() - self._written_at >= SECONDS_BETWEEN_WRITES:
                self._write_waiting()

    def _write_waiting(self) -> None:
        self._written_at = time.monotonic()
        batches, self._waiting = self._waiting, []
        if not batches:
            return
        if self._report.dry_run:
            with self._store.read() as connection:
                outcomes = [self._imagine(connection, batch) for batch in batches]
        else:
            outcomes = patiently(lambda: self._write(batches), self._store.patience_seconds)  # what is in is known
        for batch, outcome in zip(batches, outcomes, strict=True):
            self._settle(batch, outcome)

    def _write(self, batches: Sequence[Batch]) -> list[_Outcome]:
        """Write batches of different studies, in one transaction."""
        try:
            with self._store.write() as connection:
                if self._scope == "store" and self._store.dialect == "postgresql":
                    connection.execute(text("SELECT pg_advisory_xact_lock(hashtextextended('hindsight import', 0))"))
                note_source(self._store, connection, self._report.source)
                outcomes = [_Outcome() for _ in batches]
                self._families = {}  # another process may have emptied one since
                self._write_studies(connection, batches, outcomes)
                return outcomes
        except BaseException:
            self._sets = ParameterSets()  # what was interned may be gone with the transaction
            raise

    def _write_studies(self, connection: Connection, batches: Sequence[Batch], outcomes: Sequence[_Outcome]) -> None:
        found = self._studies(connection, [batch.task for batch in batches])
        numbers = next_numbers_locking(connection, [study.id for study in found.values()])
        new: list[tuple[int, int, Batch, Sequence[Row]]] = []  # study, its first new number, what comes into it
        for batch, outcome in zip(batches, outcomes, strict=True):
            study = found[batch.task.study]
            try:
                self._check_owner(study, batch.task)
                moved = self._in_one_space(connection, study, batch)
            except (StorageError, ValueError) as error:
                outcome.rejected += [(row.name, str(error)) for row in batch.rows]
                continue
            known = self._known(connection, moved, study.id if numbers[study.id] else None)
            _sort_out(moved, known, outcome)
            if outcome.taken:
                new.append((study.id, numbers[study.id], moved, outcome.taken))
        self._insert(connection, new)
        members: dict[int, list[int]] = {}
        for study_id, _, batch, _ in new:
            members.setdefault(self._family_id(connection, batch.task), []).append(study_id)
        note_changes(self._store, connection, members)

    def _studies(self, connection: Connection, wanted: Sequence[PastTask]) -> dict[str, Any]:
        """The studies of tasks by name, new or old."""
        now, names = time.time(), [task.study for task in wanted]
        known_tasks = self._tasks(connection, wanted, now)
        old = {study.name for study in connection.execute(_STUDIES, {"names": names})}
        new = [task for task in wanted if task.study not in old]
        if new:
            rows = [
                {
                    "name": task.study,
                    "task_id": known_tasks[task.name, task.metric],
                    "family_id": self._family_id(connection, task),
                    "directions": json.dumps([task.direction]),
                    "space": json.dumps(task.space),
                    "source": self._report.source.name,
                    "created_at": task.created_at or now,
                    "provenance": json.dumps(dict(task.provenance)) if task.provenance else None,
                }
                for task in new
            ]
            connection.execute(insert_if_absent(self._store.dialect, studies), rows)
        found = {study.name: study for study in connection.execute(_STUDIES, {"names": names})}
        self._declare(connection, {found[task.study].id: task.space for task in new})
        attributes = [
            {"study_id": found[task.study].id, "kind": "user", "key": key, "value": json.dumps(value)}
            for task in new
            for key, value in task.user_attrs.items()
        ]
        if attributes:
            connection.execute(upsert(self._store.dialect, study_attributes), attributes)
        return found

    def _family_id(self, connection: Connection, task: PastTask) -> int:
        key = json.dumps([task.space, task.metric, task.direction])
        known = self._families.get(key)
        if known is None:
            known = family_id_for(self._store, connection, task.space, task.metric, [task.direction])
            self._families[key] = known
        return known

    def _tasks(self, connection: Connection, wanted: Sequence[PastTask], now: float) -> dict[tuple[str, str], int]:
        """The ids of tasks by name and metric, new or old."""
        rows = [
            {"name": task.name, "metric": task.metric, "direction": task.direction, "created_at": now}
            for task in wanted
        ]
        connection.execute(insert_if_absent(self._store.dialect, tasks), rows)
        names = {"names": [task.name for task in wanted]}
        return {(task.name, task.metric): task.id for task in connection.execute(_TASKS, names)}

    def _check_owner(self, study: Any, task: PastTask) -> None:
        """Raises StorageError where the study, or its task, is not what this source says."""
        if study.source != self._report.source.name:
            raise StorageError(
                f"the study's name is taken: {task.study!r} comes from {study.source!r}; give this source another name"
            )
        if (study.task, study.metric) != (task.name, task.metric):
            raise StorageError(f"another task: study {task.study!r} is of {study.task!r} and {study.metric!r}")
        if study.direction != task.direction:
            raise StorageError(f"another direction: {study.metric} of task {study.task!r} is {study.direction}d so far")

    def _declare(self, connection: Connection, spaces: Mapping[int, Space]) -> None:
        """Note the spaces of studies, where Optuna's world and ours look for them."""
        parameters = [
            {"study_id": study_id, "name": name, "distribution_id": self._distribution_id(connection, name, fields)}
            for study_id, space in spaces.items()
            for name, fields in space.items()
        ]
        if parameters:
            connection.execute(upsert(self._store.dialect, study_parameters), parameters)
        declared = [
            {"study_id": study_id, "kind": "system", "key": SPACE_ATTRIBUTE, "value": json.dumps(space)}
            for study_id, space in spaces.items()
        ]
        if declared:
            connection.execute(upsert(self._store.dialect, study_attributes), declared)

    def _distribution_id(self, connection: Connection, name: str, fields: Mapping[str, Any]) -> int:
        return self._sets.distribution_id_in(self._store, connection, distribution_of(name, fields))

    def _in_one_space(self, connection: Connection, study: Any, batch: Batch) -> Batch:
        """The batch in the space of the study, which is widened where it must be. Raises ValueError."""
        known, new = json.loads(study.space), batch.task.space
        if known == new:
            return batch
        space = merged(known, new)
        if space != known:
            leave_family(connection, study.id)
            self._families = {}  # that one may be gone
            connection.execute(_WIDEN, {"widened_id": study.id, "widened": json.dumps(space)})
            self._declare(connection, {study.id: space})
            family_id = self._family_id(connection, replace(batch.task, space=space))
            connection.execute(_JOIN, {"widened_id": study.id, "family": family_id})
            self._move_trials(connection, study.id, space)
        self._report.tasks[batch.task.study].space = space
        return _moved(batch, space)

    def _move_trials(self, connection: Connection, study_id: int, space: Space) -> None:
        """Let the trials of a study be drawn from its wider space: no value changes, for choices keep their places."""
        for set_id in connection.execute(_SETS_IN_USE, {"study_id": study_id}).scalars().all():
            names = tuple(name for name, _ in self._sets.content_of(connection, set_id))
            wider = self._sets.id_in(self._store, connection, _subset(space, names))
            connection.execute(_MOVE, {"moved_id": study_id, "from_set": set_id, "to_set": wider})

    def _known(self, connection: Connection, batch: Batch, study_id: int | None) -> dict[str, Content]:
        """What the history has under the keys of a batch; study_id: None where the study has no trials yet."""
        known: dict[str, Content] = {}
        if study_id is None and self._scope == "study":
            return known
        for keys in _slices([row.key for row in batch.rows], KEYS_PER_QUERY):
            if self._scope == "study":
                found = connection.execute(_KNOWN_IN_STUDY, {"keys": keys, "study_id": study_id})
            else:
                found = connection.execute(_KNOWN, {"keys": keys})
            for trial in found:
                names = tuple(name for name, _ in self._sets.content_of(connection, trial.parameter_set_id))
                known[trial.source_key] = (trial.state, trial.value, names, bytes(trial.configuration or b""))
        return known

    def _insert(self, connection: Connection, new: Sequence[tuple[int, int, Batch, Sequence[Row]]]) -> None:
        lines: list[tuple[Any, ...]] = []
        for study_id, first_number, batch, rows in new:
            set_ids = [self._sets.id_in(self._store, connection, part) for part in batch.sets]
            numbered = enumerate(rows, start=first_number)
            lines += [(study_id, number, *_columns(row, set_ids[row.set_index])) for number, row in numbered]
        insert_many(connection, trials, COLUMNS, lines)
        points: list[tuple[Any, ...]] = []
        attributes: list[tuple[Any, ...]] = []
        for study_id, first_number, _, rows in new:
            if not any(row.curve or row.user_attrs for row in rows):
                continue
            ids = connection.execute(_NEW_IDS, {"study_id": study_id, "first": first_number}).scalars()
            for trial_id, row in zip(ids, rows, strict=True):
                points += [(trial_id, step, value) for step, value in _points(row)]
                noted = (row.user_attrs or {}).items()
                attributes += [(trial_id, "user", key, json.dumps(value)) for key, value in noted]
        insert_many(connection, intermediate_values, ("trial_id", "step", "value"), points)
        insert_many(connection, trial_attributes, ("trial_id", "kind", "key", "value"), attributes)

    def _imagine(self, connection: Connection, batch: Batch) -> _Outcome:
        """What would become of a batch."""
        outcome = _Outcome()
        study = connection.execute(_STUDIES, {"names": [batch.task.study]}).first()
        try:
            if study is not None:
                self._check_owner(study, batch.task)
                batch = _moved(batch, merged(json.loads(study.space), batch.task.space))
        except (StorageError, ValueError) as error:
            outcome.rejected += [(row.name, str(error)) for row in batch.rows]
            return outcome
        known = self._known(connection, batch, None if study is None else study.id)
        imagined = self._imagined.setdefault(batch.task.study, {})
        _sort_out(batch, known | imagined, outcome)
        imagined.update((row.key, _content(row, batch)) for row in outcome.taken)
        return outcome


def _sort_out(batch: Batch, known: Mapping[str, Content], outcome: _Outcome) -> None:
    """Find out which rows are new."""
    seen = dict(known)
    for row in batch.rows:
        content = _content(row, batch)
        before = seen.setdefault(row.key, content)
        if before is content:
            outcome.taken.append(row)
        elif before == content:
            outcome.skipped.append((row.name, "already here"))
        else:
            outcome.rejected.append((row.name, _difference(before, content)))


def _content(row: Row, batch: Batch) -> Content:
    return row.state, row.value, batch.sets[row.set_index].names, row.configuration or b""


def _difference(before: Content, now: Content) -> str:
    if before[2:] != now[2:]:
        return "differs from what was imported before: another configuration"
    return f"differs from what was imported before: value {before[1]}, now {now[1]}"


def _moved(batch: Batch, space: Space) -> Batch:
    """A batch in a wider space: only choices may be in other places there."""
    places: dict[str, Mapping[float, float]] = {}
    for name, fields in batch.task.space.items():
        if fields["type"] == "categorical" and fields["choices"] != space[name]["choices"][: len(fields["choices"])]:
            wider = distribution_of(name, space[name])
            places[name] = {
                float(place): wider.to_internal_repr(choice) for place, choice in enumerate(fields["choices"])
            }
    sets = tuple(_subset(space, part.names) for part in batch.sets)
    rows = batch.rows
    if places:
        rows = [row._replace(configuration=_replaced(row, sets[row.set_index], places)) for row in rows]
    return Batch(task=replace(batch.task, space=space), sets=sets, rows=rows)


def _replaced(row: Row, parameter_set: ParameterSet, places: Mapping[str, Mapping[float, float]]) -> bytes | None:
    if row.configuration is None:
        return None
    values = zip(parameter_set.names, unpack(row.configuration).tolist(), strict=True)
    return pack([places[name][value] if name in places else value for name, value in values])


def _subset(space: Space, names: tuple[str, ...]) -> ParameterSet:
    return ParameterSet(names=names, distributions=tuple(distribution_of(name, space[name]) for name in names))


def _columns(row: Row, set_id: int | None) -> tuple[Any, ...]:
    """A row without the study and the number that it gets there."""
    return row.state, row.value, set_id, row.configuration, *row.details, row.key


def _points(row: Row) -> Iterator[tuple[int, float | None]]:
    """The curve, each step once, the last value at it; NaN as the databases keep it."""
    for step, value in dict(row.curve).items():
        yield int(step), None if value != value else float(value)  # noqa: PLR0124 - only NaN is not itself


def _slices(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[start : start + size] for start in range(0, len(items), size))


_content_columns = (
    trials.c.source_key,
    trials.c.state,
    trials.c.value,
    trials.c.parameter_set_id,
    trials.c.configuration,
)
_has_key = trials.c.source_key.in_(bindparam("keys", expanding=True))
_KNOWN_KEYS = select(trials.c.source_key).where(_has_key)
_KNOWN = select(*_content_columns).where(_has_key)
_KNOWN_IN_STUDY = _KNOWN.where(trials.c.study_id == bindparam("study_id"))
_NAMES: BindParameter[Any] = bindparam("names", expanding=True)
_STUDIES = (
    select(studies.c.id, studies.c.name, studies.c.source, studies.c.space)
    .add_columns(tasks.c.name.label("task"), tasks.c.metric, tasks.c.direction)
    .join_from(studies, tasks, isouter=True)
    .where(studies.c.name.in_(_NAMES))
)
_TASKS = select(tasks.c.id, tasks.c.name, tasks.c.metric).where(tasks.c.name.in_(_NAMES))
_JOIN = update(studies).where(studies.c.id == bindparam("widened_id")).values(family_id=bindparam("family"))
_WIDEN = update(studies).where(studies.c.id == bindparam("widened_id")).values(space=bindparam("widened"))
_SETS_IN_USE = (
    select(trials.c.parameter_set_id)
    .where(trials.c.study_id == bindparam("study_id"), trials.c.parameter_set_id.is_not(None))
    .distinct()
)
_MOVE = (
    update(trials)
    .where(trials.c.study_id == bindparam("moved_id"), trials.c.parameter_set_id == bindparam("from_set"))
    .values(parameter_set_id=bindparam("to_set"))
)
_NEW_IDS = (
    select(trials.c.id)
    .where(trials.c.study_id == bindparam("study_id"), trials.c.number >= bindparam("first"))
    .order_by(trials.c.number)
)
