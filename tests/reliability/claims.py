"""Is a queued trial given to one worker only, and does nobody meet a locked database, however many ask at once?"""

from __future__ import annotations

import os
import time
from collections import Counter
from dataclasses import dataclass
from functools import partial

from optuna.trial import TrialState

from storage.errors import StorageError
from storage.retries import PATIENCE_SECONDS
from storage.schema import Store, open_store
from storage.studies import claim_trial, finish_trial
from tests.measured import Figure
from tests.processes import run_together
from tests.reliability.places import Place
from tests.reliability.queues import judge, queue, value_of

PROCESSES, TRIALS = 16, 5_000
LONGEST_SECONDS = PATIENCE_SECONDS / 3  # for one call: far from where the store would give up


@dataclass(frozen=True, kw_only=True)
class Taken:
    """What a worker did."""

    numbers: list[int]
    errors: list[str]
    longest_seconds: float  # that one call took
    seconds: float


def run(place: Place, *, processes: int = PROCESSES, trials: int = TRIALS) -> list[Figure]:
    """All take and finish trials until there are none."""
    where = f"claims, {place.kind}, {processes} processes x {trials:,} trials"
    with place.fresh() as url:
        study_id = queue(url, trials)
        taken = run_together(partial(take, study_id, trials), processes, prepare=lambda _: open_store(url))
        store = open_store(url)
        outcome = judge(store, study_id, [])
        store.dispose()
    times = Counter(number for worker in taken for number in worker.numbers)
    errors = Counter(error for worker in taken for error in worker.errors)
    return [
        Figure(what=f"{where}: given twice", ours=sum(number > 1 for number in times.values()), at_most=0),
        Figure(what=f"{where}: never given", ours=trials - len(times), at_most=0),
        Figure(what=f"{where}: errors", ours=errors.total(), at_most=0, note="; ".join(errors)),
        *outcome.figures(where)[1:-1],
        Figure(
            what=f"{where}: longest call",
            ours=max(worker.longest_seconds for worker in taken),
            unit="s",
            at_most=LONGEST_SECONDS,
        ),
        Figure(what=f"{where}: claimed and finished", ours=trials / max(w.seconds for w in taken), unit="trials/s"),
    ]


def take(study_id: int, trials: int, store: Store) -> Taken:
    """Claim and finish until nothing waits."""
    numbers, errors, longest, started = [], [], 0.0, time.perf_counter()
    while True:
        called = time.perf_counter()
        try:
            claimed = claim_trial(store, study_id, worker=str(os.getpid()), lease_seconds=600, max_trials=trials)
            if claimed is None:
                seconds = time.perf_counter() - started
                return Taken(numbers=numbers, errors=errors, longest_seconds=longest, seconds=seconds)
            longest = max(longest, time.perf_counter() - called)
            numbers.append(claimed.number)
            called = time.perf_counter()
            finish_trial(store, claimed, state=TrialState.COMPLETE, value=value_of(claimed))
        except StorageError as error:
            errors.append(str(error))
        longest = max(longest, time.perf_counter() - called)
