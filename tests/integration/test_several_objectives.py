"""Does a study of several objectives learn from studies of each?"""

from __future__ import annotations

import optuna
import pytest

from hpo.spaces.space import SearchSpace
from hpo.tuning.receipts import RECEIPT
from hpo.tuning.sampler import HistorySampler
from storage.optuna_storage import HistoryStorage
from storage.studies import create_study

SPACE = SearchSpace.from_json({name: {"type": "float", "low": 0.0, "high": 1.0} for name in ("x", "y")})


def error(params):
    return (params["x"] - 0.2) ** 2 + (params["y"] - 0.7) ** 2


def latency(params):
    return (params["x"] - 0.4) ** 2 + (params["y"] - 0.7) ** 2


pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


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


def both(trial):
    params = SPACE.suggest(trial)
    return error(params), latency(params)


def error_and_quickness(trial):
    low, high = both(trial)
    return low, -high


def add_past(storage, *, names):
    """Three studies of two objectives."""
    for task in range(3):
        sampler = optuna.samplers.RandomSampler(seed=task)
        past = optuna.create_study(
            storage=storage, study_name=f"past {task}", sampler=sampler, directions=["minimize", "maximize"]
        )
        if names:
            past.set_metric_names(names)
        past.optimize(error_and_quickness, n_trials=30)


def receipts_of(storage, *, names, directions, value, n_trials=8):
    study = optuna.create_study(
        storage=storage, sampler=HistorySampler(storage, seed=0), directions=directions, study_name="new"
    )
    if names:
        study.set_metric_names(names)
    study.optimize(value, n_trials=n_trials)
    nothing = {"role": None, "history_weight": None}  # of a first trial that nothing is known of
    return study.trials, [trial.system_attrs.get(RECEIPT, nothing) for trial in study.trials]


@pytest.mark.parametrize("names", [None, ["error", "quickness"]])
def test_past_studies_of_several_objectives_teach(store, names):
    storage = HistoryStorage(store)
    add_past(storage, names=names)
    trials, receipts = receipts_of(
        storage,
        names=names,
        directions=["minimize", "maximize"],
        value=error_and_quickness,
    )
    assert [receipt["role"] for receipt in receipts[:3]] == ["guess", "portfolio", "portfolio"]
    assert any(receipt["history_weight"] for receipt in receipts[4:])
    assert min(error(trial.params) + latency(trial.params) for trial in trials[:3]) < 0.1


def test_one_objective_learns_from_studies_of_several_that_measured_it(store):
    storage = HistoryStorage(store)
    add_past(storage, names=["error", "quickness"])
    trials, receipts = receipts_of(
        storage, names=["quickness"], directions=["maximize"], value=lambda trial: -both(trial)[1]
    )
    assert [receipt["role"] for receipt in receipts[:3]] == ["guess", "portfolio", "portfolio"]
    assert min(latency(trial.params) for trial in trials[:3]) < 0.03


def test_an_objective_that_nobody_measured_has_no_past(store):
    storage = HistoryStorage(store)
    add_past(storage, names=["error", "quickness"])
    for names, directions in ((["size"], ["minimize"]), (None, ["minimize"]), (["size", "cost"], ["minimize"] * 2)):
        _, receipts = receipts_of(
            storage,
            names=names,
            directions=directions,
            value=lambda trial, directions=directions: both(trial)[: len(directions)],
            n_trials=3,
        )
        assert {receipt["role"] for receipt in receipts} <= {None, "start"}
        optuna.delete_study(study_name="new", storage=storage)
