"""Does the history answer what was asked, the same for a study however it was run?"""

import math

import optuna
import pytest
from optuna.trial import TrialState

from storage.errors import StudyNotFoundError
from storage.history import family_trials, get_study, list_studies, list_trials
from storage.optuna_storage import HistoryStorage
from storage.studies import claim_trial, create_study

SPACE = {
    "lr": {"type": "float", "low": 1e-4, "high": 1, "log": True},
    "layers": {"type": "int", "low": 1, "high": 3},
    "optimizer": {"type": "categorical", "choices": ["sgd", "adam"]},
}


def suggest(trial):
    trial.suggest_float("lr", 1e-4, 1, log=True)
    trial.suggest_int("layers", 1, 3)
    trial.suggest_categorical("optimizer", ["sgd", "adam"])


@pytest.fixture
def storage(store):
    return HistoryStorage(store)


def run(storage, name, values, direction="minimize"):
    """A plain Optuna study with these outcomes; None fails."""
    sampler = optuna.samplers.RandomSampler(seed=0)
    study = optuna.create_study(study_name=name, storage=storage, sampler=sampler, direction=direction)
    for value in values:
        trial = study.ask()
        suggest(trial)
        trial.report(1.0, step=2)
        study.tell(trial, value, state=TrialState.FAIL if value is None else TrialState.COMPLETE)
    return study


def test_an_empty_history(store):
    assert list_studies(store) == []
    assert family_trials(store, "nothing") == []


@pytest.mark.parametrize(("direction", "best"), [("minimize", 1.0), ("maximize", 3.0)])
def test_a_study_at_a_glance(store, storage, direction, best):
    run(storage, "a", [3.0, None, 1.0, math.inf, -math.inf], direction)
    study = get_study(store, "a")
    assert (study.best, study.directions, study.trials, study.source) == (best, (direction,), 5, "optuna")
    assert (study.counts[TrialState.COMPLETE], study.counts[TrialState.FAIL]) == (4, 1)
    assert study.finished_at > study.created_at
    assert list_studies(store) == [study]


def test_a_study_without_trials(store):
    create_study(store, name="a", spec={"trials": 3}, provenance={"commit": "abc"}, mlflow_uri="sqlite:///m.db")
    study = get_study(store, "a")
    assert (study.best, study.finished_at, study.trials) == (None, None, 0)
    assert (study.spec, study.provenance, study.mlflow_uri) == ({"trials": 3}, {"commit": "abc"}, "sqlite:///m.db")


def test_an_unknown_name_lists_near_ones(store):
    create_study(store, name="digits")
    with pytest.raises(StudyNotFoundError) as caught:
        get_study(store, "digit")
    assert str(caught.value) == "There is no study named 'digit'. Did you mean 'digits'?"
    with pytest.raises(StudyNotFoundError):
        list_trials(store, 99)


def test_trials_as_they_went(store, storage):
    study = run(storage, "a", [0.5, None])
    first, second = list_trials(store, study._study_id)
    assert (first.number, first.state, first.value) == (0, TrialState.COMPLETE, 0.5)
    assert first.params == study.trials[0].params
    assert first.distributions == study.trials[0].distributions
    assert first.intermediate_values == {2: 1.0}
    assert (first.user_attrs, first.system_attrs) == ({}, {})
    assert first.finished_at >= first.started_at
    assert (second.state, second.value) == (TrialState.FAIL, None)


def test_notes_come_along(store, storage):
    trial = run(storage, "a", []).ask()
    trial.set_user_attr("note", [1, None])
    storage.set_trial_system_attr(trial._trial_id, "hindsight:receipt", {"kind": "portfolio"})
    (record,) = list_trials(store, 1)
    assert (record.user_attrs, record.system_attrs) == (
        {"note": [1, None]},
        {"hindsight:receipt": {"kind": "portfolio"}},
    )


def test_a_curve_may_hold_nan(store, storage):
    trial = run(storage, "a", []).ask()
    trial.report(math.nan, 0)
    assert math.isnan(list_trials(store, 1)[0].intermediate_values[0])


def test_a_declared_and_a_run_space_are_one_family(store, storage):
    declared = create_study(store, name="declared", metric="val_loss", space=SPACE)
    undeclared = create_study(store, name="undeclared", metric="val_loss")
    claim_trial(store, undeclared, worker="w", lease_seconds=60, max_trials=1)
    suggest(optuna.load_study(study_name="undeclared", storage=storage).ask())
    families = {study.family for study in list_studies(store)}
    assert len(families) == 1
    assert families.pop().startswith("val_loss-")
    assert declared != undeclared


@pytest.mark.parametrize(
    "changed",
    [
        {"space": SPACE | {"lr": SPACE["lr"] | {"high": 2}}},
        {"space": SPACE | {"lr": SPACE["lr"] | {"log": False}}},
        {"space": SPACE | {"layers": SPACE["layers"] | {"when": {"optimizer": ["sgd"]}}}},
        {"space": SPACE | {"optimizer": {"type": "categorical", "choices": ["adam", "sgd", "lion"]}}},
        {"directions": ["maximize"]},
        {"metric": "val_accuracy"},
    ],
)
def test_another_space_metric_or_direction_is_another_family(sqlite_store, changed):
    create_study(sqlite_store, name="a", **{"metric": "val_loss", "space": SPACE})
    create_study(sqlite_store, name="b", **{"metric": "val_loss", "space": SPACE} | changed)
    first, second = list_studies(sqlite_store)
    assert first.family != second.family


def test_the_trials_of_a_family_and_of_a_task(store, storage):
    run(storage, "a", [1.0])
    run(storage, "b", [2.0, 3.0])
    create_study(store, name="c", task="digits", metric="val_loss")
    found = family_trials(store, get_study(store, "a").family)
    assert [(part.study.name, [trial.value for trial in part.trials]) for part in found] == [
        ("a", [1.0]),
        ("b", [2.0, 3.0]),
    ]
    assert [part.study.name for part in family_trials(store, "digits")] == ["c"]


def test_a_trial_takes_little_room(sqlite_store):
    """A million trials must fit: at most 600 bytes each, here with eight parameters."""
    storage = HistoryStorage(sqlite_store)
    study = optuna.create_study(storage=storage, sampler=optuna.samplers.RandomSampler(seed=0))
    distributions = {f"parameter_{i}": optuna.distributions.FloatDistribution(1e-5, 1, log=True) for i in range(8)}

    def size():
        with sqlite_store.read() as connection:
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
            return pages * connection.exec_driver_sql("PRAGMA page_size").scalar_one()

    def add(count):
        for i in range(count):
            params = dict.fromkeys(distributions, 1 / (i + 3))
            study.add_trial(optuna.trial.create_trial(value=1 / (i + 3), params=params, distributions=distributions))

    add(10)
    before = size()
    add(300)
    assert (size() - before) / 300 <= 600
