"""Is a model that a worker trained promoted on the server, and served by MLflow from an empty folder as it predicts?"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

import numpy as np
import torch
import yaml

from hpo.api.app import create_api
from hpo.decisions.champions import list_champions
from hpo.running.creation import create_study
from hpo.service.state import Service
from hpo.studies.study_file import parse_spec
from storage import launches, tokens
from storage.schema import open_store
from tests.e2e.conftest import Project
from tests.servers import served as served_here

START_SECONDS = 150.0
MODEL = """
from user_models import Net


class Served(Net):
    def forward(self, x):
        return self.layer(x)
"""


def test_a_champion_is_served_by_mlflow_and_predicts_as_its_checkpoint(project: Project, tmp_path: Path) -> None:
    (project.code / "served.py").write_text(MODEL)
    trainer = {"model": "served.Served", "data": "user_models.Line", "max_epochs": 1}
    train_by_worker(project, project.study("line", budget={"trials": 1}, trainer=trainer))
    champion = project.json("promote", "line", mlflow=project.mlflow)
    assert Path(champion["checkpoint"]).is_relative_to(project.work / "of the server")
    assert champion["model_uri"] == "models:/line@champion"
    (listed,) = list_champions(project.mlflow)
    assert (listed.name, listed.version, listed.model_uri) == ("line", "1", champion["model_uri"])
    assert (listed.study, listed.trial, listed.objectives) == ("line", 0, champion["objectives"])
    assert listed.params is not None and listed.params["batch_size"] in range(8, 33)
    inputs = [[-1.0], [0.0], [0.25]]
    with served(champion["model_uri"], project.mlflow, tmp_path) as url:
        answer = posted(f"{url}/invocations", {"inputs": inputs})
    weights = torch.load(champion["checkpoint"], weights_only=True)["state_dict"]
    expected = torch.tensor(inputs) @ weights["layer.weight"].T + weights["layer.bias"]
    np.testing.assert_allclose(answer["predictions"], expected.numpy(), rtol=1e-5, atol=1e-6)


def train_by_worker(project: Project, study: Path) -> None:
    """Let a machine train it whose files nobody else sees: they are gone afterwards."""
    store = open_store(project.storage)
    spec = parse_spec(yaml.safe_load(study.read_text()))
    study_id = create_study(store, spec, folder=project.code, mlflow_uri=None)
    launches.request_launch(store, study_id, owner="ann", place="workers")
    secret, _ = tokens.create_token(store, owner="box", role="worker", created_by="a test")
    service = Service(store=store, mlflow_uri=None, runs=project.work / "of the server", projects=project.code)
    theirs = project.work / "of the worker"
    with served_here(create_api(service)) as url:
        words = ("--server", url, "--token", secret, "--projects", project.code, "--runs", theirs, "--once")
        done = project.hpo("worker", *words)
    service.desk.close()
    store.dispose()
    assert "complete" in done.stderr, done.stderr
    assert list(theirs.rglob("best.ckpt"))
    shutil.rmtree(theirs)


@contextmanager
def served(model_uri: str, registry: str, folder: Path) -> Iterator[str]:
    """`mlflow models serve` in an empty folder; the URL that it listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", model_uri]
    command += ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    environment = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "MLFLOW_TRACKING_URI": registry}
    empty = folder / "empty"
    empty.mkdir()
    with (folder / "server.log").open("w") as log:
        server = subprocess.Popen(
            command, cwd=empty, env={**environment, "HOME": str(folder)}, stdout=log, stderr=log, start_new_session=True
        )
    try:
        wait_for(f"http://127.0.0.1:{port}/ping", server, folder / "server.log")
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(timeout=30)


def wait_for(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and server.poll() is None:
        try:
            with urlopen(url, timeout=5) as answer:
                assert answer.status == 200
                return
        except (URLError, ConnectionError, TimeoutError):
            time.sleep(0.2)
    raise AssertionError(f"the scoring server does not answer:\n{log.read_text()}")


def posted(url: str, content: object) -> dict[str, object]:
    request = Request(url, json.dumps(content).encode(), {"Content-Type": "application/json"})
    with urlopen(request, timeout=30) as answer:
        found: dict[str, object] = json.load(answer)
    return found
