"""How long does a proposal take, whatever the size of the history, and what does learning from it cost? On one core."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import optuna
import torch
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from hpo.tuning.sampler import HistorySampler
from storage.database import Store
from storage.importers.intake import Intake
from storage.importers.runs import PastTask, RunColumns
from storage.optuna_storage import HistoryStorage
from storage.schema import open_store
from storage.sources import Source
from tests.measured import Figure, table

TRIALS_OF_A_TASK, PARAMETERS = 100, 8
SIZES = (1_000, 10_000, 100_000, 1_000_000)  # trials of past tasks in all
LEARNED = 100_000  # 1,000 tasks: at this size learning is timed
TRIALS = 100  # of the study that asks
ASKED = 40  # proposals: half of them by history
SPACE = {f"x{index}": {"type": "float", "low": 0.0, "high": 1.0} for index in range(PARAMETERS)}


def main() -> Iterator[Figure]:
    """Seconds to learn, milliseconds to propose at every size, and against Optuna's GPSampler without a past."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    torch.set_num_threads(1)
    largest = int(os.environ.get("HPO_BENCH_TRIALS", SIZES[-1]))
    sizes = [size for size in SIZES if size <= largest]
    with threadpool_limits(1), tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        yield from without_a_past(open_store(f"sqlite:///{folder}/empty.db"))
        store = open_store(f"sqlite:///{folder}/history.db")
        smallest: np.ndarray | None = None
        for before, size in zip([0, *sizes], sizes, strict=False):
            fill(store, before // TRIALS_OF_A_TASK, size // TRIALS_OF_A_TASK)
            if size == LEARNED:
                yield Figure(what="learning 1,000 tasks x 100 trials", ours=first(store, "a"), unit="s", at_most=60.0)
                yield Figure(what="... in another process", ours=first(store, "b"), unit="s", at_most=60.0)
                fill(store, size // TRIALS_OF_A_TASK, size // TRIALS_OF_A_TASK + 1)
                yield Figure(what="... and one more task", ours=first(store, "c"), unit="s", at_most=1.0)
            taken = asked(HistoryStorage(store), f"after {size}")
            for what, share in (("median", 50), ("p95", 95)):
                yield Figure(
                    what=f"proposal, {size:,} past trials, {what}",
                    ours=float(np.percentile(taken, share)),
                    unit="ms",
                    at_most=150.0 if share == 95 else None,
                )
            smallest = taken if smallest is None else smallest
        yield Figure(
            what=f"proposal, {sizes[-1]:,} past trials against {sizes[0]:,}, median",
            ours=float(np.median(taken)),
            rival=float(np.median(smallest)),
            unit="ms",
            ratio=float(np.median(taken) / np.median(smallest)),
            at_most=1.2,
        )
        store.dispose()


def without_a_past(store: Store) -> Iterator[Figure]:
    """Our sampler and Optuna's on the same trials, by turns."""
    ours = HistoryStorage(store)
    theirs = optuna.storages.InMemoryStorage()
    mine = study_of(ours, "mine", HistorySampler(ours, seed=0), TRIALS)
    rival = study_of(theirs, "rival", optuna.samplers.GPSampler(seed=0), TRIALS)
    pairs = np.array([(ask(mine), ask(rival)) for _ in range(ASKED // 2)])
    taken, rivals = np.median(pairs, axis=0)
    yield Figure(
        what="proposal without a past against GPSampler, median",
        ours=float(taken),
        rival=float(rivals),
        unit="ms",
        ratio=float(rivals / taken),
        at_least=10.0,
    )
    optuna.delete_study(study_name="mine", storage=ours)
    store.dispose()


def fill(store: Store, before: int, after: int) -> None:
    """More past tasks, each a bowl around a place of its own."""
    intake = Intake(store, source=Source(name="benchmark", kind="table", location="made up"))
    for index in range(before, after):
        rng = np.random.default_rng(index)
        X = rng.random((TRIALS_OF_A_TASK, PARAMETERS))
        columns = RunColumns(
            keys=[str(key) for key in range(TRIALS_OF_A_TASK)],
            names=tuple(SPACE),
            internal=X,
            values=losses(X, 0.5 + 0.15 * rng.standard_normal(PARAMETERS)),
        )
        name = f"task {index}"
        intake.take_table(PastTask(name=name, study=name, metric="loss", direction="minimize", space=SPACE), columns)
    intake.finish()


def losses(X: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Of points (n, d): shape (n,)."""
    return np.asarray(((X - centre) ** 2).sum(axis=1))


def first(store: Store, name: str) -> float:
    """Seconds to the first proposal of a new study in a process that knows nothing yet."""
    storage = HistoryStorage(store)
    study = study_of(storage, f"first {name}", HistorySampler(storage, seed=0), 0)
    return ask(study) / 1000


def asked(storage: HistoryStorage, name: str) -> np.ndarray:
    """Milliseconds of each of some proposals for a study that has its trials already."""
    study = study_of(storage, name, HistorySampler(storage, seed=0), TRIALS)
    ask(study)  # the first one learns
    taken = np.array([ask(study) for _ in range(ASKED)])
    optuna.delete_study(study_name=name, storage=storage)
    return taken


def study_of(
    storage: optuna.storages.BaseStorage, name: str, sampler: optuna.samplers.BaseSampler, trials: int
) -> optuna.Study:
    """A study with so many trials near a good place."""
    study = optuna.create_study(storage=storage, study_name=name, sampler=sampler)
    space = {name: optuna.distributions.FloatDistribution(0.0, 1.0) for name in SPACE}
    X = np.clip(0.5 + 0.2 * np.random.default_rng(0).standard_normal((trials, PARAMETERS)), 0.0, 1.0)
    values = losses(X, np.full(PARAMETERS, 0.45))
    study.add_trials(
        [
            optuna.trial.create_trial(
                params=dict(zip(space, map(float, x), strict=True)), distributions=space, value=float(value)
            )
            for x, value in zip(X, values, strict=True)
        ]
    )
    return study


def ask(study: optuna.Study) -> float:
    """Milliseconds for one more trial's parameters."""
    begun = time.perf_counter()
    trial = study.ask()
    x = [trial.suggest_float(name, 0.0, 1.0) for name in SPACE]
    taken = 1000 * (time.perf_counter() - begun)
    study.tell(trial, float(losses(np.array([x]), np.full(PARAMETERS, 0.45))[0]))
    return taken


if __name__ == "__main__":
    print(table(main()))
