"""Does work go on when PostgreSQL is restarted under it, again and again, in an orderly way and as by a crash?

The workers do nothing about it: whatever they call waits until the server is back, and says what it would have said.
"""

from __future__ import annotations

import multiprocessing
import random
import tempfile
import time
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

from optuna.distributions import FloatDistribution
from optuna.trial import TrialState
from sqlalchemy import func, select

from storage.errors import StaleAttemptError
from storage.models import trials
from storage.optuna_storage import HistoryStorage
from storage.schema import Store, open_store
from storage.studies import claim_trial, extend_leases, finish_trial, report, start_trial
from tests.measured import Figure
from tests.reliability.places import Place
from tests.reliability.queues import Journal, is_all_done, judge, queue, read_journals, value_of

TRIALS, WORKERS = 500, 8
SECONDS_BETWEEN = (5.0, 20.0)
LEASE_SECONDS = 60.0
STEPS = 5
STEP_SECONDS = 0.3
PARAMETERS = {name: FloatDistribution(0.0, 1e6) for name in ("x", "y", "z")}
DEADLINE_SECONDS = 900.0


@dataclass(frozen=True, kw_only=True)
class Task:
    """What each worker is to do."""

    url: str
    study_id: int
    trials: int
    folder: Path  # for the journals
    step_seconds: float


def run(
    place: Place,
    *,
    trials: int = TRIALS,
    workers: int = WORKERS,
    seconds_between: tuple[float, float] = SECONDS_BETWEEN,
    step_seconds: float = STEP_SECONDS,
    seed: int = 0,
) -> list[Figure]:
    """Workers do all trials, while the server is restarted."""
    assert place.restart is not None
    where = f"server restarts, {place.kind}, {trials} trials"
    with place.fresh() as url, tempfile.TemporaryDirectory() as folder:
        study_id = queue(url, trials)
        task = Task(url=url, study_id=study_id, trials=trials, folder=Path(folder), step_seconds=step_seconds)
        context = multiprocessing.get_context("fork")
        team = [context.Process(target=_work, args=(task, name)) for name in range(workers)]
        for process in team:
            process.start()
        rng, modes, restarts = random.Random(seed), cycle(["immediate", "fast"]), 0
        deadline = time.monotonic() + DEADLINE_SECONDS
        while any(process.is_alive() for process in team) and time.monotonic() < deadline:
            next_restart = time.monotonic() + rng.uniform(*seconds_between)
            while time.monotonic() < next_restart and any(process.is_alive() for process in team):
                time.sleep(0.05)
            if any(process.is_alive() for process in team):
                place.restart(next(modes))
                restarts += 1
        hung = [process for process in team if process.is_alive()]
        for process in hung:
            process.kill()
        for process in team:
            process.join()
        store = open_store(url)
        outcome = judge(store, study_id, read_journals(task.folder))
        found = HistoryStorage(store).get_all_trials(study_id, deepcopy=False)
        repeated = _attempts_beyond_the_first(store, study_id)
        store.dispose()
    incomplete = [trial for trial in found if trial.params != _params_of(trial.number)]
    missing = sum(STEPS - len(trial.intermediate_values) for trial in found)
    return [
        *outcome.figures(where),
        Figure(what=f"{where}: processes that died", ours=sum(p.exitcode != 0 for p in team), at_most=0),
        Figure(what=f"{where}: trials without all their parameters", ours=len(incomplete), at_most=0),
        Figure(what=f"{where}: points of curves lost", ours=missing, at_most=0),
        Figure(what=f"{where}: restarts", ours=restarts, at_least=1, note="immediate and fast, in turn"),
        Figure(what=f"{where}: attempts beyond the first", ours=repeated),
    ]


def _work(task: Task, name: int) -> None:
    store = Store(task.url)
    storage, journal, worker = HistoryStorage(store), Journal(task.folder / f"{name}.jsonl"), f"worker {name}"
    while True:
        claimed = claim_trial(
            store, task.study_id, worker=worker, lease_seconds=LEASE_SECONDS, max_trials=task.trials, max_attempts=1000
        )
        if claimed is None:
            if is_all_done(store, task.study_id):
                return
            time.sleep(0.2)
            continue
        attempt = {"number": claimed.number, "attempt": claimed.attempt, "value": value_of(claimed)}
        try:
            for parameter, value in _params_of(claimed.number).items():
                storage.set_trial_param(claimed.trial_id, parameter, value, PARAMETERS[parameter])
            start_trial(store, claimed, params=_params_of(claimed.number))
            for step in range(STEPS):
                time.sleep(task.step_seconds)
                extend_leases(store, [claimed], worker=worker, lease_seconds=LEASE_SECONDS)
                report(store, claimed, step=step, value=float(step))
            finish_trial(store, claimed, state=TrialState.COMPLETE, value=value_of(claimed))
            journal.note("finished", sure=True, **attempt)
        except StaleAttemptError:
            journal.note("given up", sure=True, **attempt)


def _params_of(number: int) -> dict[str, float]:
    return {name: float(number + index) for index, name in enumerate(PARAMETERS)}


def _attempts_beyond_the_first(store: Store, study_id: int) -> int:
    with store.read() as connection:
        return int(connection.scalar(select(func.sum(trials.c.attempt - 1)).where(trials.c.study_id == study_id)) or 0)
