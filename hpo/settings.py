"""Where things are when nobody says: environment variables and their defaults."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from hpo.errors import SettingsError

STORAGE_VARIABLE = "HPO_STORAGE"
MLFLOW_VARIABLE = "MLFLOW_TRACKING_URI"  # MLflow's own, so that both speak to the same server
RUNS_VARIABLE = "HPO_RUNS"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The places a study uses."""

    storage: str  # SQLAlchemy URL of the history
    mlflow: str | None  # MLflow tracking URI; None sends nothing
    runs: Path  # checkpoints and the output of every trial


def resolve_settings(
    *, storage: str | None = None, mlflow: str | None = None, runs: str | Path | None = None
) -> Settings:
    """What was given, else the environment, else the working directory (`sqlite:///hpo.db`, `sqlite:///mlflow.db`)."""
    storage = storage or os.environ.get(STORAGE_VARIABLE) or "sqlite:///hpo.db"
    mlflow = mlflow or os.environ.get(MLFLOW_VARIABLE) or "sqlite:///mlflow.db"
    runs = runs or os.environ.get(RUNS_VARIABLE) or "hpo-runs"
    return Settings(
        storage=absolute_sqlite(_database_url(storage)),
        mlflow=None if mlflow == "none" else _mlflow_uri(mlflow),
        runs=Path(runs).expanduser().resolve(),
    )


def absolute_sqlite(url: str) -> str:
    """The URL of a SQLite file with its path made absolute, so that it means the same in every process."""
    scheme, separator, path = url.partition(":///")
    if not separator or not scheme.startswith("sqlite") or not path or path == ":memory:":
        return url
    return f"{scheme}:///{Path(path).expanduser().resolve()}"


def _database_url(text: str) -> str:
    if "://" in text:
        return text
    if text.endswith((".db", ".sqlite", ".sqlite3")):
        return f"sqlite:///{text}"
    raise SettingsError(
        f"storage {text!r} is no database URL; use sqlite:///hpo.db or postgresql://user:password@host/database"
    )


def _mlflow_uri(text: str) -> str:
    if text.startswith("sqlite:"):
        return absolute_sqlite(text)
    if text.startswith(("http://", "https://", "postgresql", "mysql", "mssql", "databricks", "file:")):
        return text
    raise SettingsError(
        f"MLflow URI {text!r} is not understood; use http://host:5000, sqlite:///mlflow.db, or `none` to send nothing"
    )
