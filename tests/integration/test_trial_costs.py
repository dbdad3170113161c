"""Are the costs of past trials read as they were recorded, and do they reach the first proposal and its receipt?"""

from __future__ import annotations

from datetime import datetime, timedelta

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial

from hpo.tuning.receipts import RECEIPT, cost_of, receipt_of
from hpo.tuning.sampler import HistorySampler
from storage.history import get_study, list_trials
from storage.optuna_storage import HistoryStorage

SPACE = {"x": FloatDistribution(0.0, 1.0), "y": FloatDistribution(0.0, 1.0)}
BEGUN = datetime(2025, 1, 1)


def add_past(storage, name, factor, n=20):
    """Trials of which those with a large x take ten times as long, and cost ten times as many dollars."""
    rng = np.random.default_rng(len(name))
    study = optuna.create_study(storage=storage, study_name=name)
    for _ in range(n):
        x, y = rng.random(2)
        cost = float(factor * 10.0**x)
        trial = create_trial(
            params={"x": x, "y": y},
            distributions=SPACE,
            value=(x - 0.5) ** 2 + (y - 0.3) ** 2,
            user_attrs={"dollars": cost / 100.0, "words": "dear"},
        )
        trial.datetime_start, trial.datetime_complete = BEGUN, BEGUN + timedelta(seconds=cost)
        study.add_trial(trial)
    return storage.get_study_id_from_name(name)


def read(storage, ids, cost, most=8):
    (family,) = storage.past_families()
    return storage.past_costs(family, ids, cost, most)


def test_costs_are_those_of_their_trials(store):
    storage = HistoryStorage(store)
    ids = [add_past(storage, "one", 1.0), add_past(storage, "three", 50.0)]
    for cost, unit in (("seconds", 1.0), ("dollars", 0.01)):
        found = read(storage, ids, cost)
        assert sorted(found) == ids
        for study_id, factor in zip(ids, (1.0, 50.0), strict=True):
            arrays = found[study_id]
            assert len(arrays) == 8
            assert (arrays.numbers[0], arrays.numbers[-1]) == (0, 19), "spread over the study"
            x = np.array([arrays.params(row)["x"] for row in range(8)])
            np.testing.assert_allclose(arrays.costs, unit * factor * 10.0**x, rtol=1e-5)


def test_what_has_no_such_cost_is_left_out(store):
    storage = HistoryStorage(store)
    study_id = add_past(storage, "one", 1.0, n=6)
    study = optuna.load_study(storage=storage, study_name="one")
    pruned = create_trial(
        state=TrialState.PRUNED,
        params={"x": 0.1, "y": 0.2},
        distributions=SPACE,
        intermediate_values={1: 0.5},
        user_attrs={"dollars": 0.001},
    )
    study.add_trial(pruned)
    assert TrialState.PRUNED.value not in read(storage, [study_id], "dollars")[study_id].states
    assert read(storage, [study_id], "words") == {}
    assert read(storage, [study_id], "euros") == {}
    assert read(storage, [], "dollars") == {}


@pytest.mark.parametrize("cost", ["seconds", "dollars"])
def test_the_first_receipt_says_what_the_trial_will_cost(sqlite_store, cost):
    storage = HistoryStorage(sqlite_store)
    for name, factor in (("a", 10.0), ("bb", 20.0), ("ccc", 40.0)):
        add_past(storage, name, factor)
    study = optuna.create_study(storage=storage, study_name="mine", sampler=HistorySampler(storage, seed=0, cost=cost))
    asked = [study.ask(SPACE) for _ in range(2)]
    unit = 1.0 if cost == "seconds" else 0.01
    for trial in asked:
        kept = study.trials[trial.number].system_attrs[RECEIPT]
        usual = unit * 20.0 * 10.0 ** trial.params["x"]
        assert kept["cost"] == cost
        assert kept["predicted_cost"] == pytest.approx(usual, rel=0.25)
        assert kept["cost_interval90"][0] < usual < kept["cost_interval90"][1]
    assert kept["predicted_cost"] == pytest.approx(another_process_says(sqlite_store, cost, asked[1].params))


def another_process_says(store, cost, params):
    """What is kept of the past gives the same prediction, and not that of a study without costs."""
    storage = HistoryStorage(store)
    for name, sampler in (("again", HistorySampler(storage, seed=0, cost=cost)), ("plain", HistorySampler(storage))):
        study = optuna.create_study(storage=storage, study_name=name, sampler=sampler)
        receipts = []
        for _ in range(2):
            trial = study.ask(SPACE)
            receipts.append(study.trials[trial.number].system_attrs[RECEIPT])
        if name == "again":
            assert trial.params == params
            said = receipts[1]["predicted_cost"]
        else:
            assert "predicted_cost" not in receipts[1]
    return said


def test_the_receipt_is_read_with_what_it_came_to(sqlite_store):
    storage = HistoryStorage(sqlite_store)
    add_past(storage, "a", 10.0)
    study = optuna.create_study(
        storage=storage, study_name="mine", sampler=HistorySampler(storage, seed=0, cost="dollars")
    )

    def objective(trial):
        trial.set_user_attr("dollars", 3.5)
        return trial.suggest_float("x", 0.0, 1.0) + trial.suggest_float("y", 0.0, 1.0)

    study.optimize(objective, n_trials=3)
    mine = get_study(sqlite_store, "mine")
    trials = list_trials(sqlite_store, mine.study_id)
    receipts = [receipt_of(mine, trial) for trial in trials]
    assert {receipt.cost for receipt in receipts[1:]} == {"dollars"}
    assert all(
        receipt.cost_interval90[0] < receipt.predicted_cost < receipt.cost_interval90[1] for receipt in receipts[1:]
    )
    assert [cost_of(receipt, trial) for receipt, trial in zip(receipts[1:], trials[1:], strict=True)] == [
        3.5,
        3.5,
    ]
