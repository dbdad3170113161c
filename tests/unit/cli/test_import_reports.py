"""Is a report of an import written as the rows come, and kept when the import does not come to its end?"""

import json
from pathlib import Path

import pytest

from hpo.cli.history import _report_file
from hpo.errors import SettingsError
from storage.importers.report import RowReport

TAKEN = RowReport(row="größe.csv line 2", verdict="taken", task="a", study="s/a", trial=0)


def read(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_rows_of_an_interrupted_import_stay(tmp_path: Path) -> None:
    def interrupted() -> None:
        with _report_file(tmp_path / "rows.jsonl") as rows:
            rows.write(TAKEN)
            rows.write(RowReport(row="r\udcfcn", verdict="skipped", reason="half a character in a folder's name"))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [row["row"] for row in read(tmp_path / "rows.jsonl")] == [TAKEN.row, "r\udcfcn"]


def test_an_import_that_never_began_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no metric"), _report_file(tmp_path / "rows.jsonl"):
        raise ValueError("no metric")
    assert list(tmp_path.iterdir()) == []


def test_after_a_question_the_rows_are_written_anew(tmp_path: Path) -> None:
    with _report_file(tmp_path / "rows.jsonl") as rows:
        rows.write(TAKEN)
        rows.begin_anew()
        rows.write(TAKEN)
    assert read(tmp_path / "rows.jsonl") == [TAKEN.to_json()]


def test_a_file_that_is_there_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("mine")
    with pytest.raises(SettingsError, match="there already"), _report_file(tmp_path / "rows.jsonl"):
        pass
    with pytest.raises(SettingsError, match="cannot be written"), _report_file(tmp_path / "no" / "rows.jsonl"):
        pass
    assert (tmp_path / "rows.jsonl").read_text() == "mine"


def test_without_a_file_nothing_is_told() -> None:
    with _report_file(None) as rows:
        assert rows is None
