"""Does a study say what of its results MLflow did not take, and nothing about other studies?"""

from __future__ import annotations

import pytest

from hpo.running.delivery import Delivery
from storage.database import Store
from storage.studies import create_study

AWAY = "http://127.0.0.1:9"  # nothing listens on the discard port


def deliver(store: Store, study_id: int, mlflow_uri: str | None, name: str) -> list[str]:
    notices: list[str] = []
    with Delivery(
        storage_url=store.url, study_id=study_id, study_name=name, mlflow_uri=mlflow_uri, notice=notices.append
    ):
        pass
    return notices


def test_what_is_left_is_told_with_the_reason(sqlite_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    for name in ("--away", "another"):
        create_study(sqlite_store, name=name, mlflow_uri=AWAY)
    sending, left = deliver(sqlite_store, 1, AWAY, "--away")
    assert sending == f"sending the results to MLflow at {AWAY}"
    first, reason = left.splitlines()
    assert first.startswith(f"MLflow at {AWAY} does not take the results: 1 messages are kept; `hpo sync` sends them")
    assert "Connection refused" in reason or AWAY in reason


def test_a_study_without_mlflow_starts_nothing(sqlite_store: Store) -> None:
    create_study(sqlite_store, name="other", mlflow_uri=AWAY)
    assert deliver(sqlite_store, create_study(sqlite_store, name="quiet"), None, "quiet") == []
