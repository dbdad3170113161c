"""Which runs are in a CSV or Parquet file of one row per run, whatever its columns are called.

The file is read once before the first run is yielded: it must be whole, its columns must make sense, and from what is
in them the space is told. Then it is read again, in batches.

A run is known by the column that names it, else by what its row says: equal rows are counted, so a file that has grown
brings only what is new.
"""

from array import array
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from storage.errors import ImportFailedError
from storage.importers.inference import ABSENT
from storage.importers.mapping import RunMapping, check_template, task_name
from storage.importers.recorded.space import LONGEST_NAME, is_name
from storage.importers.runs import PastRun, PastTask
from storage.importers.spaces import merged
from storage.importers.tables.columns import key_column
from storage.importers.tables.csv import CsvFile, check_width, open_csv
from storage.importers.tables.evidence import Evidence
from storage.importers.tables.meaning import Meaning, SkippedError, Space, listed, meaning_of
from storage.importers.tables.parquet import batches, column_names
from storage.importers.tables.values import content, text

RUNS_AT_A_TIME = 5_000
TASK_NAMES = ("task", "task_name")
MOST_TASKS_LOOKED_UP = 1_000
CLASHES_ALLOWED = 0.1  # of the rows; with more of them a column does not name runs. Heuristic

Tell = Callable[[str, str], None]
"""Is told which row, and why."""


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What the user said about the runs, and whom to ask and to tell."""

    task: str | None  # a column, a constant or a template; None: to be guessed
    mapping: RunMapping  # with metric and direction, if they are known
    source: str  # what the place is called in the history
    known_space: Callable[[str], Space | None]  # of a study that was imported before
    note: Callable[[str], None]


class RowFile(Protocol):
    """A file of rows."""

    @property
    def header(self) -> tuple[str, ...]:
        """The names of the columns."""
        ...

    def rows(self) -> Iterator[tuple[int, Sequence[Any]]]:
        """The rows with their numbers."""
        ...

    def cells(self, fields: Sequence[Any]) -> Sequence[Any]:
        """The cells of a row, one for each column. Raises ValueError."""
        ...


@dataclass(frozen=True, kw_only=True)
class ParquetRows:
    """A Parquet file as rows."""

    path: Path
    header: tuple[str, ...]

    def rows(self) -> Iterator[tuple[int, Sequence[Any]]]:
        """The rows, counted from 1. Raises ImportFailedError."""
        for before, batch in batches(self.path, self.header, checked=True, rows=RUNS_AT_A_TIME):
            columns = [column.to_pylist() for column in batch.columns]
            yield from enumerate(zip(*columns, strict=True), start=before + 1)

    def cells(self, fields: Sequence[Any]) -> Sequence[Any]:
        """The cells of a row."""
        return fields


class TableFile:
    """A file that has been read once. Raises ImportFailedError where it is damaged or does not make sense."""

    def __init__(self, path: Path, wishes: Wishes) -> None:
        self._path, self._source, self._note = path, wishes.source, wishes.note
        is_parquet = path.suffix.lower() == ".parquet"
        self._file: RowFile = _open_parquet(path) if is_parquet else open_csv(path)
        self._unit = "row" if is_parquet else "line"
        header = self._file.header
        self._task_column, self._template = _task_of(header, wishes.task or wishes.mapping.task)
        self._constant_task = _constant(self._template, path)
        reserved = {place for place in (self._task_column, _place(header, wishes.mapping)) if place is not None}
        self._key = key_column(header, wishes.mapping, reserved)
        evidence, tasks = self._read_once()
        self._meaning = self._understood(evidence, tasks, wishes)

    def batches(self, reject: Tell, skip: Tell) -> Iterator[tuple[PastTask, list[PastRun]]]:
        """The runs, some thousand at a time; the callbacks are told of each row that is not among them."""
        waiting: defaultdict[str, list[PastRun]] = defaultdict(list)
        seen: dict[int, int] = {}
        for line, fields in self._file.rows():
            row = f"{self._path.name} {self._unit} {line}"
            try:
                cells = self._file.cells(fields)
                task = self._task_name(cells)
                run = self._meaning.run(cells, self._key_of(task, cells, self._fingerprint(fields), seen))
                run.label = row
                waiting[task].append(run)
            except ValueError as error:
                reject(row, str(error))
            except SkippedError as reason:
                skip(row, str(reason))
            if sum(map(len, waiting.values())) >= RUNS_AT_A_TIME:
                yield from self._flushed(waiting)
        yield from self._flushed(waiting)
        self._note_times()

    # Reading once

    def _read_once(self) -> tuple[Evidence, set[str]]:
        """What the rows are like, and some of the tasks; notes which names (or rows) there are more than once."""
        evidence, tasks = Evidence(len(self._file.header)), set[str]()
        names, contents, lines = array("Q"), array("Q"), array("Q")
        for line, fields in self._file.rows():
            try:
                cells = self._file.cells(fields)
                task = self._task_name(cells)
            except ValueError:
                continue  # it will be rejected
            evidence.add(cells)
            if len(tasks) < MOST_TASKS_LOOKED_UP:
                tasks.add(task)
            contents.append(self._fingerprint(fields))
            names.append(contents[-1] if self._key is None else _hash([task, text(cells[self._key]) or ""]))
            lines.append(line)
        if not evidence.count:
            raise ImportFailedError(f"{self._path} has no rows that can be read.")
        self._again = _repeated(np.frombuffer(names, np.uint64))
        if self._key is not None:
            clash = _clash(*(np.frombuffer(column, np.uint64) for column in (names, contents, lines)))
            if clash is not None:
                name = self._file.header[self._key]
                raise ImportFailedError(
                    f"{self._path}: the column {name!r} should name the runs, but {self._unit}s {clash[0]} and"
                    f" {clash[1]} have the same there and differ else. If it is something else, drop it in a mapping:"
                    f" `drop: [{name}]`."
                )
        return evidence, tasks

    def _understood(self, evidence: Evidence, tasks: set[str], wishes: Wishes) -> Meaning:
        name = self._path.name
        if self._task_column is not None:
            wishes.note(f"{name}: the task is the column {self._file.header[self._task_column]!r}")
        if isinstance(self._file, CsvFile):
            if self._file.decimal_commas:
                commas = [self._file.header[place] for place in sorted(self._file.decimal_commas)]
                wishes.note(f"{name}: numbers with a decimal comma: {listed(commas)}")
            if not self._file.has_last_line_end:
                wishes.note(f"{name}: the last line has no end: if the file was cut off, its last number may be wrong")
        known: Space | None = None
        for task in sorted(tasks):
            one = wishes.known_space(self._study(task))
            if one is not None:
                known = one if known is None else merged(known, one)
        try:
            return meaning_of(
                self._file.header,
                evidence,
                wishes.mapping,
                task=self._task_column,
                known=known,
                note=lambda text_of_note: wishes.note(f"{name}: {text_of_note}"),
            )
        except ImportFailedError as error:
            raise ImportFailedError(f"{self._path}: {error}") from error

    # One row

    def _task_name(self, cells: Sequence[Any]) -> str:
        """The task of a row. Raises ValueError."""
        if self._task_column is not None:
            found = text(cells[self._task_column])
            if not found:
                raise ValueError(f"no name of a task: the column {self._file.header[self._task_column]!r} is empty")
            name = found
        elif self._constant_task is not None:
            name = self._constant_task
        else:
            raw = {name: content(cell) for name, cell in zip(self._file.header, cells, strict=True)}
            tags = {name: str(value) for name, value in raw.items() if value is not ABSENT}
            name = task_name(self._template, _words(self._path), params=raw, tags=tags)
        if not is_name(self._study(name)):
            raise ValueError(f"no usable name of a task: {name!r:.80}")
        return name

    def _study(self, task: str) -> str:
        return f"{self._source}/{task}"

    def _key_of(self, task: str, cells: Sequence[Any], fingerprint: int, seen: dict[int, int]) -> str:
        """What the run is called. Raises ValueError where it has no name, or one that another run has.

        seen: of what there is more than once, how often it was seen, or what the first row with that name says.
        """
        if self._key is None:
            if fingerprint in self._again:
                seen[fingerprint] = seen.get(fingerprint, 0) + 1
            times = seen.get(fingerprint, 1)
            return f"{fingerprint:016x}" if times == 1 else f"{fingerprint:016x}/{times}"
        name, key = self._file.header[self._key], text(cells[self._key])
        if not key:
            raise ValueError(f"no name of the run: the column {name!r} is empty")
        number_of_name = _hash([task, key])
        if number_of_name in self._again and seen.setdefault(number_of_name, fingerprint) != fingerprint:
            raise ValueError(f"there twice: {name} = {key[:80]!r} is in an earlier {self._unit} that differs")
        return key if len(key) <= LONGEST_NAME else blake2b(key.encode(), digest_size=16).hexdigest()

    def _fingerprint(self, fields: Sequence[Any]) -> int:
        """A number for what a row says, wherever its columns stand."""
        said = zip(self._file.header, fields, strict=False)  # a row may end in empty fields beyond the header
        return _hash(sorted(f"{name}\x1f{field}" for name, field in said if field is not None and field != ""))

    # Batches

    def _flushed(self, waiting: dict[str, list[PastRun]]) -> Iterator[tuple[PastTask, list[PastRun]]]:
        for task, runs in waiting.items():
            past_task = PastTask(
                name=task,
                study=self._study(task),
                metric=self._meaning.metric,
                direction=self._meaning.direction,
                space=self._meaning.space,
                provenance={"file": self._path.name},
            )
            yield past_task, runs
        waiting.clear()

    def _note_times(self) -> None:
        times = self._meaning.times
        if times.naive:
            self._note(f"{self._path.name}: times without a zone are taken as UTC ({times.naive:,} of them)")
        if times.odd:
            self._note(f"{self._path.name}: {times.odd:,} times cannot be understood and are left out")


def _open_parquet(path: Path) -> ParquetRows:
    names = column_names(path)
    check_width(path, len(names))
    return ParquetRows(path=path, header=tuple(names))


def _task_of(header: Sequence[str], wish: str | None) -> tuple[int | None, str]:
    """The column that has the task, or else a template for its name."""
    if wish is not None and wish in header:
        return header.index(wish), ""
    if wish is None:
        place = next((place for place, name in enumerate(header) if name.lower() in TASK_NAMES), None)
        return place, "{file}"
    check_template(wish)
    return None, wish


def _words(path: Path) -> dict[str, str]:
    """What a template may ask about a file."""
    return {"file": path.stem, "folder": path.resolve().parent.name}


def _constant(template: str, path: Path) -> str | None:
    """The name that a template stands for in every row; None where rows have names of their own."""
    return None if "{param:" in template or "{tag:" in template else task_name(template, _words(path))


def _place(header: Sequence[str], mapping: RunMapping) -> int | None:
    """The column of the metric, if the user named it."""
    wanted = [] if mapping.metric is None else mapping.old_names(mapping.metric)
    return next((header.index(name) for name in wanted if name in header), None)


def _hash(parts: Sequence[str]) -> int:
    joined = "\x1e".join(parts).encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(joined, digest_size=8).digest(), "little")


def _repeated(numbers: NDArray[np.uint64]) -> frozenset[int]:
    ordered = np.sort(numbers)
    return frozenset(ordered[1:][np.diff(ordered) == 0].tolist())


def _clash(
    names: NDArray[np.uint64], contents: NDArray[np.uint64], lines: NDArray[np.uint64]
) -> tuple[int, int] | None:
    """Two lines with one name that differ, if there are too many such."""
    order = np.argsort(names, kind="stable")
    clashes = np.flatnonzero((np.diff(names[order]) == 0) & (np.diff(contents[order]) != 0))
    if len(clashes) <= CLASHES_ALLOWED * len(names):
        return None
    one, other = lines[order[clashes[0] : clashes[0] + 2]].tolist()
    return one, other
