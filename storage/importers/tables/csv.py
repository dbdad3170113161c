"""How a CSV file is read: whatever separates its fields, with the line of each row, or with a reason why it cannot."""

import csv
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import StringIO
from itertools import islice
from pathlib import Path
from typing import TextIO

from storage.errors import ImportFailedError
from storage.importers.inference import ABSENT
from storage.importers.tables.values import content

DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
SAMPLE = 1 << 16  # characters that tell the delimiter
SAMPLED_ROWS = 20
ROWS_FOR_COMMAS = 1_000  # that tell whether a column has decimal commas
MOST_COLUMNS = 10_000  # of any kind; parameters may be fewer still
LONGEST_LINE = 1 << 26  # bytes; a longer one is no table's
BYTE_ORDER_MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


@dataclass(frozen=True, kw_only=True)
class CsvFile:
    """A file that can be read as CSV; how it is written was told from its beginning."""

    path: Path
    encoding: str
    delimiter: str
    header: tuple[str, ...]
    decimal_commas: frozenset[int] = frozenset()  # the columns whose numbers have a comma before the decimals

    @property
    def has_last_line_end(self) -> bool:
        """Whether the last line is complete for certain."""
        with self.path.open("rb") as file:
            file.seek(max(0, self.path.stat().st_size - 2))
            return file.read().rstrip(b"\0")[-1:] in (b"\n", b"\r")

    def cells(self, fields: Sequence[str]) -> Sequence[str]:
        """The fields of a row as the cells of the columns. Raises ValueError where they do not fit."""
        width = len(self.header)
        if len(fields) > width and not any(fields[width:]):
            fields = fields[:width]
        if len(fields) != width:
            cut = " (is the file cut off there?)" if len(fields) < width else ""
            raise ValueError(f"another number of fields: {len(fields)}, and the header has {width}{cut}")
        if not self.decimal_commas:
            return fields
        return [
            _with_point(self.header[place], field) if place in self.decimal_commas else field
            for place, field in enumerate(fields)
        ]

    def rows(self) -> Iterator[tuple[int, Sequence[str]]]:
        """The rows after the header, each with its line, from 1; empty lines are passed over.

        Raises ImportFailedError where the file breaks off within quotes, or is otherwise no CSV.
        """
        with _reading(self.path, self.encoding) as file:
            reader = csv.reader(file, delimiter=self.delimiter, strict=True, skipinitialspace=True)
            is_header, before = True, 0
            while True:
                try:
                    fields = next(reader, None)
                except csv.Error as error:
                    raise ImportFailedError(f"{self.path} line {before + 1}: {_reason(error)}.") from error
                if fields is None:
                    return
                line, before = before + 1, reader.line_num
                if fields and not is_header:
                    yield line, fields
                is_header = is_header and not fields


def open_csv(path: Path) -> CsvFile:
    """A file with its delimiter and its header. Raises ImportFailedError where it has none that can be told."""
    encoding = _encoding(path)
    with _reading(path, encoding) as file:
        sample = file.read(SAMPLE)
        if not sample.endswith("\n"):
            sample += file.readline(LONGEST_LINE)
    if not sample.strip():
        raise ImportFailedError(f"{path} is empty.")
    if "\0" in sample:
        raise ImportFailedError(f"{path} is no text: there are NUL characters in it.")
    header, delimiter = max(
        ((_first_rows(sample, delimiter), delimiter) for delimiter in DELIMITERS), key=lambda found: _fit(found[0])
    )
    if not header or len(header[0]) < 2:
        known = ", ".join(DELIMITERS.values())
        raise ImportFailedError(f"{path} has only one column: the delimiters that are understood are {known}.")
    check_width(path, len(header[0]))
    names = tuple(name.strip() for name in header[0])
    _check(path, names)
    found = CsvFile(path=path, encoding=encoding, delimiter=delimiter, header=names)
    return replace(found, decimal_commas=_decimal_commas(found)) if delimiter == ";" else found


def check_width(path: Path, columns: int) -> None:
    """Raises ImportFailedError for a data set that is taken for a table of runs."""
    if columns > MOST_COLUMNS:
        raise ImportFailedError(f"{path} has {columns:,} columns; at most {MOST_COLUMNS:,} are read.")


# How it is done


@contextmanager
def _reading(path: Path, encoding: str) -> Iterator[TextIO]:
    try:
        with path.open(encoding=encoding, newline="") as file:
            yield file
    except UnicodeError as error:
        raise ImportFailedError(f"{path} is not in UTF-8: {error}. Save it as UTF-8.") from error
    except OSError as error:
        raise ImportFailedError(f"{path} cannot be read: {error.strerror}.") from error


def _encoding(path: Path) -> str:
    try:
        with path.open("rb") as file:
            start = file.read(3)
    except OSError as error:
        raise ImportFailedError(f"{path} cannot be read: {error.strerror}.") from error
    return next((encoding for mark, encoding in BYTE_ORDER_MARKS.items() if start.startswith(mark)), "utf-8")


def _first_rows(sample: str, delimiter: str) -> list[list[str]]:
    rows = []
    try:
        for fields in csv.reader(StringIO(sample, newline=""), delimiter=delimiter, skipinitialspace=True):
            if fields:
                rows.append(fields)
            if len(rows) == SAMPLED_ROWS:
                break
    except csv.Error:
        return rows
    return rows


def _fit(rows: Sequence[Sequence[str]]) -> tuple[float, int]:
    """How well a delimiter fits: the share of rows with as many fields as the header, then the number of these."""
    if not rows or len(rows[0]) < 2:
        return 0.0, 0
    return sum(len(row) == len(rows[0]) for row in rows) / len(rows), len(rows[0])


def _check(path: Path, names: Sequence[str]) -> None:
    named = [name for name in names if name]
    repeated = sorted(name for name, times in Counter(named).items() if times > 1)
    if repeated:
        raise ImportFailedError(f"{path}: there are several columns named {', '.join(map(repr, repeated[:5]))}.")
    if all(_is_number(name) for name in names):
        raise ImportFailedError(f"{path}: the first line must name the columns, it is {', '.join(names[:5])!r:.80}.")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return not text
    return True


def _decimal_commas(file: CsvFile) -> frozenset[int]:
    """The columns in which some numbers have decimal commas, and there is nothing but numbers that could have."""
    seen: list[set[bool | None]] = [set() for _ in file.header]
    for _, fields in islice(file.rows(), ROWS_FOR_COMMAS):
        for place, field in enumerate(fields[: len(seen)]):
            if content(field) is not ABSENT:
                seen[place].add("," in field if _COMMA_NUMBER.fullmatch(field.strip()) else None)
    return frozenset(place for place, kinds in enumerate(seen) if True in kinds and None not in kinds)


def _with_point(name: str, field: str) -> str:
    if content(field) is not ABSENT and not _COMMA_NUMBER.fullmatch(field.strip()):
        raise ValueError(f"no number with a decimal comma, as in the other rows: {name} = {field[:80]!r}")
    return field.replace(",", ".")


_COMMA_NUMBER = re.compile(r"[+-]?\d+(,\d+)?([eE][+-]?\d+)?")


def _reason(error: csv.Error) -> str:
    text = str(error)
    if "unexpected end of data" in text:
        return "the file ends within a quoted field (is it cut off?)"
    return text
