"""A worker trains what a real server hands out: it rides out a server that is away, and gives back what still runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from optuna.trial import TrialState

from hpo.api.app import create_api
from hpo.client.transport import Transport
from hpo.running.creation import create_study
from hpo.service.state import Service
from hpo.studies.study_file import parse_spec
from hpo.worker.worker import Worker, WorkerOptions
from storage import history, launches, machines, tokens
from storage.database import Store
from storage.history import TrialRecord
from storage.studies import LATE_RESULTS_ATTRIBUTE
from tests.e2e.conftest import MODELS, Hpo
from tests.servers import Gate, served

CODE = """
import time
from pathlib import Path

def train(config, report):
    for epoch in range(4):
        time.sleep(0.25)
        report(val_loss=config["lr"] + 1 / (epoch + 1))
"""
PATIENCE_SECONDS = 60.0


def launched(
    store: Store, name: str, folder: Path, function: str = "", trials: int = 1, trainer: dict[str, Any] | None = None
) -> int:
    spec = parse_spec(
        {
            "study": name,
            "task": {"name": "line", "metric": "val_loss", "direction": "minimize"},
            "trainer": trainer or {"function": function},
            "space": {"lr": {"type": "float", "low": 1e-4, "high": 0.1, "log": True}},
            "budget": {"trials": trials},
            "pruner": "none",
        }
    )
    study_id = create_study(store, spec, folder=folder, mlflow_uri=None)
    launches.request_launch(store, study_id, owner="ann", place="workers")
    return study_id


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            pytest.fail(process.communicate()[1])
        time.sleep(0.05)


def started(url: str, projects: Path, runs: Path, secret: str, *more: str) -> subprocess.Popen[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HPO_")}
    options = ["--server", url, "--projects", str(projects), "--runs", str(runs), *more]
    return subprocess.Popen(
        [sys.executable, "-m", "hpo", "worker", *options],
        env={**environment, "HPO_TOKEN": secret},
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_worker_rides_out_a_server_that_is_away_and_gives_back_what_runs(
    sqlite_store: Store, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    store, projects = sqlite_store, tmp_path / "projects"
    projects.mkdir()
    (projects / "my_code.py").write_text(CODE)
    study_id = launched(store, "line", projects, "my_code.train", trials=60)
    foreign = launched(store, "not allowed", projects, "shutil.rmtree", trials=1)
    secret, _ = tokens.create_token(store, owner="box", role="worker", created_by="a test")
    service = Service(store=store, mlflow_uri=None, runs=tmp_path / "runs", projects=projects)

    def trials() -> list[TrialRecord]:
        return history.list_trials(store, study_id)

    def done() -> int:
        return sum(trial.state == TrialState.COMPLETE for trial in trials())

    kept = tmp_path / "here" / "spool-of-workers"
    with served(create_api(service)) as url:
        worker = started(url, projects, tmp_path / "here", secret, "--jobs", "2")
        request.addfinalizer(worker.kill)
        wait_until(lambda: done() >= 2, worker)
        assert len(_processes_with(secret)) > 1
    before = done()
    wait_until(lambda: list(kept.glob("*.json")) != [], worker)  # the server is away: a trial comes to its end
    assert done() == before
    with served(create_api(service), port=urlsplit(url).port or 0):
        wait_until(lambda: done() >= before + 3, worker)
        running = [trial.number for trial in trials() if trial.state == TrialState.RUNNING]
        (machine,) = machines.list_machines(store)
        assert machine.is_here and machine.owner == "box" and machine.jobs == 2
        worker.send_signal(signal.SIGINT)
        _, told = worker.communicate(timeout=30)
    service.desk.close()
    assert worker.returncode == 130, told
    assert "Traceback" not in told
    for words in (
        "does not answer",
        "the history is back",
        "told now",
        "'shutil.rmtree' is not allowed",
        "interrupted",
    ):
        assert words in told, told
    assert not list(kept.glob("*.json"))
    after = trials()
    assert running
    assert all(after[number].state in (TrialState.WAITING, TrialState.COMPLETE) for number in running)
    finished = [trial for trial in after if trial.state == TrialState.COMPLETE]
    assert all(len(trial.intermediate_values) == 4 and trial.attempt == 1 for trial in finished)
    assert {trial.state for trial in after} <= {TrialState.WAITING, TrialState.COMPLETE}
    assert [trial.state for trial in history.list_trials(store, foreign)] == [TrialState.WAITING]
    (machine,) = machines.list_machines(store)
    assert not machine.is_here
    assert not _processes_with(secret)


def test_a_worker_that_ends_while_it_sends_a_model_has_lost_nothing(
    sqlite_store: Store, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    store, here = sqlite_store, tmp_path / "here"
    (tmp_path / "user_models.py").write_text(MODELS)
    trainer = {"model": "user_models.Net", "data": "user_models.Line", "max_epochs": 1}
    study_id = launched(store, "line", tmp_path, trials=2, trainer=trainer)
    secret, _ = tokens.create_token(store, owner="box", role="worker", created_by="a test")
    service = Service(store=store, mlflow_uri=None, runs=tmp_path / "runs", projects=tmp_path)
    gate = Gate(create_api(service))
    gate.holds, gate.lets_pass = "/checkpoint", 1  # the question; no part comes through

    def kept() -> int:
        return len(list(here.glob("spool-of-workers/*.json")))

    with served(gate) as url:
        killed = started(url, tmp_path, here, secret)
        request.addfinalizer(killed.kill)
        wait_until(lambda: kept() == 2, killed)  # it has gone on training, too
        assert gate.held
        killed.kill()
        killed.communicate()
        before = gate.held
        hurried = started(url, tmp_path, here, secret)
        request.addfinalizer(hurried.kill)
        wait_until(lambda: gate.held > before, hurried)
        for _ in range(2):
            hurried.send_signal(signal.SIGINT)
            time.sleep(1.0)
        _, told = hurried.communicate(timeout=10)
        assert (hurried.returncode, "2 ends of trials for" in told) == (130, True), told
        assert kept() == 2
        assert [trial.state for trial in history.list_trials(store, study_id)] == [TrialState.RUNNING] * 2
        gate.holds = None
        transport = Transport(url, secret, patience_seconds=3.0, timeout_seconds=30.0)
        Worker(transport, WorkerOptions(projects=tmp_path, runs=here, once=True), notice=lambda _: None).run()
        transport.close()
    service.desk.close()
    assert kept() == 0
    for trial in history.list_trials(store, study_id):
        assert (trial.state, trial.attempt) == (TrialState.COMPLETE, 1)
        assert LATE_RESULTS_ATTRIBUTE not in trial.system_attrs
        assert Path(trial.checkpoint or "").name == "uploaded.ckpt"
        assert Path(trial.checkpoint or "").is_file()


def _processes_with(token: str) -> list[str]:
    """Processes that were started by the worker: they have its environment."""
    found = []
    for process in Path("/proc").iterdir():
        with suppress(OSError):
            if process.name.isdigit() and token.encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_text())
    return found


def test_hpo_tune_says_that_a_study_without_a_trainer_is_asked_by_programs(hpo: Hpo, tmp_path: Path) -> None:
    file = tmp_path / "asked.yaml"
    file.write_text(
        "study: asked\ntask: {name: t, metric: loss, direction: minimize}\nbudget: {trials: 3}\n"
        "space: {lr: {type: float, low: 1e-5, high: 0.1, log: true}}\n"
    )
    _, told = hpo("tune", file, code=2)
    assert "study 'asked' has no `trainer`: its trials are asked for, and trained, by programs of yours" in told
    assert "hpo serve" in told
