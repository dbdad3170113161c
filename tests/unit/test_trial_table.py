"""Is a table of trials the same in every format, and whole or not there?"""

from __future__ import annotations

import csv
import json
import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from hpo.answers.trial_table import Column, Format, columns_of, format_of, split_names, text_chunks, write_rows
from hpo.cli.history_show import sparkline
from hpo.errors import SettingsError
from storage.queries import TrialRow

PARAMETERS: dict[str, tuple[BaseDistribution, ...]] = {
    "lr": (FloatDistribution(0, 1), IntDistribution(0, 3)),
    "layers": (IntDistribution(1, 3), CategoricalDistribution([1, 2])),
    "optimizer": (CategoricalDistribution(["sgd", "adam"]),),
    "nesterov": (CategoricalDistribution([True, False]),),
    "odd, name": (CategoricalDistribution([1, "auto", None]),),
    "huge": (IntDistribution(0, 2**70),),
}
NESTED = ("json", "jsonl")


def row(**changes: Any) -> TrialRow:
    content: dict[str, Any] = {
        "task": "a,b", "study": 'say "hi"', "family": None, "source": "optuna", "metric": "loss",
        "direction": "minimize", "number": 3, "state": TrialState.COMPLETE, "value": 0.1,
        "params": {"lr": 0.5, "layers": 2, "optimizer": "sgd", "nesterov": True, "odd, name": "auto", "huge": 2**65},
        "seed": 2**53 + 1, "epochs": 4, "cost_seconds": 1.5, "started_at": datetime(2026, 1, 31, tzinfo=UTC),
        "finished_at": None, "error": "line\nbreak", "worker": None, "code_version": None, "data_fingerprint": None,
        "hardware": None, "checkpoint": None, "quarantine": None, "attrs": {"tags": {"team": "vision"}, "n": [1]},
        "curve": {0: 1.0, 1: math.nan},
    }  # fmt: skip
    return TrialRow(**content | changes)


ROWS = [row(), row(number=4, state=TrialState.FAIL, value=None, params={}, attrs={}, curve={})]


def written(format: Format, path: Path, columns: list[Column]) -> list[dict[str, Any]]:
    """The rows as another program reads them from the file."""
    assert write_rows(iter(ROWS), columns, format, path) == 2
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    if format == "parquet":
        return parquet.read_table(path).to_pylist()  # type: ignore[no-any-return]
    text = path.read_text()
    if format == "json":
        return json.loads(text)  # type: ignore[no-any-return]
    if format == "jsonl":
        return [json.loads(line) for line in text.splitlines()]
    return list(csv.DictReader(text.splitlines(keepends=True)))


@pytest.mark.parametrize("format", ["json", "jsonl", "csv", "parquet"])
def test_every_format_says_the_same(format: Format, tmp_path: Path) -> None:
    first, second = written(format, tmp_path / "out", columns_of(PARAMETERS, curves=True, nested=format in NESTED))
    as_text = format == "csv"
    expected = {
        "task": "a,b",
        "study": 'say "hi"',
        "state": "complete",
        "value": "0.1" if as_text else 0.1,
        "number": "3" if as_text else 3,
        "seed": str(2**53 + 1) if as_text else 2**53 + 1,
        "error": "line\nbreak",
        "family": "" if as_text else None,
    }
    assert {name: first[name] for name in expected} == expected
    started = first["started_at"]
    assert (started if isinstance(started, datetime) else datetime.fromisoformat(started)) == ROWS[0].started_at
    attrs, curve = first["attrs"], first["curve"]
    attrs, curve = (json.loads(part) if isinstance(part, str) else part for part in (attrs, curve))
    assert attrs == {"tags": {"team": "vision"}, "n": [1]}
    assert curve == {"0": 1.0, "1": None}
    assert second["value"] in (None, "")
    if format in NESTED:
        assert first["params"] == ROWS[0].params
        assert second["params"] == {}
    else:
        assert str(first["params.optimizer"]) == "sgd"
        assert str(first["params.nesterov"]).lower() == "true"
        assert float(first["params.lr"]) == 0.5
        assert int(first["params.layers"]) == 2
        assert first["params.odd, name"] == "auto"
        assert float(first["params.huge"]) == 2.0**65
        assert second["params.lr"] in (None, "")


def test_types_of_parquet(tmp_path: Path) -> None:
    written("parquet", tmp_path / "out", columns_of(PARAMETERS))
    schema = parquet.read_schema(tmp_path / "out")
    types = {name.removeprefix("params."): str(schema.field(name).type) for name in schema.names}
    assert {name: types[name] for name in PARAMETERS} == {
        "lr": "double", "layers": "int64", "optimizer": "string", "nesterov": "bool", "odd, name": "string",
        "huge": "double",
    }  # fmt: skip
    assert (types["started_at"], types["seed"]) == ("timestamp[us, tz=UTC]", "int64")


@pytest.mark.parametrize("format", ["json", "jsonl", "csv", "parquet"])
def test_no_rows_are_a_table_too(format: Format, tmp_path: Path) -> None:
    assert write_rows(iter(()), columns_of({}), format, tmp_path / "out") == 0
    if format == "json":
        assert json.loads((tmp_path / "out").read_text()) == []
    elif format == "parquet":
        assert parquet.read_table(tmp_path / "out").num_rows == 0
    else:
        assert len((tmp_path / "out").read_text().splitlines()) == (format == "csv")


@pytest.mark.parametrize("format", ["json", "csv", "parquet"])
def test_a_file_is_whole_or_as_before(format: Format, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("before")

    def broken() -> Any:
        yield row()
        raise RuntimeError("the database has gone")

    with pytest.raises(RuntimeError, match="has gone"):
        write_rows(broken(), columns_of(PARAMETERS), format, tmp_path / "out")
    assert (tmp_path / "out").read_text() == "before"
    assert len(list(tmp_path.iterdir())) == 1


def test_only_the_wanted_columns_in_their_order() -> None:
    wanted = ["value", "params.lr", "attrs.n", "tags.team", "cost", "attrs", "curve", "params.`odd, name`", "trial"]
    columns = columns_of(PARAMETERS, wanted)
    assert [column.name for column in columns] == [
        "value", "params.lr", "attrs.n", "tags.team", "cost_seconds", "attrs", "curve", "params.odd, name", "number",
    ]  # fmt: skip
    assert [column.of(row()) for column in columns][:4] == [0.1, 0.5, [1], "vision"]
    assert len(columns_of(PARAMETERS, ["params"])) == len(PARAMETERS)


@pytest.mark.parametrize(
    ("name", "message"),
    [("lr", "there is no field 'lr'"), ("params.lrr", "Did you mean 'lr'"), ("params.zzz", "They have lr, layers")],
)
def test_unknown_columns(name: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        columns_of(PARAMETERS, [name])


def test_names_between_commas() -> None:
    assert split_names(' a, params.`x,y`,"p,q" ,, b') == ["a", "params.`x,y`", '"p,q"', "b"]


@pytest.mark.parametrize(
    ("out", "given", "as_json", "expected"),
    [
        (None, None, False, "table"),
        (None, None, True, "json"),
        (None, "csv", False, "csv"),
        ("a.parquet", None, False, "parquet"),
        ("a.NDJSON", None, False, "jsonl"),
        ("a.txt", "csv", False, "csv"),
        ("a.csv", None, True, "json"),
    ],
)
def test_which_format_is_meant(out: str | None, given: Format | None, as_json: bool, expected: str) -> None:
    assert format_of(Path(out) if out else None, given, as_json=as_json) == expected


@pytest.mark.parametrize(
    ("out", "given", "as_json"), [(None, "csv", True), ("a.txt", None, False), ("a.csv", "table", False)]
)
def test_contradictions_are_refused(out: str | None, given: Format | None, as_json: bool) -> None:
    with pytest.raises(SettingsError):
        format_of(Path(out) if out else None, given, as_json=as_json)


def test_parquet_needs_a_file() -> None:
    with pytest.raises(SettingsError, match="--out"):
        write_rows(iter(()), [], "parquet", None)


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be written"):
        write_rows(iter(()), [], "csv", tmp_path / "nowhere" / "out.csv")


@given(st.lists(st.floats()))
def test_a_curve_is_a_short_line(values: list[float]) -> None:
    line = sparkline(values)
    assert len(line) == min(len(values), 16)
    if len(values) <= 16:
        assert [char == " " for char in line] == [not math.isfinite(value) for value in values]


def test_a_falling_curve_falls() -> None:
    assert sparkline([4.0, 3.0, 2.0, 1.0]) == "█▆▃▁"
    assert sparkline([1.0, math.nan, 1.0]) == "▁ ▁"


def test_rows_that_are_sent_in_pieces_are_those_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hpo.answers.trial_table.ROWS_PER_CHUNK", 2)
    rows = [row(number=number) for number in range(5)]
    for format in ("csv", "json"):
        columns = columns_of({}, nested=format == "json")
        write_rows(rows, columns, format, tmp_path / f"trials.{format}")
        sent = "".join(text_chunks(rows, columns, format))
        assert sent.rstrip() == (tmp_path / f"trials.{format}").read_text().rstrip()
    assert json.loads("".join(text_chunks([], [], "json"))) == []
