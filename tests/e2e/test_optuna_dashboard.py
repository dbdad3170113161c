"""Does optuna-dashboard's own server work on the history, unchanged?"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import optuna
import pytest

from storage.optuna_storage import HistoryStorage

pytest.importorskip("optuna_dashboard")

SERVE = """
import sys
import optuna_dashboard
from storage.optuna_storage import HistoryStorage
optuna_dashboard.run_server(HistoryStorage(sys.argv[1]), host="127.0.0.1", port=int(sys.argv[2]))
"""
Ask = Callable[..., Any]


@pytest.fixture
def ask(sqlite_url: str) -> Iterator[Ask]:
    """Asks the dashboard's server, which runs in a process of its own."""
    storage = HistoryStorage(sqlite_url)
    study = optuna.create_study(
        storage=storage, study_name="<b>churn</b>", sampler=optuna.samplers.RandomSampler(seed=0)
    )
    study.optimize(objective, n_trials=12)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = [sys.executable, "-W", "ignore", "-c", SERVE, sqlite_url, str(port)]
    server = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def request(path: str, body: dict[str, Any] | None = None, method: str | None = None) -> Any:
        content = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        url = f"http://127.0.0.1:{port}{path}"
        with urllib.request.urlopen(urllib.request.Request(url, content, headers, method=method), timeout=30) as reply:
            return json.loads(reply.read() or "null")

    try:
        _wait_until_listening(port, server)
        yield request
    finally:
        server.terminate()
        server.wait(timeout=30)


def objective(trial: optuna.Trial) -> float:
    x, kind = trial.suggest_float("x", -1, 1), trial.suggest_categorical("kind", ["a", "b"])
    for step in range(4):
        trial.report(x**2 + 1 / (step + 1), step)
    return x**2 + (kind == "a")


def _wait_until_listening(port: int, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert server.poll() is None, "the server has ended"
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise AssertionError("the server does not listen")


def test_it_shows_and_changes_studies(ask: Ask, sqlite_url: str) -> None:
    (summary,) = ask("/api/studies")["study_summaries"]
    assert summary["study_name"] == "<b>churn</b>"
    study = ask(f"/api/studies/{summary['study_id']}")
    assert [trial["number"] for trial in study["trials"]] == list(range(12))
    assert all(len(trial["intermediate_values"]) == 4 for trial in study["trials"])
    importances = ask(f"/api/studies/{summary['study_id']}/param_importances")["param_importances"][0]
    assert {entry["name"] for entry in importances} == {"x", "kind"}

    note = {"body": "looks **good**", "version": 1}
    ask(f"/api/studies/{summary['study_id']}/note", note, "PUT")
    made = ask("/api/studies", {"study_name": "made there", "directions": ["maximize"]})
    assert made["study_summary"]["study_name"] == "made there"
    names = {study.study_name for study in optuna.get_all_study_summaries(HistoryStorage(sqlite_url))}
    assert names == {"<b>churn</b>", "made there"}
    ask(f"/api/studies/{made['study_summary']['study_id']}", method="DELETE")
    assert len(ask("/api/studies")["study_summaries"]) == 1
