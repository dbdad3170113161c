"""Which recorded tasks are there to be tuned again?

They come from a store, or from recorded tables, which are first imported into a store of their own. The runs of one
configuration of a task are averaged into one row; a failed run counts with the worst that was seen.

Notation: m rows of a task, d parameters.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from hpo.arrays import Array
from hpo.errors import NoHistoryError
from hpo.spaces.encoding import Encoding, encode_value
from hpo.spaces.space import SearchSpace
from storage.arrays import TrialArrays, counted_values, family_arrays
from storage.errors import FamilyNotFoundError, did_you_mean
from storage.families import Family, list_families
from storage.history import list_studies
from storage.overview import overview
from storage.schema import Store, open_store

NO_STORES = (".csv", ".tsv", ".parquet")
FEWEST_ROWS = 10  # distinct configurations of a task that is worth replaying

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True, eq=False)
class RecordedTask:
    """The distinct configurations of one task in random order, and how they came out."""

    name: str
    internal: Array  # (m, d) Optuna's internal values, NaN where inactive; in the order of the table's space
    points: Array  # (m, d) the same as canonical points of the table's encoding
    losses: Array  # (m,) raw and finite, smaller is better
    rows_in_all: int  # configurations that were recorded, of which these are a random sample


@dataclass(frozen=True, kw_only=True, eq=False)
class RecordedFamily:
    """Tasks that share space, metric and direction."""

    table: str  # where they come from, in a word
    family: Family
    tasks: tuple[RecordedTask, ...]  # oldest first
    skipped: Mapping[str, str]  # why a task is not replayed, by its name

    @cached_property
    def space(self) -> SearchSpace:
        """What was searched over."""
        return SearchSpace.from_json(self.family.space)

    @cached_property
    def encoding(self) -> Encoding:
        """The points of the space."""
        return Encoding(space=self.space)

    @property
    def maximize(self) -> bool:
        """Whether more of the metric is better."""
        return self.family.directions[0] == "maximize"

    @cached_property
    def fingerprint(self) -> str:
        """Twelve hexadecimal digits that stand for all rows of all tasks."""
        content = hashlib.sha256(self.family.name.encode())
        for task in self.tasks:
            content.update(task.name.encode() + task.internal.tobytes() + task.losses.tobytes())
        return content.hexdigest()[:12]

    def params(self, internal: Array) -> list[dict[str, Any]]:
        """Configurations (m, d) as the training code got them: active parameters only."""
        distributions = list(self.space.distributions.items())
        return [
            {
                name: distribution.to_external_repr(float(value))
                for (name, distribution), value in zip(distributions, row, strict=True)
                if not np.isnan(value)
            }
            for row in internal
        ]


def read_source(source: str, *, family: str | None, rows: int, say: Say) -> list[RecordedFamily]:
    """The families at a URL of a store, in its file, or in a folder of recorded tables (or of such folders).

    rows: at most so many of each task, drawn at random but always the same. say: told what is left out, and why.
    Raises NoHistoryError where nothing can be replayed, FamilyNotFoundError, and what opening or importing raises.
    """
    found = []
    for table, opened in _stores(source):
        with opened as store:
            found += _families_of(store, table, rows, say)
    if not found:
        raise NoHistoryError(f"there are no finished trials in {source}")
    if family is not None:
        named = [each for each in found if each.family.name == family]
        if not named:
            raise FamilyNotFoundError.named(family, [each.family.name for each in found])
        found = named
    replayable = [each for each in found if len(each.tasks) > 1]
    for each in found:
        if len(each.tasks) < 2:
            say(f"{each.table}: left out family {each.family.name}, {_too_few(each)}")
    if not replayable:
        raise NoHistoryError(
            f"nothing in {source} can be replayed: it takes a family with 2 tasks or more, each with {FEWEST_ROWS} or "
            f"more distinct configurations. {'; '.join(f'{each.family.name}: {_too_few(each)}' for each in found)}"
        )
    return replayable


def _too_few(family: RecordedFamily) -> str:
    reasons = f" ({len(family.skipped)} left out)" if family.skipped else ""
    count = len(family.tasks)
    return f"{count} task{'' if count == 1 else 's'} with enough runs{reasons}"


# Where they are


def _stores(source: str) -> Iterator[tuple[str, AbstractContextManager[Store]]]:
    """What each store is called, and a context in which it is open."""
    from storage.importers.recorded.table import is_recorded_table  # noqa: PLC0415 - slow: the processes of a race do without

    path = Path(source)
    if "://" in source:
        yield _name_of_url(source), _opened(source)
    elif not path.exists():
        raise NoHistoryError(f"there is no history and no recorded table at {source}")
    elif path.is_dir():
        tables = [folder for folder in (path, *sorted(path.iterdir())) if is_recorded_table(folder)]
        if not tables:
            raise NoHistoryError(f"there is no recorded table in {source}: no space.json. {_OTHER_RUNS}")
        for folder in tables:
            yield folder.resolve().name, _imported(folder)
    elif path.suffix.lower() in NO_STORES:
        raise NoHistoryError(f"{source} is no history and no recorded table. {_OTHER_RUNS}")
    else:
        yield path.stem, _opened(f"sqlite:///{path}")


_OTHER_RUNS = "Other runs are replayed from a history: see `hpo history import --help`."


def _name_of_url(url: str) -> str:
    """The database's name: no password, no host."""
    return Path(url.partition("://")[2].partition("?")[0]).stem or "history"


@contextmanager
def _opened(url: str) -> Iterator[Store]:
    _, _, path = url.partition(":///")
    if url.startswith("sqlite") and path and not Path(path).exists():
        raise NoHistoryError(f"there is no history at {path}")
    store = open_store(url, upgrade=False)
    try:
        yield store
    finally:
        store.dispose()


@contextmanager
def _imported(path: Path) -> Iterator[Store]:
    """A store that holds a table and nothing else, without its curves."""
    from storage.importers.recorded.curves import CURVES_FILE  # noqa: PLC0415 - as above
    from storage.importers.table import import_table  # noqa: PLC0415 - as above

    with tempfile.TemporaryDirectory(prefix="hpo-replay-") as folder:
        table = Path(folder) / "table" / path.resolve().name
        table.mkdir(parents=True)
        for file in path.resolve().iterdir():
            if file.name != CURVES_FILE:
                (table / file.name).symlink_to(file)
        store = open_store(f"sqlite:///{folder}/history.db")
        try:
            import_table(store, table)
            yield store
        finally:
            store.dispose()


# What is in them


def _families_of(store: Store, table: str, rows: int, say: Say) -> list[RecordedFamily]:
    tasks = {study.study_id: study.task or study.name for study in list_studies(store)}
    for study, reason in overview(store).quarantine.items():
        say(f"{table}: left out study {study}, which is in quarantine: {reason}")
    found = []
    for family in list_families(store):
        if len(family.directions) != 1:
            say(f"{table}: left out family {family.name}, which has several objectives")
            continue
        arrays = family_arrays(store, family.name)
        if len(arrays):
            found.append(_family_of(table, family, arrays, tasks, rows))
            for task, reason in found[-1].skipped.items():
                say(f"{table}: left out task {task}: {reason}")
    return found


def _family_of(table: str, family: Family, arrays: TrialArrays, tasks: Mapping[int, str], rows: int) -> RecordedFamily:
    space = SearchSpace.from_json(family.space)
    encoding = Encoding(space=space)
    order = [arrays.names.index(name) for name in space.distributions]
    members: dict[str, list[NDArray[np.intp]]] = {}
    for study_id, mine in arrays.by_study.items():
        members.setdefault(tasks.get(study_id, str(study_id)), []).append(mine)
    found, skipped = [], {}
    for name, parts in members.items():
        mine = np.concatenate(parts)
        values = counted_values(arrays.states[mine], arrays.values[mine], maximize=family.directions[0] == "maximize")
        sign = -1.0 if family.directions[0] == "maximize" else 1.0
        task = recorded_task(name, arrays.internal[mine][:, order], sign * values, encoding, rows)
        if isinstance(task, str):
            skipped[name] = task
        else:
            found.append(task)
    return RecordedFamily(table=table, family=family, tasks=tuple(found), skipped=skipped)


def recorded_task(name: str, internal: Array, losses: Array, encoding: Encoding, rows: int) -> RecordedTask | str:
    """A task from its runs, internal (n, d) and losses (n,); or why it says too little.

    rows: at most so many distinct configurations, drawn at random but always the same for the task's name.
    """
    if np.isnan(losses).any():
        return "no run has a value"
    with_parameters = ~np.isnan(internal).all(axis=1)
    internal, losses = internal[with_parameters], losses[with_parameters]
    distinct, means = _averaged(internal, losses)
    in_all = len(means)
    if len(means) < FEWEST_ROWS:
        return f"it has {len(means)} distinct configurations, fewer than {FEWEST_ROWS}"
    chosen = np.random.default_rng(crc32(name.encode())).permutation(len(means))[:rows]
    distinct, means = distinct[chosen], means[chosen]
    if not np.ptp(means) > 0:
        return "all its configurations are worth the same"
    return RecordedTask(
        name=name,
        internal=distinct,
        points=points_of(distinct, encoding),
        losses=means,
        rows_in_all=in_all,
    )


def _averaged(internal: Array, losses: Array) -> tuple[Array, Array]:
    """The distinct configurations in a fixed order, and their mean losses."""
    known = np.where(np.isnan(internal), -np.inf, internal)
    _, first, inverse, counts = np.unique(known, axis=0, return_index=True, return_inverse=True, return_counts=True)
    means = np.bincount(inverse.ravel(), weights=losses, minlength=len(first)) / counts
    return internal[first], means


def points_of(internal: Array, encoding: Encoding) -> Array:
    """Internal values (m, d), in the order of the encoding, as canonical points (m, d): all rows at once."""
    distributions = encoding.space.distributions.values()
    columns = [_coordinates(distribution, internal[:, j]) for j, distribution in enumerate(distributions)]
    return encoding.canonical(np.stack(columns, axis=1))


def _coordinates(distribution: BaseDistribution, values: Array) -> Array:
    """What `encode_value` says of each value: a coordinate is affine in the value or its logarithm."""
    if isinstance(distribution, CategoricalDistribution):
        return values
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    low, high = float(distribution.low), float(distribution.high)
    start = encode_value(distribution, low)
    if low == high:
        return np.where(np.isnan(values), np.nan, start)
    length = encode_value(distribution, high) - start
    if distribution.log:
        low, high, values = np.log(low), np.log(high), np.log(np.maximum(values, np.finfo(float).tiny))
    coordinates: Array = start + (values - low) / (high - low) * length
    return coordinates


def chosen_tasks(families: Sequence[RecordedFamily], tasks: str | None) -> list[tuple[RecordedFamily, RecordedTask]]:
    """The tasks to be tuned again: all, a number of them drawn at random but always the same, or those named.

    tasks: a number (of each family), or names with commas between. Raises NoHistoryError for a name that is not there.
    """
    everything = [(family, task) for family in families for task in family.tasks]
    if tasks is None:
        return everything
    names = [name.strip() for name in tasks.split(",") if name.strip()]
    named = {name: [pair for pair in everything if name in (pair[1].name, _last_part(pair[1].name))] for name in names}
    if len(names) == 1 and tasks.strip().isdigit():
        count = int(names[0])
        is_a_name = named[names[0]] and count > max(len(family.tasks) for family in families)
        if not is_a_name:
            return [(family, task) for family in families for task in _sample(family, count)]
    for name, found in named.items():
        if not found:
            hint = did_you_mean(name, [task.name for _, task in everything])
            raise NoHistoryError(f"there is no task {name!r} to replay.{hint}")
    return [pair for pair in everything if any(pair in found for found in named.values())]


def _last_part(name: str) -> str:
    return name.rsplit("/", 1)[-1]


def _sample(family: RecordedFamily, count: int) -> list[RecordedTask]:
    order = np.random.default_rng(crc32(family.family.name.encode())).permutation(len(family.tasks))
    return [family.tasks[i] for i in sorted(order[:count].tolist())]
