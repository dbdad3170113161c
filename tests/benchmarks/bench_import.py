"""How fast do recorded tables come in, and how much room do they take? 1,000,000 trials of 10,000 tasks from Parquet.

`HPO_BENCH_SCALE=0.1 python -m tests.benchmarks import`, or `python -m tests.benchmarks.bench_import --scale 0.1`, takes
a tenth of the tasks.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from storage.importers.table import import_table
from storage.schema import Store, open_store
from tests.measured import Figure, table

TASKS, CONFIGS, PARAMS = 10_000, 100, 8
TARGET_TRIALS_PER_SECOND = 20_000.0
TARGET_BYTES_PER_TRIAL = 600.0
BATCH = 1_000  # tasks in a row group


def main(scale: float | None = None) -> Iterator[Figure]:
    """Trials per second of a first and of a second import into SQLite, and bytes per trial with all indexes."""
    tasks = max(1, round(TASKS * (scale or float(os.environ.get("HPO_BENCH_SCALE", "1")))))
    trials = tasks * CONFIGS
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:
        folder = Path(name)
        write_table(folder / "table", tasks)
        store = open_store(f"sqlite:///{folder / 'history.db'}")
        first = seconds_to_import(store, folder / "table", taken=trials)
        second = seconds_to_import(store, folder / "table", taken=0)
        store.dispose()  # the last one out moves the log into the database
        size = sum(path.stat().st_size for path in folder.glob("history.db*"))
    yield Figure(
        what=f"import {trials:,} trials of {tasks:,} tasks from Parquet, SQLite",
        ours=trials / first,
        unit="trials/s",
        at_least=TARGET_TRIALS_PER_SECOND,
    )
    yield Figure(
        what="the same, stored",
        ours=size / trials,
        unit="bytes/trial",
        at_most=TARGET_BYTES_PER_TRIAL,
        note="all indexes",
    )
    yield Figure(what="the same once more, nothing new", ours=trials / second, unit="trials/s")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    yield Figure(what="the same, greatest memory of the process", ours=peak, unit="MiB")


def seconds_to_import(store: Store, folder: Path, *, taken: int) -> float:
    started = time.perf_counter()
    report = import_table(store, folder)
    seconds = time.perf_counter() - started
    assert (report.taken, report.number_rejected) == (taken, 0)
    return seconds


def write_table(folder: Path, tasks: int) -> None:
    """A table of random configurations: floats on both scales, integers, and choices."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    floats = [{"name": f"x{axis}", "type": "float", "low": 0.0, "high": 1.0} for axis in range(PARAMS - 4)]
    others = [
        {"name": "lr", "type": "float", "low": 1e-5, "high": 1.0, "log": True},
        {"name": "width", "type": "int", "low": 16, "high": 1024, "log": True},
        {"name": "depth", "type": "int", "low": 1, "high": 8},
        {"name": "optimizer", "type": "categorical", "choices": ["sgd", "adam", "lion"]},
    ]
    described = {"name": "bench", "metric": "loss", "direction": "minimize", "parameters": floats + others}
    (folder / "space.json").write_text(json.dumps(described))
    columns = {"config": np.arange(CONFIGS), **{f["name"]: rng.random(CONFIGS) for f in floats}}
    columns |= {"lr": 10 ** rng.uniform(-5, 0, CONFIGS), "width": rng.integers(16, 1025, CONFIGS)}
    columns |= {"depth": rng.integers(1, 9, CONFIGS), "optimizer": rng.choice(["sgd", "adam", "lion"], CONFIGS)}
    pq.write_table(pa.table(columns), folder / "configs.parquet")
    schema = pa.schema({"task": pa.string(), "config": pa.int64(), "value": pa.float64(), "cost_seconds": pa.float64()})
    with pq.ParquetWriter(folder / "trials.parquet", schema) as writer:
        for start in range(0, tasks, BATCH):
            names = [f"task-{task:05d}" for task in range(start, min(start + BATCH, tasks)) for _ in range(CONFIGS)]
            count = len(names)
            config = np.tile(np.arange(CONFIGS), count // CONFIGS)
            rows = {"task": names, "config": config, "value": rng.random(count), "cost_seconds": rng.random(count)}
            writer.write_table(pa.table(rows, schema=schema))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, help="of the number of tasks")
    print(table(main(parser.parse_args().scale)))
