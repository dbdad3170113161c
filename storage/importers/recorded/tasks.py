"""Which rows of a recorded table's files belong to one study, and when the last of them has been read."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from storage.errors import ImportFailedError
from storage.importers.recorded.space import is_name
from storage.importers.tables.parquet import batches, column_names, empty_table

CODE, ROW = "\0code", "\0row"  # columns that are added: the number of the study, the number of the row from 1
UNKNOWN = -1


@dataclass(kw_only=True)
class GroupCodes:
    """Numbers for the studies of a table, in the order of their first row."""

    path: Path
    prefix: str = ""  # of the tasks' names
    names: list[tuple[str, str | None]] = field(default_factory=list)  # task and study by number; None: as the task
    last_rows: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))  # by number, from 0
    rows: int = 0
    _codes: dict[str, int] = field(default_factory=dict)  # by task and study, joined

    def add(self, before: int, batch: pa.RecordBatch) -> None:
        """Take note of the next rows."""
        codes = self.of(batch, self.path, is_new=True)
        self.rows = before + batch.num_rows
        grown = np.full(len(self.names), -1)
        grown[: len(self.last_rows)] = self.last_rows
        known = np.flatnonzero(codes != UNKNOWN)
        grown[codes[known]] = before + known  # of rows with one code the last one stays
        self.last_rows = grown

    def of(self, batch: pa.RecordBatch, path: Path, *, is_new: bool = False) -> NDArray[np.int64]:
        """The number of each row's study; UNKNOWN where there is none."""
        joined = _text(batch.column("task"), f"{path}: task")
        if "study" in batch.schema.names:
            study = _text(batch.column("study"), f"{path}: study")
            joined = pc.binary_join_element_wise(joined, pc.fill_null(study, ""), pa.scalar("\0", pa.large_string()))
        encoded = joined.dictionary_encode()
        nuls = 1 if "study" in batch.schema.names else 0
        codes = [
            self._code(text, is_new) if text.count("\0") == nuls else UNKNOWN for text in encoded.dictionary.to_pylist()
        ]
        indices = pc.fill_null(encoded.indices, len(codes)).to_numpy(zero_copy_only=False)
        return np.array([*codes, UNKNOWN], dtype=np.int64)[np.asarray(indices, dtype=np.intp)]

    def _code(self, text: str, is_new: bool) -> int:
        known = self._codes.get(text)
        if known is not None or not is_new:
            return UNKNOWN if known is None else known
        task, *study = text.split("\0")
        if not task or not is_name(self.prefix + task) or not all(map(is_name, study)):
            return UNKNOWN
        self._codes[text] = len(self.names)
        self.names.append((task, study[0] if study and study[0] else None))
        return self._codes[text]


def read_groups(path: Path, columns: Sequence[str], prefix: str = "") -> GroupCodes:
    """The studies of a file, of which every byte is looked at. Raises ImportFailedError."""
    codes = GroupCodes(path=path, prefix=prefix)
    for before, batch in batches(path, columns, checked=True):
        codes.add(before, batch)
    return codes


def columns_in(path: Path, required: Sequence[str], optional: Sequence[str]) -> tuple[list[str], list[str]]:
    """Which of the columns a file has, and which others. Raises ImportFailedError where a required one is missing."""
    names = column_names(path)
    missing = [name for name in required if name not in names]
    if missing:
        raise ImportFailedError(f"{path} lacks the column {', '.join(map(repr, missing))}; it has {', '.join(names)}.")
    wanted = (*required, *optional)
    return [name for name in wanted if name in names], [name for name in names if name not in wanted]


def grouped_batches(path: Path, columns: Sequence[str], codes: GroupCodes) -> Iterator[pa.Table]:
    """The rows again, each study's together as soon as its last row has been read; rows of no study at once.

    The columns CODE and ROW say to which study a row belongs, and which row of the file it is.
    """
    waiting: list[pa.Table] = []
    for before, batch in batches(path, columns):
        end = before + batch.num_rows
        table = _numbered(pa.Table.from_batches([batch]), before, codes.of(batch, path))
        ready = []
        for part in [*waiting, table]:
            own = part[CODE].to_numpy()
            is_done = own == UNKNOWN
            is_done[~is_done] = codes.last_rows[own[~is_done]] < end
            ready.append((part, is_done))
        waiting = [part.filter(pa.array(~is_done)) for part, is_done in ready if not is_done.all()]
        done = [part.filter(pa.array(is_done)) for part, is_done in ready if is_done.any()]
        if done:
            yield pa.concat_tables(done)


def no_rows(path: Path, columns: Sequence[str]) -> pa.Table:
    """What `grouped_batches` yields, without rows: wrong types show on it before anything is written."""
    return _numbered(empty_table(path, columns), 0, np.empty(0, np.int64))


def stretches(codes: NDArray[np.int64]) -> Iterator[tuple[int, slice]]:
    """Each code and where it is, in codes whose equals stand together and of which none is UNKNOWN."""
    starts = np.flatnonzero(np.diff(codes, prepend=UNKNOWN)).tolist()
    for start, end in pairwise([*starts, len(codes)]):
        yield int(codes[start]), slice(start, end)


def _numbered(table: pa.Table, before: int, codes: NDArray[np.int64]) -> pa.Table:
    rows = np.arange(before + 1, before + table.num_rows + 1)
    return table.append_column(CODE, pa.array(codes, pa.int64())).append_column(ROW, pa.array(rows, pa.int64()))


def _text(column: pa.Array, where: str) -> pa.Array:
    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return column.cast(pa.large_string())
    if pa.types.is_integer(kind) or pa.types.is_null(kind):
        return column.cast(pa.large_string())
    raise ImportFailedError(f"{where} holds {kind}; it must hold text.")
