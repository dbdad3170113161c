"""How many trials a second does the history take? Against Optuna's storages, in turn, on this disk."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from itertools import count
from pathlib import Path

from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage
from optuna.study import StudyDirection

from tests.benchmarks.rivals.storages import PARAMETERS, REPORTS, Opener, databases, journal, run_trial
from tests.measured import Figure, faster, in_turn
from tests.processes import run_together

ROUNDS = 5
SECONDS = 1.5  # of work by each storage in each round
PROCESSES = 4
TARGETS = {"SQLite": 10.0, "PostgreSQL": 5.0}
JOURNAL_TARGET = 1.0


def main() -> Iterator[Figure]:
    """Trials per second and their ratios, as medians of several rounds."""
    print(f"one trial: create, {len(PARAMETERS)} parameters, {REPORTS} reports, finish")
    for kind, target in TARGETS.items():
        with databases(kind) as storages:
            yield compare(kind, storages, processes=1, at_least=target)
            yield compare(kind, storages, processes=PROCESSES, at_least=target)
    with databases("SQLite") as storages, tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        ours = {"ours": storages["ours"], "JournalStorage": partial(journal, Path(folder, "journal.log"))}
        yield compare("SQLite against a log file", ours, processes=1, at_least=JOURNAL_TARGET)


def compare(kind: str, storages: dict[str, Opener], *, processes: int, at_least: float) -> Figure:
    ours, rival = storages
    rates = in_turn(ROUNDS, {name: partial(trials_per_second, opener, processes) for name, opener in storages.items()})
    return faster(
        f"trial cycle, {kind}, {processes} process{'' if processes == 1 else 'es'}",
        rates[ours],
        rates[rival],
        unit="trials/s",
        rival_name=rival,
        at_least=at_least,
    )


def trials_per_second(opener: Opener, processes: int) -> float:
    """Of all processes together, on one study; opening is not counted."""
    study = opener().create_new_study([StudyDirection.MINIMIZE])

    def open_storage(index: int) -> BaseStorage:
        storage = opener()
        run_trial(storage, study, seed=index)  # connections and caches are warm
        return storage

    def work(storage: BaseStorage) -> tuple[int, float]:
        started, done = time.perf_counter(), 0
        for seed in count():
            with suppress(StorageInternalError):  # RDBStorage, when its database is locked for too long
                run_trial(storage, study, seed)
                done += 1
            seconds = time.perf_counter() - started
            if seconds >= SECONDS:
                break
        return done, seconds

    finished = run_together(work, processes, prepare=open_storage)
    return sum(done / seconds for done, seconds in finished)
