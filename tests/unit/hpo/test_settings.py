"""Is every place found where the user said, and nowhere else?"""

from __future__ import annotations

from pathlib import Path

import pytest

from hpo.errors import SettingsError
from hpo.settings import mlflow_uri, refuse_shared_database, runs_folder, storage_url


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for variable in ("HPO_STORAGE", "MLFLOW_TRACKING_URI", "HPO_RUNS"):
        monkeypatch.delenv(variable, raising=False)
    return tmp_path


def test_by_default_everything_is_in_the_working_directory(tmp_path: Path) -> None:
    assert storage_url() == f"sqlite:///{tmp_path / 'hpo.db'}"
    assert mlflow_uri() == f"sqlite:///{tmp_path / 'mlflow.db'}"
    assert runs_folder() == tmp_path / "hpo-runs"


def test_what_is_given_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HPO_STORAGE", "postgresql://a@b/c")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://b:5000")
    assert storage_url() == "postgresql://a@b/c"
    assert storage_url("postgresql://d@e/f") == "postgresql://d@e/f"
    assert mlflow_uri(otherwise=None) == "http://b:5000"
    assert mlflow_uri("none") is None


def test_paths_are_taken_for_what_they_are(tmp_path: Path) -> None:
    assert storage_url("mine.db") == f"sqlite:///{tmp_path / 'mine.db'}"
    assert mlflow_uri("./mlruns") == (tmp_path / "mlruns").as_uri()


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(SettingsError, match="database URL"):
        storage_url("my history")
    with pytest.raises(SettingsError, match="ftp"):
        mlflow_uri("ftp://host")
    with pytest.raises(SettingsError, match="share"):
        refuse_shared_database(storage_url("one.db"), mlflow_uri("sqlite:///one.db"))
