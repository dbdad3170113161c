"""How fast do many workers empty one queue, and does each trial go to one of them only? Against Optuna's RDBStorage."""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import optuna
from optuna.exceptions import OptunaError
from optuna.trial import TrialState, create_trial

from tests.benchmarks.rivals.storages import Opener, databases
from tests.measured import Figure
from tests.processes import run_together
from tests.reliability import claims
from tests.reliability.places import postgresql_place, sqlite_place

PROCESSES, TRIALS = 16, 5_000
RIVAL_TRIALS = 300  # its pace does not depend on how many there are


def main() -> Iterator[Figure]:
    """Trials claimed and finished per second, by all workers together; none given twice, no error."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=Path.cwd())))
        for place in (sqlite_place(folder), stack.enter_context(postgresql_place())):
            *promises, pace = claims.run(place, processes=PROCESSES, trials=TRIALS)
            yield from promises
            with databases(place.kind) as storages:
                rate, doubled, errors = rival_rate(storages["RDBStorage"])
            yield Figure(
                what=pace.what,
                ours=pace.ours,
                rival=rate,
                rival_name="RDBStorage",
                unit="trials/s",
                ratio=pace.ours / rate,
                note=f"RDBStorage, {RIVAL_TRIALS} trials: {doubled} given twice, {errors} errors",
            )


def rival_rate(opener: Opener) -> tuple[float, int, int]:
    """Trials per second, trials given to more than one, errors; as workers of Optuna take what is enqueued."""
    study = optuna.create_study(storage=opener(), study_name="queue")
    for number in range(RIVAL_TRIALS):
        study.add_trial(create_trial(state=TrialState.WAITING, system_attrs={"fixed_params": {"x": number}}))
    taken = run_together(take, PROCESSES, prepare=partial(_load, opener))
    times = Counter(number for numbers, _, _ in taken for number in numbers)
    seconds = max(seconds for _, _, seconds in taken)
    return len(times) / seconds, sum(n > 1 for n in times.values()), sum(errors for _, errors, _ in taken)


def take(study: optuna.Study) -> tuple[list[int], int, float]:
    """The numbers of the trials taken, how many errors there were, and the seconds."""
    numbers, errors, started = [], 0, time.perf_counter()
    while True:
        try:
            trial_id = study._pop_waiting_trial_id()
            if trial_id is None:
                return numbers, errors, time.perf_counter() - started
            numbers.append(study._storage.get_trial_number_from_id(trial_id))
            study._storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [0.5])
        except OptunaError:
            errors += 1


def _load(opener: Opener, _index: int) -> optuna.Study:
    return optuna.load_study(storage=opener(), study_name="queue")
