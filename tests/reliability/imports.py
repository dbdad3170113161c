"""Are runs in the history once, however often, by however many at once, and however rudely interrupted they come in?"""

from __future__ import annotations

import csv
import multiprocessing
import os
import random
import signal
import tempfile
import time
from collections import Counter
from multiprocessing.process import BaseProcess
from pathlib import Path

from sqlalchemy import func, select

from storage.importers.table import import_table
from storage.integrity import verify
from storage.models import trials
from storage.schema import Store, open_store
from tests.measured import Figure
from tests.reliability.places import Place

RUNS, IMPORTS, PROCESSES, KILLS = 10_000, 5, 4, 10
DEADLINE_SECONDS = 600.0


def run(
    place: Place,
    *,
    runs: int = RUNS,
    imports: int = IMPORTS,
    processes: int = PROCESSES,
    kills: int = KILLS,
    seed: int = 0,
) -> list[Figure]:
    """Import one file again and again, in several processes that are killed; then once more, in peace."""
    where = f"{runs:,} runs imported {imports} times by {processes}, {kills} kills, {place.kind}"
    with place.fresh() as url, tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "runs.csv")
        expected = write_runs(path, runs)
        open_store(url).dispose()
        killed, completed, failed = _import_and_kill(url, path, imports, processes, kills, random.Random(seed))
        store = open_store(url)
        report = import_table(store, path, metric="loss", direction="minimize")
        with store.read() as connection:
            found = connection.execute(select(trials.c.value)).scalars().all()
            keys = connection.scalar(select(func.count(trials.c.source_key.distinct())))
        findings = [str(finding) for finding in verify(store)]
        store.dispose()
    return [
        Figure(what=f"{where}: rows", ours=len(found), at_least=runs, at_most=runs),
        Figure(what=f"{where}: distinct keys", ours=keys or 0, at_least=runs, at_most=runs),
        Figure(
            what=f"{where}: wrong values",
            ours=((Counter(found) - Counter(expected)) + (Counter(expected) - Counter(found))).total(),
            at_most=0,
        ),
        Figure(what=f"{where}: findings", ours=len(findings), at_most=0, note="; ".join(findings[:5])),
        Figure(what=f"{where}: imports that failed", ours=failed, at_most=0),
        Figure(what=f"{where}: killed", ours=killed, at_least=kills),
        Figure(what=f"{where}: completed", ours=completed, at_least=imports),
        Figure(what=f"{where}: taken by one more", ours=report.taken, at_most=0),
    ]


def write_runs(path: Path, runs: int) -> list[float]:
    """A file of different runs; returns their values."""
    rng = random.Random(1)
    values = [rng.random() for _ in range(runs)]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["run_id", "lr", "width", "optimizer", "loss"])
        for number, value in enumerate(values):
            lr, width = 10 ** rng.uniform(-5, 0), rng.randrange(8, 512)
            writer.writerow([f"run-{number}", lr, width, rng.choice(["sgd", "adam"]), value])
    return values


def _import_and_kill(
    url: str, path: Path, imports: int, processes: int, kills: int, rng: random.Random
) -> tuple[int, int, int]:
    """Keep so many imports going until enough are killed and enough have come through; both, and how many failed."""
    context = multiprocessing.get_context("fork")
    killed = completed = failed = 0
    team: list[BaseProcess] = []
    deadline = time.monotonic() + DEADLINE_SECONDS
    while (killed < kills or completed < imports) and time.monotonic() < deadline:
        while len(team) < processes:
            team.append(context.Process(target=_import, args=(url, path)))
            team[-1].start()
        if killed < kills:
            time.sleep(rng.uniform(0.0, 1.0))
            victim = rng.choice(team)
            if victim.is_alive():
                os.kill(victim.pid or 0, signal.SIGKILL)
                victim.join()
                killed += 1
                team.remove(victim)
        else:
            time.sleep(0.02)
        ended = [process for process in team if not process.is_alive()]
        completed += sum(process.exitcode == 0 for process in ended)
        failed += sum(process.exitcode != 0 for process in ended)
        team = [process for process in team if process.is_alive()]
    for process in team:
        process.join()
        completed += process.exitcode == 0
        failed += process.exitcode != 0
    return killed, completed, failed


def _import(url: str, path: Path) -> None:
    import_table(Store(url), path, metric="loss", direction="minimize")
