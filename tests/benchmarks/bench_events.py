"""How soon do those who follow a study hear of a report? Fifty listeners, a study of 10,000 finished trials."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
from optuna.trial import TrialState
from sqlalchemy import insert

from hpo.service.state import Service
from storage import models, studies, tokens
from storage.database import Store
from storage.schema import open_store
from tests.integration.service.test_events import LISTENERS, Heard, claimed, has_come, listen, serving, until
from tests.measured import Figure

TRIALS, REPORTS = 10_000, 20
MOST_SECONDS = 1.0


def main() -> list[Figure]:
    """From the report's commit on, through a real server, until the last of all has it."""
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(f"sqlite:///{folder}/history.db")
        service = Service(store=store, mlflow_uri=None, runs=Path(folder), projects=Path(folder))
        study_id = _study(store)
        with serving(service) as base:
            last, processor = asyncio.run(_measure(base, store, study_id))
        store.dispose()
    what = f"live update, {LISTENERS} listeners, {TRIALS:,} trials, SQLite"
    return [
        Figure(what=f"{what}: the last to hear, worst report", ours=max(last), unit="s", at_most=MOST_SECONDS),
        Figure(what=f"{what}: the last to hear, median report", ours=statistics.median(last), unit="s"),
        Figure(what=f"{what}: processor, server and listeners", ours=100 * processor, unit="%", note="of one core"),
    ]


def _study(store: Store) -> int:
    study_id = studies.create_study(store, name="live", task="digits", metric="val_loss")
    rows = [
        {"study_id": study_id, "number": number, "state": TrialState.COMPLETE.value, "value": 1.0, "finished_at": 1.0}
        for number in range(TRIALS)
    ]
    with store.write() as connection:
        connection.execute(insert(models.trials), rows)
    return study_id


async def _measure(base: str, store: Store, study_id: int) -> tuple[list[float], float]:
    secret, _ = tokens.create_token(store, owner="ann", role="viewer", created_by="a benchmark")
    claim = claimed(store, study_id)
    everybody: list[list[Heard]] = [[] for _ in range(LISTENERS)]
    url = f"{base}/studies/{study_id}/events"
    streams = [asyncio.create_task(listen(url, secret, heard)) for heard in everybody]
    await until(lambda: all(len(heard) >= 2 for heard in everybody))
    last, rng = [], np.random.default_rng(0)
    began, processor = time.monotonic(), time.process_time()
    for step in range(REPORTS):
        await asyncio.sleep(rng.uniform(0.2, 0.8))
        reported = time.monotonic()
        await asyncio.to_thread(studies.report, store, claim, step=step, value=1.0)
        await until(partial(has_come, everybody, step))
        last.append(max(heard[-1].at for heard in everybody) - reported)
    share = (time.process_time() - processor) / (time.monotonic() - began)
    for stream in streams:
        stream.cancel()
    return last, share
