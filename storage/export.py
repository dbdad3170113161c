"""How the history leaves as recorded tables: what `import_table` reads, and reads back as it was.

One folder per family: `space.json`, `configs.parquet`, `trials.parquet`, `studies.parquet`, and `curves.parquet` where
there are curves. All that was finished goes, in the order of the studies and of their trials, streamed.
"""

import json
import re
import tempfile
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.trial import TrialState
from sqlalchemy import ColumnElement, Connection, Select, bindparam, func, or_, select
from sqlalchemy import Table as SqlTable

from storage.arrays import FINISHED, configuration_matrix
from storage.database import Store
from storage.distributions import ParameterSets
from storage.errors import FamilyNotFoundError, StorageError, did_you_mean
from storage.export_spaces import Looseness, loosened, note_looseness, widened
from storage.families import family_of
from storage.importers.recorded.configs import CONFIGS_FILE
from storage.importers.recorded.curves import CURVES_FILE
from storage.importers.recorded.space import CONFIG_COLUMN, SPACE_FILE, Parameter, RecordedSpace
from storage.importers.recorded.table import STUDIES_FILE, TRIALS_FILE
from storage.models import families, intermediate_values, studies, study_attributes, tasks, trial_attributes, trials

FILES = (SPACE_FILE, CONFIGS_FILE, TRIALS_FILE, CURVES_FILE, STUDIES_FILE)
TRIALS_AT_A_TIME = 10_000
ROWS_IN_A_GROUP = 1 << 16  # of a Parquet file: the same rows make the same bytes, however they were read
COMPRESSION = "zstd"
UNKNOWN_METRIC = "value"  # what Optuna calls it

AS_STORED = (
    "started_at",
    "finished_at",
    "epochs",
    "code_version",
    "data_fingerprint",
    "hardware",
    "checkpoint",
    "error",
)
TRIALS = pa.schema(
    {
        "task": pa.string(),
        "config": pa.int64(),
        "value": pa.float64(),
        "seed": pa.int64(),
        "cost_seconds": pa.float64(),
        "study": pa.string(),
        "key": pa.string(),
        "state": pa.string(),
        **dict.fromkeys(AS_STORED, pa.string()),
        **{"started_at": pa.float64(), "finished_at": pa.float64(), "epochs": pa.int64()},
        "attributes": pa.string(),
    }
)
CURVES = pa.schema(
    {
        "task": pa.string(),
        "config": pa.int64(),
        "step": pa.int64(),
        "value": pa.float64(),
        "seed": pa.int64(),
        "study": pa.string(),
        "key": pa.string(),
    }
)
STUDIES = pa.schema(
    {
        "task": pa.string(),
        "study": pa.string(),
        "created_at": pa.float64(),
        "provenance": pa.string(),
        "attributes": pa.string(),
    }
)


def export_tables(
    store: Store, target: str, folder: Path, *, force: bool = False, note: Callable[[str], None] | None = None
) -> list[Path]:
    """Write a family, a task, a study or all that came from a source as recorded tables; returns the files.

    What spans several families gets a folder for each. force: replace tables that are there already.
    note: told what is left out: studies with several objectives, trials that are not finished.
    Raises FamilyNotFoundError where nothing is called `target`; StorageError where the folder is not empty, where it
    cannot be written, or where there is nothing to write.
    """
    check_folder(folder, force=force)
    try:
        with _beside(folder) as partial:
            with store.read() as connection:
                tables = _tables(connection, target, note or (lambda _text: None))
                for table in tables:
                    place = partial if len(tables) == 1 else partial / table.file_name
                    place.mkdir(exist_ok=True)
                    _write(connection, table, place)
            return _moved(partial, folder)
    except StorageError:
        raise
    except OSError as error:
        raise StorageError(f"{folder} cannot be written: {error.strerror or error}.") from error


def unpack_tables(archive: Path, folder: Path) -> list[Path]:
    """Write recorded tables that came as a ZIP archive; returns the files.

    Raises StorageError where it is none, or the folder cannot be written.
    """
    try:
        with _beside(folder) as partial:
            with zipfile.ZipFile(archive) as packed:
                packed.extractall(partial)  # which leads no name out of it
            return _moved(partial, folder)
    except zipfile.BadZipFile as error:
        raise StorageError(f"{archive.name} is no archive of tables: {error}.") from error
    except OSError as error:
        raise StorageError(f"{folder} cannot be written: {error.strerror or error}.") from error


def check_folder(folder: Path, *, force: bool) -> None:
    """Whether tables may be written there. Raises StorageError."""
    if folder.exists() and not folder.is_dir():
        raise StorageError(f"{folder} is a file: name a folder.")
    if folder.is_dir() and any(folder.iterdir()) and not force:
        raise StorageError(f"{folder} is not empty: name another folder, or say that it is to be replaced (--force).")


@contextmanager
def _beside(folder: Path) -> Iterator[Path]:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as name:
        yield Path(name)


# What goes into which table


@dataclass(frozen=True, kw_only=True)
class _Table:
    """Trials that lie in one space and have one metric and direction."""

    metric: str
    direction: str
    parameters: tuple[Parameter, ...]
    condition: ColumnElement[bool]  # which trials

    @property
    def name(self) -> str:
        """As a family of this space is called."""
        return family_of({part.name: part.words for part in self.parameters}, self.metric, [self.direction])

    @property
    def file_name(self) -> str:
        return re.sub(r"[^\w.-]+", "_", self.name)

    def internal(self, known: ParameterSets, connection: Connection, rows: Sequence[Any]) -> NDArray[np.float64]:
        """The configurations of trials, shape (n, d); NaN where a parameter is absent."""
        ids = [row.parameter_set_id for row in rows]
        names = tuple(part.name for part in self.parameters)
        return configuration_matrix(
            ids,
            [row.configuration for row in rows],
            known.load(connection, set(ids)),
            names,
            tuple(part.distribution for part in self.parameters),
        )


def _tables(connection: Connection, target: str, note: Callable[[str], None]) -> list[_Table]:
    is_target = or_(
        families.c.name == target, tasks.c.name == target, studies.c.source == target, studies.c.name == target
    )
    _check_target(connection, target, is_target)
    known = ParameterSets()
    found: dict[str, list[_Table]] = defaultdict(list)
    several_objectives = 0
    for (family_id, metric, directions, space), sets in _groups(connection, is_target).items():
        first, *further = json.loads(directions)
        if further:
            several_objectives += sum(sets.values())
            continue
        words = json.loads(space or "{}")
        by_id = known.load(connection, sets)
        table = _Table(
            metric=metric or UNKNOWN_METRIC,
            direction=first,
            parameters=widened(words, [by_id[number or 0] for number in sets]),
            condition=is_target
            & (studies.c.directions == directions)
            & (studies.c.family_id.is_not_distinct_from(family_id))
            & (tasks.c.metric.is_not_distinct_from(metric)),
        )
        table = _loosened(connection, known, table)
        found[table.name].append(table)
    unfinished = connection.execute(_count(is_target, trials.c.state.not_in(FINISHED))).scalar_one()
    if several_objectives:
        note(f"left out {several_objectives:,} trials of studies with several objectives: a table has one")
    if unfinished:
        note(f"left out {unfinished:,} trials that are not finished")
    if not found:
        raise StorageError(f"{target!r} has no finished trials that a table can hold: there is nothing to write.")
    return [_merged(same) for _, same in sorted(found.items())]


def _check_target(connection: Connection, target: str, is_target: ColumnElement[bool]) -> None:
    if connection.execute(select(studies.c.id).select_from(_STUDIES).where(is_target).limit(1)).first() is None:
        names = {
            name
            for column in (families.c.name, tasks.c.name, studies.c.source)
            for name in connection.execute(select(column).distinct()).scalars()
        }
        raise FamilyNotFoundError(f"There is no family, task or source named {target!r}.{did_you_mean(target, names)}")


def _groups(
    connection: Connection, is_target: ColumnElement[bool]
) -> dict[tuple[int | None, str | None, str, str | None], dict[int | None, int]]:
    """Per family, metric, directions and space: how many finished trials have each parameter set."""
    columns = (studies.c.family_id, tasks.c.metric, studies.c.directions, families.c.space, trials.c.parameter_set_id)
    query = (
        select(*columns, func.count())
        .select_from(_TRIALS)
        .where(is_target, trials.c.state.in_(FINISHED))
        .group_by(*columns)
        .order_by(studies.c.family_id, trials.c.parameter_set_id)
    )
    groups: dict[Any, dict[int | None, int]] = {}
    for *group, set_id, number in connection.execute(query):
        groups.setdefault(tuple(group), {})[set_id] = number
    return groups


def _loosened(connection: Connection, known: ParameterSets, table: _Table) -> _Table:
    """The table with conditions that all its trials keep to."""
    looseness = Looseness()
    query = select(trials.c.parameter_set_id, trials.c.configuration).select_from(_TRIALS)
    rows = connection.execute(query.where(table.condition, trials.c.state.in_(FINISHED)), execution_options=_STREAMED)
    for part in rows.partitions():
        note_looseness(table.parameters, table.internal(known, connection, part), looseness)
    return replace(table, parameters=loosened(table.parameters, looseness))


def _merged(same: Sequence[_Table]) -> _Table:
    """One table for families that turn out to have the same space."""
    optional = {part.name for table in same for part in table.parameters if part.optional}
    parameters = tuple(replace(part, optional=part.name in optional) for part in same[0].parameters)
    return replace(same[0], parameters=parameters, condition=or_(*(table.condition for table in same)))


# How a table is written


def _write(connection: Connection, table: _Table, folder: Path) -> None:
    known = ParameterSets()
    configs: dict[bytes, int] = {}  # numbers, in the order of appearance
    new_key = _new_keys(connection, table)
    studies_with_trials: set[int] = set()
    query = _EXPORTED.where(table.condition, trials.c.state.in_(FINISHED))
    has_curves = False
    with _File(folder / TRIALS_FILE, TRIALS) as written, _File(folder / CURVES_FILE, CURVES) as curves:
        for rows in connection.execute(query, execution_options=_STREAMED).partitions():
            internal = table.internal(known, connection, rows)
            numbers = [configs.setdefault(point.tobytes(), len(configs)) for point in internal]
            attributes = _attributes(connection, trial_attributes, "trial_id", [row.id for row in rows])
            owners = {}
            content = []
            for row, config in zip(rows, numbers, strict=True):
                task, key = row.task or row.study, row.source_key or new_key(row)
                owners[row.id] = (task, config, row.seed, row.study, key)
                more = (getattr(row, name) for name in AS_STORED)
                own = (task, config, row.value, row.seed, row.cost_seconds, row.study, key, TrialState(row.state).name)
                content.append((*own, *more, _json(attributes.get(row.id))))
            written.add(content)
            has_curves |= _write_curves(connection, curves, owners)
            studies_with_trials.update(row.study_id for row in rows)
    if not has_curves:
        (folder / CURVES_FILE).unlink()
    _write_studies(connection, table, studies_with_trials, folder)
    _write_configs(table, configs, folder)
    space = RecordedSpace(
        name=table.name,
        metric=table.metric,
        direction=table.direction,
        parameters=table.parameters,
        qualified_tasks=True,
        provenance={"resource": "step"} if has_curves else {},
    )
    (folder / SPACE_FILE).write_text(json.dumps(space.to_json(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _new_keys(connection: Connection, table: _Table) -> Callable[[Any], str]:
    """What trials are called that have not been imported: their number, or what is free beside imported ones."""
    query = (
        select(trials.c.study_id, trials.c.source_key)
        .select_from(_TRIALS)
        .where(table.condition, trials.c.source_key.is_not(None), trials.c.state.in_(FINISHED))
        .where(trials.c.study_id.in_(select(trials.c.study_id).where(trials.c.source_key.is_(None))))
    )
    taken: dict[int, set[str]] = defaultdict(set)
    for study_id, key in connection.execute(query):
        taken[study_id].add(key)

    def new_key(row: Any) -> str:
        key = str(row.number)
        while key in taken.get(row.study_id, ()):
            key += "'"
        return key

    return new_key


def _write_curves(connection: Connection, file: "_File", owners: Mapping[int, tuple[Any, ...]]) -> bool:
    """The curves of some trials, in their order; whether there are any."""
    points = defaultdict(list)
    for trial_id, step, value in connection.execute(_POINTS, {"trial_ids": list(owners)}):
        points[trial_id].append((step, value))
    for trial_id, (task, config, seed, study, key) in owners.items():
        file.add([(task, config, step, value, seed, study, key) for step, value in points.get(trial_id, ())])
    return bool(points)


def _write_studies(connection: Connection, table: _Table, study_ids: set[int], folder: Path) -> None:
    columns = (studies.c.id, tasks.c.name.label("task"), studies.c.name, studies.c.created_at, studies.c.provenance)
    query = select(*columns).select_from(_STUDIES).where(table.condition).order_by(studies.c.id)
    with _File(folder / STUDIES_FILE, STUDIES) as file:
        for rows in connection.execute(query, execution_options=_STREAMED).partitions():
            attributes = _attributes(connection, study_attributes, "study_id", [row.id for row in rows])
            file.add(
                (
                    row.task or row.name,
                    row.name,
                    row.created_at,
                    None if row.provenance is None else _json(json.loads(row.provenance)),
                    _json(attributes.get(row.id)),
                )
                for row in rows
                if row.id in study_ids
            )


def _write_configs(table: _Table, configs: Mapping[bytes, int], folder: Path) -> None:
    internal = np.frombuffer(b"".join(configs)).reshape(len(configs), len(table.parameters))
    columns = {CONFIG_COLUMN: pa.array(range(len(configs)), pa.int64())}
    for axis, parameter in enumerate(table.parameters):
        columns[parameter.column] = _column(parameter, internal[:, axis])
    pq.write_table(pa.table(columns), folder / CONFIGS_FILE, row_group_size=ROWS_IN_A_GROUP, compression=COMPRESSION)


def _column(parameter: Parameter, internal: NDArray[np.float64]) -> pa.Array:
    absent = np.isnan(internal)
    distribution = parameter.distribution
    if not isinstance(distribution, CategoricalDistribution):
        kind = pa.int64() if isinstance(distribution, IntDistribution) else pa.float64()
        values = np.where(absent, 0.0, internal)
        return pa.array(values.astype(np.int64) if kind == pa.int64() else values, kind, mask=absent)
    choices = [json.dumps(choice) for choice in distribution.choices] if parameter.as_json else distribution.choices
    places = pa.array(np.where(absent, 0, internal).astype(np.int64), mask=absent)
    return pa.array(choices).take(places)


class _File:
    """A Parquet file that grows row by row; its row groups are of one size."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._schema = schema
        self._rows: list[tuple[Any, ...]] = []
        self._writer = pq.ParquetWriter(path, schema, compression=COMPRESSION)

    def __enter__(self) -> "_File":
        return self

    def __exit__(self, *_error: object) -> None:
        if self._rows:
            self._write(self._rows)
        self._writer.close()

    def add(self, rows: Iterable[tuple[Any, ...]]) -> None:
        self._rows.extend(rows)
        while len(self._rows) >= ROWS_IN_A_GROUP:
            self._write(self._rows[:ROWS_IN_A_GROUP])
            del self._rows[:ROWS_IN_A_GROUP]

    def _write(self, rows: Sequence[tuple[Any, ...]]) -> None:
        columns = [
            pa.array(column, kind) for column, kind in zip(zip(*rows, strict=True), self._schema.types, strict=True)
        ]
        self._writer.write_table(pa.Table.from_arrays(columns, schema=self._schema), row_group_size=ROWS_IN_A_GROUP)


def _attributes(connection: Connection, table: SqlTable, owner: str, ids: Sequence[int]) -> dict[int, dict[str, Any]]:
    """The user's attributes of studies or trials."""
    found: dict[int, dict[str, Any]] = defaultdict(dict)
    query = select(table).where(table.c[owner].in_(bindparam("ids", expanding=True)), table.c.kind == "user")
    for row in connection.execute(query, {"ids": ids}).mappings():
        found[row[owner]][row["key"]] = json.loads(row["value"])
    return found


def _json(content: Any) -> str | None:
    return None if content is None else json.dumps(content, sort_keys=True)


def _moved(partial: Path, folder: Path) -> list[Path]:
    """Put the files where they belong, in the place of older ones."""
    folder.mkdir(exist_ok=True)
    for place in (folder, *folder.iterdir()):
        if (place / SPACE_FILE).is_file():
            for name in FILES:
                (place / name).unlink(missing_ok=True)
    written = []
    for path in sorted(partial.rglob("*.*")):
        if path.is_file():
            goal = folder / path.relative_to(partial)
            goal.parent.mkdir(exist_ok=True)
            written.append(path.replace(goal))
    return written


# Queries

_STREAMED = {"yield_per": TRIALS_AT_A_TIME}
_STUDIES = studies.outerjoin(tasks, studies.c.task_id == tasks.c.id).outerjoin(
    families, studies.c.family_id == families.c.id
)
_TRIALS = trials.join(_STUDIES, trials.c.study_id == studies.c.id)
_EXPORTED = (
    select(trials, studies.c.name.label("study"), tasks.c.name.label("task"))
    .select_from(_TRIALS)
    .order_by(trials.c.study_id, trials.c.number)
)
_POINTS = (
    select(intermediate_values)
    .where(intermediate_values.c.trial_id.in_(bindparam("trial_ids", expanding=True)))
    .order_by(intermediate_values.c.trial_id, intermediate_values.c.step)
)


def _count(*conditions: ColumnElement[bool]) -> Select[int]:
    return select(func.count()).select_from(_TRIALS).where(*conditions)
