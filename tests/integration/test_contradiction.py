"""Is a past that was tuned in the other direction left out, and said so?"""

from __future__ import annotations

import logging

import optuna
import pytest

from hpo.spaces.space import SearchSpace
from hpo.tuning.receipts import RECEIPT
from hpo.tuning.sampler import HistorySampler
from storage.optuna_storage import HistoryStorage
from storage.studies import create_study

SPACE = SearchSpace.from_json({"x": {"type": "float", "low": 0.0, "high": 1.0}})


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_the_same_metric_in_the_other_direction_does_not_count(sqlite_store, caplog):
    storage = HistoryStorage(sqlite_store)
    for name, direction, sampler in (
        ("upwards", "maximize", optuna.samplers.RandomSampler(seed=0)),
        ("downwards", "minimize", HistorySampler(storage, seed=0)),
    ):
        create_study(
            sqlite_store,
            name=name,
            directions=[direction],
            task=f"task {name}",
            metric="accuracy",
            space=SPACE.to_json(),
        )
        study = optuna.load_study(storage=storage, study_name=name, sampler=sampler)
        study.set_metric_names(["accuracy"])
        with caplog.at_level(logging.WARNING, logger="hpo.tuning.sampler"):
            study.optimize(lambda trial: (SPACE.suggest(trial)["x"] - 0.3) ** 2, n_trials=5)
    receipt = study.trials[0].system_attrs[RECEIPT]
    assert receipt["role"] == "start"
    assert "upwards: accuracy has the other direction there; this study is to minimize it." in caplog.text
    assert caplog.text.count("upwards") == 1
