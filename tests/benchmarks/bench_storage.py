"""How many trials a second does the history take? Against Optuna's RDBStorage, in turn, on SQLite on this disk."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import optuna
from optuna.distributions import FloatDistribution
from optuna.storages import BaseStorage, RDBStorage
from optuna.study import StudyDirection
from optuna.trial import TrialState

from hpo import HistoryStorage

TRIALS, PARAMS, REPORTS, ROUNDS = 20, 6, 10, 5
TARGET_RATIO = 10.0


def main() -> None:
    """Print trials per second and their ratio, as medians of several rounds."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    rates: dict[str, list[float]] = {"HistoryStorage": [], "RDBStorage": []}
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        storages = {
            "HistoryStorage": HistoryStorage(f"sqlite:///{folder}/history.db"),
            "RDBStorage": RDBStorage(f"sqlite:///{folder}/rdb.db"),
        }
        for _ in range(ROUNDS):
            for name, storage in storages.items():
                rates[name].append(trials_per_second(storage))
    ratios = [ours / theirs for ours, theirs in zip(rates["HistoryStorage"], rates["RDBStorage"], strict=True)]
    print(f"one trial: create, {PARAMS} parameters, {REPORTS} reports, finish")
    for name, measured in rates.items():
        print(f"{name:15} {statistics.median(measured):7.1f} trials/s")
    print(f"ratio {statistics.median(ratios):.1f} (from {min(ratios):.1f} to {max(ratios):.1f})")
    assert statistics.median(ratios) >= TARGET_RATIO, f"the target is {TARGET_RATIO:g}"


def trials_per_second(storage: BaseStorage) -> float:
    study_id = storage.create_new_study([StudyDirection.MINIMIZE])
    distribution = FloatDistribution(0.0, 1.0)
    started = time.perf_counter()
    for _ in range(TRIALS):
        trial_id = storage.create_new_trial(study_id)
        for index in range(PARAMS):
            storage.set_trial_param(trial_id, f"x{index}", 0.5, distribution)
        for step in range(REPORTS):
            storage.set_trial_intermediate_value(trial_id, step, 1.0 / (step + 1))
        storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [0.1])
    return TRIALS / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
