"""What does it cost to bring MLflow runs in, against MLflow's own listing and reading of them? 10,000 runs with curves.

`HPO_BENCH_SCALE=0.1 python -m tests.benchmarks mlflow` takes a tenth of the runs. MLflow's own reading takes minutes.
"""

from __future__ import annotations

import os
import random
import tempfile
import time
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path

from mlflow import MlflowClient
from sqlalchemy import MetaData, create_engine

from storage.importers.mlflow import import_mlflow
from storage.schema import open_store
from tests.measured import Figure

RUNS, POINTS = 10_000, 20
CURVES = ("val_loss", "train_loss")
PAGE = 1_000


def main() -> Iterator[Figure]:
    """Seconds to import a store's runs, against listing them and reading one curve of each with MLflow's client."""
    runs = max(1, round(RUNS * float(os.environ.get("HPO_BENCH_SCALE", "1"))))
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of MLflow's dependencies
        uri = f"sqlite:///{name}/mlflow.db"
        experiment = fill(uri, runs)
        store = open_store(f"sqlite:///{name}/history.db")
        begun = time.perf_counter()
        report = import_mlflow(store, uri=uri)
        ours = time.perf_counter() - begun
        assert (report.taken, report.number_rejected) == (runs, 0)
        store.dispose()
        theirs = seconds_to_read(MlflowClient(uri), experiment)
    yield Figure(
        what=f"import {runs:,} MLflow runs with {len(CURVES)} curves of {POINTS} points",
        ours=ours,
        unit="s",
        rival=theirs,
        rival_name="MLflow's listing, and reading of one curve",
        ratio=ours / theirs,
        at_most=1.3,
    )


def seconds_to_read(client: MlflowClient, experiment: str) -> float:
    begun = time.perf_counter()
    token = None
    while True:
        page = client.search_runs([experiment], max_results=PAGE, page_token=token)
        for run in page:
            assert len(client.get_metric_history(run.info.run_id, CURVES[0])) == POINTS
        token = page.token
        if not token:
            return time.perf_counter() - begun


def fill(uri: str, runs: int) -> str:
    """An MLflow store with so many finished runs, written as MLflow's tables have them; returns the experiment's id."""
    experiment = str(MlflowClient(uri).create_experiment("digits"))
    rng = random.Random(0)
    rows: dict[str, list[dict[str, object]]] = {
        name: [] for name in ("runs", "params", "tags", "metrics", "latest_metrics")
    }
    for number in range(runs):
        run_uuid, start = uuid.UUID(int=rng.getrandbits(128)).hex, 1_700_000_000_000 + number * 60_000
        rows["runs"].append(
            {
                "run_uuid": run_uuid,
                "name": f"run-{number}",
                "source_type": "LOCAL",
                "user_id": "me",
                "status": "FINISHED",
                "start_time": start,
                "end_time": start + 60_000,
                "lifecycle_stage": "active",
                "artifact_uri": "",
                "experiment_id": int(experiment),
            }
        )
        params = {
            "lr": 10 ** rng.uniform(-5, -1),
            "depth": rng.randrange(1, 9),
            "dropout": rng.random(),
            "optimizer": rng.choice(["sgd", "adam"]),
        }
        rows["params"] += [{"key": key, "value": str(value), "run_uuid": run_uuid} for key, value in params.items()]
        rows["tags"].append({"key": "mlflow.runName", "value": f"run-{number}", "run_uuid": run_uuid})
        for curve in CURVES:
            begin = rng.random()
            points = [
                {
                    "key": curve,
                    "value": begin * 0.95**step,
                    "timestamp": start + step,
                    "step": step,
                    "is_nan": False,
                    "run_uuid": run_uuid,
                }
                for step in range(POINTS)
            ]
            rows["metrics"] += points
            rows["latest_metrics"].append(points[-1])
    engine, tables = create_engine(uri), MetaData()
    tables.reflect(engine, only=list(rows))
    with engine.begin() as connection:
        for name, content in rows.items():
            connection.execute(tables.tables[name].insert(), content)
    engine.dispose()
    return experiment
