"""Where things are when nobody says: environment variables and their defaults."""

from __future__ import annotations

import os
from pathlib import Path

from hpo.errors import SettingsError

STORAGE_VARIABLE = "HPO_STORAGE"
MLFLOW_VARIABLE = "MLFLOW_TRACKING_URI"  # MLflow's own, so that both speak to the same server
RUNS_VARIABLE = "HPO_RUNS"
PRIVACY_VARIABLE = "HPO_PRIVACY"  # a file of rules, which `storage.privacy` reads
SERVER_VARIABLE, TOKEN_VARIABLE = "HPO_SERVER", "HPO_TOKEN"  # of a service that is asked instead
DEFAULT_STORAGE, DEFAULT_MLFLOW, DEFAULT_RUNS = "sqlite:///hpo.db", "sqlite:///mlflow.db", "hpo-runs"
NO_MLFLOW = "none"


def storage_url(given: str | None = None) -> str:
    """The history's SQLAlchemy URL: as given, else from the environment, else in the working directory."""
    text = given or os.environ.get(STORAGE_VARIABLE) or DEFAULT_STORAGE
    if "://" in text:
        return _absolute_sqlite(text)
    if text.endswith((".db", ".sqlite", ".sqlite3")):
        return _absolute_sqlite(f"sqlite:///{text}")
    raise SettingsError(
        f"storage {text!r} is no database URL; use sqlite:///hpo.db or postgresql://user:password@host/database"
    )


def mlflow_uri(given: str | None = None, *, otherwise: str | None = DEFAULT_MLFLOW) -> str | None:
    """The MLflow tracking URI: as given, else from the environment, else `otherwise`; None to send nothing."""
    text = given or os.environ.get(MLFLOW_VARIABLE) or otherwise
    if text is None or text == NO_MLFLOW:
        return None
    if text.startswith("sqlite:"):
        return _absolute_sqlite(text)
    if text.startswith(("http://", "https://", "postgresql", "mysql", "mssql", "databricks", "file:")):
        return text
    if "://" not in text:  # a folder, as MLflow takes it
        return Path(text).expanduser().resolve().as_uri()
    raise SettingsError(
        f"MLflow URI {text!r} is not understood; use http://host:5000, sqlite:///mlflow.db, or `none` to send nothing"
    )


def runs_folder(given: str | Path | None = None) -> Path:
    """Where checkpoints and the output of trials go."""
    return Path(given or os.environ.get(RUNS_VARIABLE) or DEFAULT_RUNS).expanduser().resolve()


def refuse_shared_database(storage: str, mlflow: str | None) -> None:
    """MLflow's tables and the history's need a database each. Raises SettingsError."""
    if storage == mlflow:
        raise SettingsError(f"the history and MLflow cannot share {storage}: give --storage or --mlflow another file")


def _absolute_sqlite(url: str) -> str:
    """The URL of a SQLite file with its path made absolute, so that it means the same in every process."""
    scheme, separator, path = url.partition(":///")
    if not separator or not scheme.startswith("sqlite") or not path or path == ":memory:":
        return url
    return f"{scheme}:///{Path(path).expanduser().resolve()}"
