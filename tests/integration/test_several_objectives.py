"""Does a study of several objectives learn from studies of each?"""

from __future__ import annotations

import optuna
import pytest

from hpo.receipts import RECEIPT
from hpo.sampler import HistorySampler
from hpo.space import SearchSpace
from storage.optuna_storage import HistoryStorage
from storage.studies import create_study

SPACE = SearchSpace.from_json({name: {"type": "float", "low": 0.0, "high": 1.0} for name in ("x", "y")})


def error(params):
    return (params["x"] - 0.2) ** 2 + (params["y"] - 0.7) ** 2


def latency(params):
    return (params["x"] - 0.4) ** 2 + (params["y"] - 0.7) ** 2


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_each_objective_has_the_past_of_its_metric(sqlite_store):
    storage = HistoryStorage(sqlite_store)
    for metric, value in (("error", error), ("latency", latency)):
        for task in range(3):
            name = f"{metric} {task}"
            create_study(
                sqlite_store, name=name, directions=["minimize"], task=name, metric=metric, space=SPACE.to_json()
            )
            past = optuna.load_study(storage=storage, study_name=name, sampler=optuna.samplers.RandomSampler(seed=task))
            past.optimize(lambda trial, value=value: value(SPACE.suggest(trial)), n_trials=30)
    study = optuna.create_study(
        storage=storage, sampler=HistorySampler(storage, seed=0), directions=["minimize"] * 2, study_name="both"
    )
    study.set_metric_names(["error", "latency"])
    study.optimize(lambda trial: (error(SPACE.suggest(trial)), latency(SPACE.suggest(trial))), n_trials=8)
    receipts = [trial.system_attrs[RECEIPT] for trial in study.trials]
    assert {"front", "safety"} <= {receipt["role"] for receipt in receipts}
    assert any(receipt["history_weight"] for receipt in receipts[4:])
    assert min(error(trial.params) + latency(trial.params) for trial in study.trials[:3]) < 0.1  # the best has 0.02
