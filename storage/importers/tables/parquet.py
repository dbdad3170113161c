"""How Parquet files are read: checked wholly, then batch by batch; what is wrong with a file is said in one line."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from storage.errors import ImportFailedError

ROWS_PER_BATCH = 1 << 18
NO_NUMBER = np.iinfo(np.int64).min  # stands for an empty place among whole numbers
SAFE_INTEGER = 2.0**53  # doubles beyond it are not one integer


@contextmanager
def opened(path: Path) -> Iterator[pq.ParquetFile]:
    """A Parquet file. Raises ImportFailedError, also for what turns out to be wrong while it is being read."""
    try:
        with pq.ParquetFile(path) as file:
            yield file
    except FileNotFoundError as error:
        raise ImportFailedError(f"There is no file {path}.") from error
    except UnicodeDecodeError as error:
        raise ImportFailedError(f"{path} has text that is not UTF-8.") from error
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, ImportFailedError):
            raise
        raise ImportFailedError(f"{path} cannot be read as Parquet (is it cut off?): {_first_line(error)}") from error


def batches(
    path: Path, columns: Sequence[str], *, checked: bool = False, rows: int | None = None
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """The rows in batches, each with the number of the rows before it; `checked` looks at every byte of text too."""
    with opened(path) as file:
        before = 0
        for batch in file.iter_batches(batch_size=rows or ROWS_PER_BATCH, columns=list(columns), use_threads=False):
            if checked:
                batch.validate(full=True)
            yield before, batch
            before += batch.num_rows


def read_whole(path: Path) -> pa.Table:
    """A file as one table."""
    column_names(path)
    with opened(path) as file:
        table = file.read(use_threads=False)
        table.validate(full=True)
        return table


def empty_table(path: Path, columns: Sequence[str]) -> pa.Table:
    """A table of these columns without rows: what their types make impossible shows on it already."""
    with opened(path) as file:
        return file.schema_arrow.empty_table().select(list(columns))


def column_names(path: Path) -> list[str]:
    """The names of the columns, each of which there is once."""
    with opened(path) as file:
        names = [str(name) for name in file.schema_arrow.names]
    repeated = sorted(name for name, times in Counter(names).items() if times > 1)
    if repeated:
        raise ImportFailedError(f"{path}: there are several columns named {', '.join(map(repr, repeated[:5]))}.")
    return names


def whole_numbers(column: pa.ChunkedArray | pa.Array, where: str) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """A column as integers, and where there is one. Raises ImportFailedError where the column has no numbers.

    Integers in floating point, as pandas keeps them beside empty places, are integers too.
    """
    if pa.types.is_null(column.type):
        return np.full(len(column), NO_NUMBER), np.full(len(column), False)
    if pa.types.is_integer(column.type):
        there = np.asarray(column.is_valid())
        values = pc.fill_null(column.cast(pa.int64(), safe=False), NO_NUMBER)
        return np.asarray(values).astype(np.int64), there
    numbers = doubles(column, where)
    there = np.isfinite(numbers) & (np.abs(numbers) <= SAFE_INTEGER) & (numbers == np.round(numbers))
    return np.where(there, np.where(there, numbers, 0).astype(np.int64), NO_NUMBER), there


def doubles(column: pa.ChunkedArray | pa.Array, where: str) -> NDArray[np.float64]:
    """A column as doubles; NaN where it is empty. Raises ImportFailedError where the column has no numbers."""
    kind = column.type
    if pa.types.is_null(kind):
        return np.full(len(column), math.nan)
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
        raise ImportFailedError(f"{where} holds {kind}; it must hold numbers.")
    return np.asarray(pc.fill_null(column.cast(pa.float64(), safe=False), math.nan)).astype(np.float64)


def seconds(column: pa.ChunkedArray | pa.Array, where: str) -> NDArray[np.float64]:
    """A column of times as seconds since the epoch; NaN where it is empty. Times without a zone are UTC."""
    if pa.types.is_timestamp(column.type):
        microseconds = column.cast(pa.timestamp("us", tz=column.type.tz), safe=False).cast(pa.int64())
        return doubles(microseconds, where) / 1e6
    return doubles(column, where)


def texts(column: pa.ChunkedArray | pa.Array, where: str) -> dict[int, str]:
    """The texts in a column by row, where it is not empty. Raises ImportFailedError where the column has no text."""
    if pa.types.is_null(column.type):
        return {}
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        raise ImportFailedError(f"{where} holds {column.type}; it must hold text.")
    there = np.flatnonzero(np.asarray(column.is_valid())).tolist()
    return dict(zip(there, column.drop_null().to_pylist(), strict=True))


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
