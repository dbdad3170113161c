"""Optuna's own storages beside ours, and the trial with which they are compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import BaseStorage, JournalStorage, get_storage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from hpo import HistoryStorage
from tests.postgresql import database, postgresql_server

PARAMETERS: dict[str, BaseDistribution] = {
    "lr": FloatDistribution(1e-5, 1.0, log=True),
    "momentum": FloatDistribution(0.0, 0.99),
    "dropout": FloatDistribution(0.0, 0.5, step=0.1),
    "width": IntDistribution(8, 512, log=True),
    "layers": IntDistribution(1, 8),
    "optimizer": CategoricalDistribution(["sgd", "adam", "rmsprop"]),
}
REPORTS = 10

Opener = Callable[[], BaseStorage]


@contextmanager
def databases(kind: str) -> Iterator[dict[str, Opener]]:
    """Our storage and Optuna's RDBStorage, on an empty database each; "SQLite" is on the disk of this folder."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with ExitStack() as stack:
        if kind == "SQLite":
            folder = stack.enter_context(TemporaryDirectory(dir=Path.cwd()))
            ours, theirs = f"sqlite:///{folder}/ours.db", f"sqlite:///{folder}/theirs.db"
        else:
            server = stack.enter_context(postgresql_server())
            ours, theirs = (stack.enter_context(database(server.url)) for _ in range(2))
        yield {
            "ours": lambda: HistoryStorage(ours),
            "RDBStorage": lambda: get_storage(theirs),  # with the cache that a study puts before it
        }


def journal(path: Path) -> JournalStorage:
    """Optuna's storage in a log file."""
    return JournalStorage(JournalFileBackend(str(path)))


def internal_values(seed: int) -> Sequence[float]:
    """A configuration, in the order of PARAMETERS; another one for each seed."""
    spread = (seed * 0.6180339887498949) % 1.0
    return [10 ** (-5 + 5 * spread), 0.99 * spread, 0.1 * (seed % 6), 8 + seed % 500, 1 + seed % 8, seed % 3]


def set_parameters(storage: BaseStorage, trial_id: int, seed: int) -> None:
    """Set all parameters, one call each, as `trial.suggest_*` does."""
    for (name, distribution), value in zip(PARAMETERS.items(), internal_values(seed), strict=True):
        storage.set_trial_param(trial_id, name, value, distribution)


def run_trial(storage: BaseStorage, study_id: int, seed: int) -> None:
    """The whole life of a trial: created, its parameters set, reported 10 times, finished."""
    trial_id = storage.create_new_trial(study_id)
    set_parameters(storage, trial_id, seed)
    for step in range(REPORTS):
        storage.set_trial_intermediate_value(trial_id, step, 1.0 / (step + 1 + seed))
    storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [1.0 / (1 + seed)])
