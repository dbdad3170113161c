"""Does a study mind that MLflow cannot be reached, and is everything in MLflow, once, when it is back?"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from optuna.trial import TrialState

import hpo
from storage import history
from storage.outbox import pending
from storage.schema import open_store
from tests.measured import Figure

TRIALS, EPOCHS, NAP_SECONDS = 8, 4, 0.5
ROUNDS = 3
START_SECONDS = 120.0
USER_CODE = Path(__file__).parents[1] / "integration" / "user_code"


def run(*, trials: int = TRIALS, rounds: int = ROUNDS) -> list[Figure]:
    """Studies with an MLflow where nobody listens, by turns with studies that have none; then it comes."""
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name, socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        address, folder = f"http://127.0.0.1:{port}", Path(name)
        storage = f"sqlite:///{folder / 'hpo.db'}"
        seconds: dict[str, list[float]] = {"none": [], address: []}
        for number in range(rounds):
            for mlflow, measured in seconds.items():
                measured.append(_train(f"{number} {mlflow == address}", storage, mlflow, folder, trials))
        store = open_store(storage)
        complete = sum(study.counts[TrialState.COMPLETE] for study in history.list_studies(store))
        waiting = pending(store)
        taken.close()
        with _server(port, folder):
            for _ in range(2):  # the second time there is nothing to send
                subprocess.run(
                    [sys.executable, "-m", "hpo", "sync", "--storage", storage], check=True, capture_output=True
                )
            doubled, points, there = _in_mlflow(address)
        left = pending(store)
        store.dispose()
    where = f"MLflow away, {rounds} studies of {trials} trials"
    slower = min(seconds[address]) / min(seconds["none"])
    return [
        Figure(
            what=f"{where}: trials complete, with those of studies without", ours=complete, at_least=2 * rounds * trials
        ),
        Figure(what=f"{where}: time of training against studies without MLflow", ours=slower, unit="x", at_most=1.02),
        Figure(what=f"{where}: messages that wait", ours=waiting, at_least=1),
        Figure(what=f"{where}: messages left when it is back", ours=left, at_most=0),
        Figure(what=f"{where}: trials in MLflow then", ours=there, at_least=rounds * trials, at_most=rounds * trials),
        Figure(what=f"{where}: trials that are there twice", ours=doubled, at_most=0),
        Figure(what=f"{where}: curves that are not whole, or doubled", ours=points, at_most=0),
    ]


def _train(name: str, storage: str, mlflow: str, folder: Path, trials: int) -> float:
    """Run a study; seconds from its first trial's start to the last one's end."""
    study = {
        "study": name,
        "task": {"name": "away", "metric": "val_loss", "direction": "minimize"},
        "trainer": {
            "model": {"class_path": "resumable.Learner", "init_args": {"nap": NAP_SECONDS}},
            "max_epochs": EPOCHS,
            "accelerator": "cpu",
        },
        "space": {"at_epoch": {"type": "int", "low": 10, "high": 99}},  # nothing depends on it
        "budget": {"trials": trials},
        "pruner": "none",
    }
    file = folder / "study.yaml"
    file.write_text(json.dumps(study))  # which is YAML, too
    (folder / "resumable.py").write_text((USER_CODE / "resumable.py").read_text())
    hpo.tune(file, storage=storage, mlflow=mlflow, runs=folder / "runs")
    store = open_store(storage)
    records = history.list_trials(store, history.get_study(store, name).study_id)
    store.dispose()
    begun = [trial.started_at for trial in records if trial.started_at]
    ended = [trial.finished_at for trial in records if trial.finished_at]
    return (max(ended) - min(begun)).total_seconds()


@contextmanager
def _server(port: int, folder: Path) -> Iterator[None]:
    """A real tracking server."""
    command = [sys.executable, "-P", "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--workers", "1", "--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"],
            cwd=folder,
            env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            deadline = time.monotonic() + START_SECONDS
            while not _answers(port):
                assert time.monotonic() < deadline and process.poll() is None, (folder / "server.log").read_text()
                time.sleep(0.2)
            yield
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, 15)
            process.wait()


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
            return True
    except (urllib.error.URLError, OSError):
        return False


def _in_mlflow(address: str) -> tuple[int, int, int]:
    """Trials that are there twice, curves that are not as they were reported, and trials in all."""
    from mlflow import MlflowClient

    client = MlflowClient(address)
    runs = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    times = Counter((run.data.tags["hindsight.study"], run.data.tags["hindsight.trial"]) for run in children)
    curves = [client.get_metric_history(run.info.run_id, "val_loss") for run in children]
    wrong = [curve for curve in curves if [point.step for point in curve] != list(range(EPOCHS))]
    return sum(count - 1 for count in times.values()), len(wrong), len(children)
