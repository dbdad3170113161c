"""How runs that a reader has found become trials: each once, in whole batches, with a reason for those that do not.

A run is known by its key. Within its study (or, where keys are unique in the world, in the whole history) it is taken
once; what comes again with other content is rejected and the first stays, for finished trials never change.
Batches are transactions: whatever kills an import, it can be run again, and goes on.
"""

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, count, repeat
from operator import itemgetter
from typing import Any, Literal, TypeVar

from sqlalchemy import BindParameter, Connection, bindparam, select, text, update

from storage.database import Store, insert_if_absent, insert_many, upsert
from storage.distributions import ParameterSet, ParameterSets, pack, unpack
from storage.errors import ImportFailedError, StorageError
from storage.families import Space, family_id_for, leave_family, note_changes
from storage.importers.flags import find_flags
from storage.importers.hidden import hidden_columns, hidden_runs, hidden_source
from storage.importers.report import (
    ROWS_KEPT,
    ImportReport,
    RowByRow,
    RowReport,
    TaskReport,
    Verdict,
    general,
    in_order,
)
from storage.importers.rows import DETAILS, Batch, Content, rows_of, rows_of_table
from storage.importers.runs import Curve, PastRun, PastTask, RunColumns
from storage.importers.spaces import KnownSpaces, merged
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
from storage.privacy import current
from storage.retries import patiently
from storage.seals import begin_chains, seal_trials, with_chains
from storage.sources import Source, note_source
from storage.studies import SPACE_ATTRIBUTE
from storage.trial_rows import next_numbers_locking

RUNS_PER_TRANSACTION = 10_000
SECONDS_BETWEEN_WRITES = 3.0  # at most: what was slow to read must not be lost
KEYS_PER_QUERY = 10_000
RESERVED_NAMES = ("hindsight", "optuna")  # the sources of studies that ran here
COLUMNS = ("study_id", "number", "state", "value", "parameter_set_id", "configuration", "source_key")  # and DETAILS

T = TypeVar("T")


@dataclass(kw_only=True)
class _Outcome:
    """What became of the rows of a batch."""

    taken: Sequence[int] = ()
    first_number: int | None = None  # of the trials that they became
    skipped: list[tuple[int, str]] = field(default_factory=list)  # with the reason
    rejected: list[tuple[int, str]] = field(default_factory=list)


class Intake:
    """Takes runs into the history, batch by batch, and keeps account of what became of each.

    scope: where keys are unique. "store": in the world, as MLflow's run ids, so the same run under another source is
    recognised too. "study": among the runs of a study.
    row_by_row: told what became of each run, in the order of the file within some thousand runs.
    """

    def __init__(
        self,
        store: Store,
        *,
        source: Source,
        dry_run: bool = False,
        scope: Literal["study", "store"] = "study",
        row_by_row: RowByRow | None = None,
    ) -> None:
        self._store, self._scope, self._row_by_row = store, scope, row_by_row
        self._privacy = current()
        source = hidden_source(self._privacy, source)
        self._sets, self._spaces = ParameterSets(), KnownSpaces()
        self._waiting: dict[str, Batch] = {}  # by study
        self._number_waiting = 0  # of rows
        self._untold: list[RowReport] = []  # until the rows beside them are settled, too
        self._imagined: dict[str, dict[str, Content]] = {}  # what a dry run would have taken, by study and key
        self._families: dict[tuple[str, str, str], int] = {}  # in the transaction under way
        self._report = ImportReport(source=source, dry_run=dry_run)
        self._written_at = time.monotonic()
        self._check_source(source)

    # What a reader asks and tells

    def known_keys(self, keys: Sequence[str]) -> set[str]:
        """Which of these runs are in the history already, wherever they came from."""
        known: set[str] = set()
        stored = {self._privacy.key_of_run(key): key for key in keys}
        with self._store.read() as connection:
            for some in _slices(list(stored), KEYS_PER_QUERY):
                known |= {stored[key] for key in connection.execute(_KNOWN_KEYS, {"keys": some}).scalars()}
        return known

    def known_space(self, study: str) -> Space | None:
        """The space of a study that was imported before, to be widened; None for a new one."""
        with self._store.read() as connection:
            space = connection.execute(select(studies.c.space).where(studies.c.name == study)).scalar()
        known = {} if space is None else json.loads(space)
        is_kept = {name: self._privacy.action("parameters", name) is None for name in known}
        return None if space is None else {name: known[name] for name in known if is_kept[name]}

    def take(self, task: PastTask, runs: Sequence[PastRun]) -> None:
        """Take runs of a task."""
        if not self._privacy.is_open:
            task, runs = hidden_runs(self._privacy, task, runs)
        self._account(task)
        space = self._spaces.of(task.space)
        self._wait(rows_of(task, runs, space, lambda row, reason: self.reject(row, reason, study=task.study)))

    def take_table(self, task: PastTask, columns: RunColumns) -> None:
        """Take many runs that are checked already: they lie in the task's space."""
        if not self._privacy.is_open:
            task, columns = hidden_columns(self._privacy, task, columns)
        self._account(task)
        self._wait(rows_of_table(task, columns, self._spaces.of(task.space)))

    def reject(self, row: str, reason: str, *, study: str | None = None) -> None:
        """Note a run that cannot be used. Particulars go behind a colon: `a value outside of the space: lr = 3`."""
        self._report.rejected[general(reason)] += 1
        if (task := self._report.tasks.get(study or "")) is not None:
            task.rejected += 1
        self._not_taken(row, "rejected", reason, task)

    def skip(self, row: str, reason: str, *, study: str | None = None) -> None:
        """Note a run that is left out though nothing is wrong with it."""
        self._report.skipped[general(reason)] += 1
        if (task := self._report.tasks.get(study or "")) is not None:
            task.skipped += 1
        self._not_taken(row, "skipped", reason, task)

    def note(self, text: str) -> None:
        """Note a guess that the user should see."""
        if text not in self._report.notes:
            self._report.notes.append(text)

    def finish(self) -> ImportReport:
        """Write what is left, look at the whole for what is odd, and report."""
        self._write_waiting()
        self._tell_all()
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
                family=self._spaces.of(task.space).family(task.metric, task.direction),
                metric=task.metric,
                direction=task.direction,
                space=task.space,
            )

    def _not_taken(self, row: str, verdict: Verdict, reason: str, task: TaskReport | None) -> None:
        is_kept = len(self._report.rows) < ROWS_KEPT
        if not is_kept and self._row_by_row is None:
            return
        told = RowReport(row=row, verdict=verdict, reason=reason)
        if task is not None:
            told = replace(told, task=task.task, study=task.study)
        if is_kept:
            self._report.rows.append(told)
        self._tell(told)

    def _settle(self, batch: Batch, outcome: _Outcome) -> None:
        study = batch.task.study
        for row, reason in outcome.skipped:
            self.skip(batch.name(row), reason, study=study)
        for row, reason in outcome.rejected:
            self.reject(batch.name(row), reason, study=study)
        self._report.taken += len(outcome.taken)
        self._report.tasks[study].taken += len(outcome.taken)
        if self._row_by_row is not None:
            first = outcome.first_number
            for place, row in enumerate(outcome.taken):
                number = None if first is None else first + place
                name = batch.name(row)
                self._tell(RowReport(row=name, verdict="taken", task=batch.task.name, study=study, trial=number))

    def _tell(self, row: RowReport) -> None:
        if self._row_by_row is not None:
            self._untold.append(row)
            if len(self._untold) >= 2 * RUNS_PER_TRANSACTION:
                self._tell_all()

    def _tell_all(self) -> None:
        untold, self._untold = self._untold, []
        if self._row_by_row is not None:
            for row in in_order(untold):
                self._row_by_row(row)

    # Writing

    def _wait(self, batch: Batch) -> None:
        """Keep a batch until there are enough for a transaction; a big one goes in slices."""
        for start in range(0, len(batch), RUNS_PER_TRANSACTION):
            part = batch.of(range(start, min(start + RUNS_PER_TRANSACTION, len(batch))))
            if batch.task.study in self._waiting:
                self._write_waiting()
            self._waiting[batch.task.study] = part
            self._number_waiting += len(part)
            is_much = self._number_waiting >= RUNS_PER_TRANSACTION
            if is_much or time.monotonic() - self._written_at >= SECONDS_BETWEEN_WRITES:
                self._write_waiting()

    def _write_waiting(self) -> None:
        self._written_at = time.monotonic()
        batches, self._waiting, self._number_waiting = list(self._waiting.values()), {}, 0
        if not batches:
            return
        if self._report.dry_run:
            with self._store.read() as connection:
                outcomes = [self._imagine(connection, batch) for batch in batches]
        else:
            outcomes = patiently(lambda: self._write(batches), self._store.patience_seconds)  # what is in is known
        for batch, outcome in zip(batches, outcomes, strict=True):
            self._settle(batch, outcome)
        self._tell_all()

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
            self._sets, self._spaces = (
                ParameterSets(),
                KnownSpaces(),
            )  # what is numbered may be gone with the transaction
            raise

    def _write_studies(self, connection: Connection, batches: Sequence[Batch], outcomes: Sequence[_Outcome]) -> None:
        found = self._studies(connection, [batch.task for batch in batches])
        numbers = next_numbers_locking(connection, [study.id for study in found.values()])
        new: list[tuple[int, int, Batch]] = []  # study, its first new number, what comes into it
        for batch, outcome in zip(batches, outcomes, strict=True):
            study = found[batch.task.study]
            try:
                self._check_owner(study, batch.task)
                moved = self._in_one_space(connection, study, batch)
            except (StorageError, ValueError) as error:
                outcome.rejected += [(row, str(error)) for row in range(len(batch))]
                continue
            known = self._known(connection, moved, study.id if numbers[study.id] else None)
            _sort_out(moved, known, outcome)
            if outcome.taken:
                outcome.first_number = numbers[study.id]
                new.append((study.id, numbers[study.id], moved.of(outcome.taken)))
        self._insert(connection, new)
        members: dict[int, list[int]] = {}
        for study_id, _, batch in new:
            members.setdefault(self._family_id(connection, batch.task), []).append(study_id)
        note_changes(self._store, connection, members)
        ids = sorted(study.id for study in found.values())
        begun = with_chains(connection, ids)
        for study_id, first, _ in sorted(new, key=itemgetter(0)):
            if study_id in begun:
                seal_trials(connection, study_id, first)
        begin_chains(connection, [study_id for study_id in ids if study_id not in begun])

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
                    "space": self._spaces.of(task.space).text,
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
        key = (self._spaces.of(task.space).text, task.metric, task.direction)
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
            {"study_id": study_id, "name": name, "distribution_id": distribution_id}
            for study_id, space in spaces.items()
            for name, distribution_id in self._distribution_ids(connection, space).items()
        ]
        if parameters:
            connection.execute(upsert(self._store.dialect, study_parameters), parameters)
        declared = [
            {"study_id": study_id, "kind": "system", "key": SPACE_ATTRIBUTE, "value": self._spaces.of(space).text}
            for study_id, space in spaces.items()
        ]
        if declared:
            connection.execute(upsert(self._store.dialect, study_attributes), declared)

    def _distribution_ids(self, connection: Connection, space: Space) -> Mapping[str, int]:
        """The numbers of the distributions of a space, by parameter."""
        known = self._spaces.of(space)
        for name, distribution in known.distributions.items():
            if name not in known.distribution_ids:
                number = self._sets.distribution_id_in(self._store, connection, distribution)
                known.distribution_ids[name] = number
        return known.distribution_ids

    def _set_ids(self, connection: Connection, batch: Batch) -> list[int | None]:
        """The numbers of the parameter sets of a batch."""
        known = self._spaces.of(batch.task.space)
        for part in batch.sets:
            if part.names not in known.set_ids:
                known.set_ids[part.names] = self._sets.id_in(self._store, connection, part)
        return [known.set_ids[part.names] for part in batch.sets]

    def _in_one_space(self, connection: Connection, study: Any, batch: Batch) -> Batch:
        """The batch in the space of the study, which is widened where it must be. Raises ValueError."""
        if study.space == self._spaces.of(batch.task.space).text:
            return batch
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
        return self._moved(batch, space)

    def _move_trials(self, connection: Connection, study_id: int, space: Space) -> None:
        """Let the trials of a study be drawn from its wider space: no value changes, for choices keep their places."""
        for set_id in connection.execute(_SETS_IN_USE, {"study_id": study_id}).scalars().all():
            names = tuple(name for name, _ in self._sets.content_of(connection, set_id))
            wider = self._sets.id_in(self._store, connection, self._spaces.of(space).subset(names))
            connection.execute(_MOVE, {"moved_id": study_id, "from_set": set_id, "to_set": wider})

    def _known(self, connection: Connection, batch: Batch, study_id: int | None) -> dict[str, Content]:
        """What the history has under the keys of a batch; study_id: None where the study has no trials yet."""
        known: dict[str, Content] = {}
        if study_id is None and self._scope == "study":
            return known
        for keys in _slices(batch.keys, KEYS_PER_QUERY):
            if self._scope == "study":
                found = connection.execute(_KNOWN_IN_STUDY, {"keys": keys, "study_id": study_id})
            else:
                found = connection.execute(_KNOWN, {"keys": keys})
            for trial in found:
                names = tuple(name for name, _ in self._sets.content_of(connection, trial.parameter_set_id))
                known[trial.source_key] = (trial.state, trial.value, names, bytes(trial.configuration or b""))
        return known

    def _insert(self, connection: Connection, new: Sequence[tuple[int, int, Batch]]) -> None:
        details = [name for name in DETAILS if any(name in batch.details for _, _, batch in new)]
        lines = (
            _lines(study_id, number, batch, self._set_ids(connection, batch), details)
            for study_id, number, batch in new
        )
        insert_many(connection, trials, (*COLUMNS, *details), list(chain.from_iterable(lines)))
        points: list[tuple[Any, ...]] = []
        attributes: list[tuple[Any, ...]] = []
        for study_id, first_number, batch in new:
            if not batch.curves and not batch.user_attrs:
                continue
            ids = connection.execute(_NEW_IDS, {"study_id": study_id, "first": first_number}).scalars().all()
            points += [(ids[row], *point) for row, curve in batch.curves.items() for point in _points(curve)]
            noted = ((ids[row], attrs.items()) for row, attrs in batch.user_attrs.items())
            attributes += [(owner, "user", key, json.dumps(value)) for owner, some in noted for key, value in some]
        insert_many(connection, intermediate_values, ("trial_id", "step", "value"), points)
        insert_many(connection, trial_attributes, ("trial_id", "kind", "key", "value"), attributes)

    def _imagine(self, connection: Connection, batch: Batch) -> _Outcome:
        """What would become of a batch."""
        outcome = _Outcome()
        study = connection.execute(_STUDIES, {"names": [batch.task.study]}).first()
        try:
            if study is not None:
                self._check_owner(study, batch.task)
                batch = self._moved(batch, merged(json.loads(study.space), batch.task.space))
        except (StorageError, ValueError) as error:
            outcome.rejected += [(row, str(error)) for row in range(len(batch))]
            return outcome
        known = self._known(connection, batch, None if study is None else study.id)
        imagined = self._imagined.setdefault(batch.task.study, {})
        _sort_out(batch, known | imagined, outcome)
        taken = batch.of(outcome.taken)
        imagined.update(zip(taken.keys, taken.contents(), strict=True))
        return outcome

    def _moved(self, batch: Batch, space: Space) -> Batch:
        """A batch in a wider space: only choices may be in other places there."""
        places: dict[str, Mapping[float, float]] = {}
        wider = self._spaces.of(space)
        for name, fields in batch.task.space.items():
            if (
                fields["type"] == "categorical"
                and fields["choices"] != space[name]["choices"][: len(fields["choices"])]
            ):
                as_internal = wider.distributions[name].to_internal_repr
                places[name] = {float(place): as_internal(choice) for place, choice in enumerate(fields["choices"])}
        sets = tuple(wider.subset(part.names) for part in batch.sets)
        configurations = batch.configurations
        if places:
            drawn = zip(configurations, batch.set_indices, strict=True)
            configurations = [_replaced(configuration, sets[index], places) for configuration, index in drawn]
        return replace(batch, task=replace(batch.task, space=space), sets=sets, configurations=configurations)


def _sort_out(batch: Batch, known: Mapping[str, Content], outcome: _Outcome) -> None:
    """Find out which rows are new."""
    if not known and len(set(batch.keys)) == len(batch):
        outcome.taken = range(len(batch))
        return
    seen, taken = dict(known), list[int]()
    for row, (key, content) in enumerate(zip(batch.keys, batch.contents(), strict=True)):
        before = seen.setdefault(key, content)
        if before is content:
            taken.append(row)
        elif before == content:
            outcome.skipped.append((row, "already here"))
        else:
            outcome.rejected.append((row, _difference(before, content)))
    outcome.taken = taken


def _difference(before: Content, now: Content) -> str:
    if before[2:] != now[2:]:
        return "differs from what was imported before: another configuration"
    return f"differs from what was imported before: value {before[1]}, now {now[1]}"


def _replaced(
    configuration: bytes | None, parameter_set: ParameterSet, places: Mapping[str, Mapping[float, float]]
) -> bytes | None:
    if configuration is None:
        return None
    values = zip(parameter_set.names, unpack(configuration).tolist(), strict=True)
    return pack([places[name][value] if name in places else value for name, value in values])


def _lines(
    study_id: int, first_number: int, batch: Batch, set_ids: Sequence[int | None], details: Iterable[str]
) -> Iterator[tuple[Any, ...]]:
    """The rows of a batch as they go into the table: COLUMNS and these of DETAILS."""
    drawn_from = repeat(set_ids[0]) if len(set_ids) == 1 else (set_ids[index] for index in batch.set_indices)
    return zip(
        repeat(study_id),
        count(first_number),
        batch.states,
        batch.values,
        drawn_from,
        batch.configurations,
        batch.keys,
        *(batch.details.get(name, repeat(None)) for name in details),
        strict=False,  # some have no end
    )


def _points(curve: Curve) -> Iterator[tuple[int, float | None]]:
    """The curve, each step once, the last value at it; NaN as the databases keep it."""
    for step, value in dict(curve).items():
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
