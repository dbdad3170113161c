"""Trials as a table: which columns there are, and how its rows are written as JSON, CSV or Parquet, row by row."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, NotRequired, cast

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from typing_extensions import TypedDict

from hpo.answers.plain import Number, jsonable
from hpo.errors import SettingsError
from storage.durable_files import draft_of
from storage.errors import did_you_mean
from storage.query_language import QueryError, parse_field

if TYPE_CHECKING:
    import pyarrow

    from storage.queries import TrialRow

Format = Literal["table", "json", "jsonl", "csv", "parquet"]
Kind = Literal["text", "integer", "number", "truth", "time", "json"]
Parameters = Mapping[str, tuple[BaseDistribution, ...]]
"""By name, what the parameter was drawn from."""

NAMES_LISTED = 20
ROWS_PER_GROUP = 10_000  # of a Parquet file
ROWS_PER_CHUNK = 1_000  # of what is sent
SUFFIXES: Mapping[str, Format] = {
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".parquet": "parquet",
}
FIELDS: Mapping[str, tuple[str, Kind]] = {  # by the name in questions: the name in tables and what it holds
    "task": ("task", "text"),
    "study": ("study", "text"),
    "family": ("family", "text"),
    "source": ("source", "text"),
    "metric": ("metric", "text"),
    "direction": ("direction", "text"),
    "number": ("number", "integer"),
    "state": ("state", "text"),
    "value": ("value", "number"),
    "seed": ("seed", "integer"),
    "epochs": ("epochs", "integer"),
    "cost": ("cost_seconds", "number"),
    "started": ("started_at", "time"),
    "finished": ("finished_at", "time"),
    "error": ("error", "text"),
    "worker": ("worker", "text"),
    "code_version": ("code_version", "text"),
    "data_fingerprint": ("data_fingerprint", "text"),
    "hardware": ("hardware", "text"),
    "checkpoint": ("checkpoint", "text"),
    "quarantine": ("quarantine", "text"),
}
BEFORE_PARAMETERS = ("task", "study", "family", "source", "metric", "direction", "number", "state", "value")
INT64 = 2**63


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of the table."""

    name: str  # as its heading
    kind: Kind
    of: Callable[[TrialRow], Any]


class HistoryTrial(TypedDict):
    """A trial with what it belongs to: a row of the table as an object."""

    task: str | None
    study: str
    family: str | None
    source: str
    metric: str | None
    direction: str  # of the first objective
    number: int
    state: str
    value: Number  # of the first objective
    params: Mapping[str, Any]  # as the training code got them
    seed: int | None
    epochs: int | None
    cost_seconds: Number
    started_at: datetime | None
    finished_at: datetime | None
    error: str | None
    worker: str | None
    code_version: str | None
    data_fingerprint: str | None
    hardware: str | None
    checkpoint: str | None
    quarantine: str | None  # why nobody must learn from its study
    attrs: Mapping[str, Any] | None  # user attributes
    curve: NotRequired[Mapping[int, Number] | None]  # by step, where it is asked for


def row_fields(row: TrialRow, *, curves: bool = False) -> HistoryTrial:
    """A row as an object."""
    columns = columns_of({}, nested=True, curves=curves)
    return cast("HistoryTrial", {column.name: column.of(row) for column in columns})


def columns_of(
    parameters: Parameters,
    wanted: Sequence[str] = (),
    *,
    curves: bool = False,
    nested: bool = False,
) -> list[Column]:
    """The wanted columns, or all, where there are these parameters.

    wanted: fields as in a question; `params` for every parameter, `attrs` for all attributes, `curve`.
    nested: all parameters in one column, an object.
    Raises QueryError for what is no field, SettingsError for parameters that no trial has.
    """
    if wanted:
        return [column for name in wanted for column in _wanted(name.strip(), parameters, nested=nested)]
    fields = [_field(name) for name in FIELDS]
    before = [column for name, column in zip(FIELDS, fields, strict=True) if name in BEFORE_PARAMETERS]
    after = [column for name, column in zip(FIELDS, fields, strict=True) if name not in BEFORE_PARAMETERS]
    params = [_CONFIGURATION] if nested else _parameters(parameters)
    return [*before, *params, *after, _ATTRIBUTES, *([_CURVE] if curves else [])]


def split_names(text: str) -> list[str]:
    """Names between commas; a comma in backticks or double quotes is part of a name."""
    return [name.strip() for name in re.findall(r"""(?:`[^`]*`|"[^"]*"|[^,])+""", text) if name.strip()]


def write_rows(rows: Iterable[TrialRow], columns: Sequence[Column], format: Format, out: Path | None) -> int:
    """Write the rows to a file, which is there whole or not at all, or to standard output; returns how many."""
    if format == "parquet":
        if out is None:
            raise SettingsError("Parquet needs a file: --out trials.parquet")
        with _draft(out) as draft:
            return _write_parquet(rows, columns, draft)
    write = {"csv": _write_csv, "jsonl": _write_json_lines, "json": _write_json}[format]
    if out is None:
        return write(rows, columns, sys.stdout)
    with _draft(out) as draft, draft.open("w", encoding="utf-8", newline="") as file:
        return write(rows, columns, file)


def text_chunks(rows: Iterable[TrialRow], columns: Sequence[Column], format: Literal["csv", "json"]) -> Iterator[str]:
    """The rows as text, piece by piece: to be sent while they are read."""
    stream, is_first = iter(rows), True
    while (group := list(islice(stream, ROWS_PER_CHUNK))) or is_first:
        if format == "csv":
            text = io.StringIO()
            _write_csv(group, columns, text, names=is_first)
            yield text.getvalue()
        else:
            yield ("[\n  " if is_first else ",\n  ") + ",\n  ".join(_object(row, columns) for row in group)
        is_first = False
    if format == "json":
        yield "\n]\n"


def format_of(out: Path | None, given: Format | None, *, as_json: bool) -> Format:
    """The format that the options mean. Raises SettingsError."""
    if as_json and given not in (None, "json"):
        raise SettingsError(f"--json and --format {given} contradict each other; give one of them")
    chosen = "json" if as_json else given
    if out is None:
        return chosen or "table"
    if chosen == "table":
        raise SettingsError("a table is for the terminal; give --format csv, parquet, json or jsonl with --out")
    if chosen is None and out.suffix.lower() not in SUFFIXES:
        known = ", ".join(SUFFIXES)
        raise SettingsError(f"what format is {out} to have? Give --format, or a name that ends in one of {known}")
    return chosen or SUFFIXES[out.suffix.lower()]


# Columns


def _wanted(name: str, parameters: Parameters, *, nested: bool) -> list[Column]:
    if name == "params":
        return [_CONFIGURATION] if nested else _parameters(parameters)
    if name == "attrs":
        return [_ATTRIBUTES]
    if name == "curve":
        return [_CURVE]
    try:
        field = parse_field(name)
    except QueryError as error:
        raise SettingsError(f"--columns {name}: {error.reason}") from error
    if field.room == "column":
        return [_field(field.name)]
    if field.room == "params":
        if parameters and field.name not in parameters:
            hint = did_you_mean(field.name, parameters) or f" They have {', '.join(list(parameters)[:NAMES_LISTED])}."
            raise SettingsError(f"--columns {name}: no trial that was found has the parameter {field.name!r}.{hint}")
        return [_parameter(field.name, parameters.get(field.name, ()))]
    return [_attribute(field.room, field.name)]


def _field(name: str) -> Column:
    label, kind = FIELDS[name]
    if name == "state":
        return Column(name=label, kind=kind, of=lambda row: row.state.name.lower())
    return Column(name=label, kind=kind, of=lambda row: getattr(row, label))


def _parameters(parameters: Parameters) -> list[Column]:
    return [_parameter(name, distributions) for name, distributions in parameters.items()]


def _parameter(name: str, distributions: Sequence[BaseDistribution]) -> Column:
    return Column(name=f"params.{name}", kind=_kind_of(distributions), of=lambda row: row.params.get(name))


def _attribute(room: str, name: str) -> Column:
    if room == "tags":
        return Column(name=f"tags.{name}", kind="text", of=lambda row: _tags(row).get(name))
    return Column(name=f"attrs.{name}", kind="json", of=lambda row: row.attrs.get(name))


def _tags(row: TrialRow) -> Mapping[str, Any]:
    tags = row.attrs.get("tags")
    return tags if isinstance(tags, Mapping) else {}


_CONFIGURATION = Column(name="params", kind="json", of=lambda row: row.params)
_ATTRIBUTES = Column(name="attrs", kind="json", of=lambda row: row.attrs or None)
_CURVE = Column(name="curve", kind="json", of=lambda row: row.curve)


def _kind_of(distributions: Sequence[BaseDistribution]) -> Kind:
    """What can hold every value of a parameter: mixed ones are JSON."""
    kinds = {kind for distribution in distributions for kind in _kinds(distribution)}
    if kinds <= {"integer", "number"} and "number" in kinds:
        return "number"
    return kinds.pop() if len(kinds) == 1 else "json"


def _kinds(distribution: BaseDistribution) -> Iterator[Kind]:
    if isinstance(distribution, FloatDistribution):
        yield "number"
    elif isinstance(distribution, IntDistribution):
        yield "integer" if -INT64 <= distribution.low <= distribution.high < INT64 else "number"
    elif isinstance(distribution, CategoricalDistribution):
        choices: Sequence[Any] = distribution.choices  # Optuna only warns of those that are no scalars
        for choice in choices:
            if isinstance(choice, bool):
                yield "truth"
            elif isinstance(choice, str):
                yield "text"
            elif isinstance(choice, int) and -INT64 <= choice < INT64:
                yield "integer"
            elif isinstance(choice, int | float):
                yield "number"
            elif choice is not None:
                yield "json"


# Formats


@contextmanager
def _draft(out: Path) -> Iterator[Path]:
    try:
        with draft_of(out) as draft:
            yield draft
    except OSError as error:
        raise SettingsError(f"{out} cannot be written: {error.strerror or error}") from error


def _write_json(rows: Iterable[TrialRow], columns: Sequence[Column], file: IO[str]) -> int:
    """One document: a list of objects."""
    count = 0
    file.write("[")
    for row in rows:
        file.write(",\n  " if count else "\n  ")
        file.write(_object(row, columns))
        count += 1
    file.write("\n]\n" if count else "]\n")
    return count


def _write_json_lines(rows: Iterable[TrialRow], columns: Sequence[Column], file: IO[str]) -> int:
    count = 0
    for row in rows:
        file.write(_object(row, columns) + "\n")
        count += 1
    return count


def _object(row: TrialRow, columns: Sequence[Column]) -> str:
    return json.dumps({column.name: jsonable(column.of(row)) for column in columns}, ensure_ascii=False)


def _write_csv(rows: Iterable[TrialRow], columns: Sequence[Column], file: IO[str], *, names: bool = True) -> int:
    count = 0
    writer = csv.writer(file, lineterminator="\n")
    if names:
        writer.writerow([column.name for column in columns])
    for row in rows:
        writer.writerow([_cell(column.of(row), column.kind) for column in columns])
        count += 1
    return count


def _cell(value: Any, kind: Kind) -> Any:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, bool):
        return str(value).lower()
    return _json_text(value) if kind == "json" else value


def _json_text(value: Any) -> str:
    """A text as it is, all else as JSON."""
    return value if isinstance(value, str) else json.dumps(jsonable(value), ensure_ascii=False)


def _write_parquet(rows: Iterable[TrialRow], columns: Sequence[Column], path: Path) -> int:
    import pyarrow  # noqa: PLC0415 - slow to import, and only needed here
    from pyarrow.parquet import ParquetWriter  # noqa: PLC0415

    types: dict[Kind, pyarrow.DataType] = {
        "text": pyarrow.string(),
        "json": pyarrow.string(),
        "integer": pyarrow.int64(),
        "number": pyarrow.float64(),
        "truth": pyarrow.bool_(),
        "time": pyarrow.timestamp("us", tz="UTC"),
    }
    schema = pyarrow.schema([(column.name, types[column.kind]) for column in columns])
    count = 0
    with ParquetWriter(path, schema) as writer:
        stream = iter(rows)
        while group := list(islice(stream, ROWS_PER_GROUP)):
            arrays = [
                pyarrow.array([_stored(column.of(row), column.kind) for row in group], types[column.kind])
                for column in columns
            ]
            writer.write_batch(pyarrow.record_batch(arrays, schema=schema))
            count += len(group)
    return count


def _stored(value: Any, kind: Kind) -> Any:
    if value is None:
        return None
    if kind == "json":
        return _json_text(value)
    return float(value) if kind == "number" else value
