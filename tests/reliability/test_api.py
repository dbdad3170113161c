"""The API against its own description, on a small scale."""

from pathlib import Path

from tests.measured import table
from tests.reliability import api
from tests.reliability.places import sqlite_place


def test_the_api_keeps_its_description(tmp_path: Path) -> None:
    figures = api.run(sqlite_place(tmp_path), phases="fuzzing", per_operation=3, least_cases=100)
    print(table(figures))
    assert all(figure.is_met for figure in figures)
