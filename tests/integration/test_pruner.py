"""The pruner in Optuna studies on a real history: what it stops, what it learns from, and what it leaves alone."""

import json
import pickle

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial
from sqlalchemy import update

from hpo import HistoryPruner
from hpo.cli.explain import explain
from hpo.tuning.past_curves import past_curves, related_studies
from hpo.tuning.prune_reasons import PRUNED_BECAUSE, reason_of
from storage.curves import stored_curves
from storage.history import get_study, list_trials
from storage.models import studies
from storage.optuna_storage import HistoryStorage
from tests.learning_curves import fast

X = {"x": FloatDistribution(0, 1)}


@pytest.fixture
def storage(sqlite_store):
    return HistoryStorage(sqlite_store)


def new_study(storage, name, pruner=None, **options):
    sampler = optuna.samplers.RandomSampler(seed=0)
    return optuna.create_study(study_name=name, storage=storage, sampler=sampler, pruner=pruner, **options)


def optimize(study, losses, *, sign=1.0, value=lambda curve: curve[-1]):
    """Report recorded curves, one a trial; what was stopped, by number of reports."""
    stopped = {}

    def objective(trial):
        trial.suggest_float("x", 0, 1)
        for step, loss in enumerate(losses[trial.number]):
            trial.report(sign * loss, step)
            if trial.should_prune():
                stopped[trial.number] = step + 1
                raise optuna.TrialPruned
        return sign * value(losses[trial.number])

    study.optimize(objective, n_trials=len(losses))
    return stopped


def add_past(storage, name, losses, *, scale=1.0, **options):
    study = new_study(storage, name, **options)
    for row in losses:
        reports = dict(enumerate((scale * row).tolist()))
        study.add_trial(
            create_trial(value=reports[len(row) - 1], params={"x": 0.5}, distributions=X, intermediate_values=reports)
        )
    return study


@pytest.fixture
def history(storage):
    """Twenty past studies of curves that fall alike, each on a scale of its own."""
    rng = np.random.default_rng(7)
    for number in range(20):
        add_past(storage, f"past {number}", fast(rng, trials=32), scale=10.0 ** rng.uniform(-3, 3))
    return storage


def test_it_saves_much_and_keeps_the_best_with_a_past(history):
    losses = fast(np.random.default_rng(0))
    study = new_study(history, "new", HistoryPruner(history))
    stopped = optimize(study, losses)
    spent = sum(len(trial.intermediate_values) for trial in study.trials)
    assert spent < 0.55 * losses.size
    assert study.best_value == losses[:, -1].min()
    assert min(stopped) >= 4
    assert not {7, 15, 31} & set(stopped)


def test_maximising_the_opposite_is_the_same(storage):
    losses = fast(np.random.default_rng(0), trials=24)
    down = new_study(storage, "down", HistoryPruner(storage))
    up = new_study(storage, "up", HistoryPruner(storage), direction="maximize")
    stopped = optimize(down, losses)
    assert stopped
    assert optimize(up, losses, sign=-1.0) == stopped


def test_on_another_scale_the_same_is_stopped(storage):
    losses = fast(np.random.default_rng(0), trials=24)
    plain = optimize(new_study(storage, "plain", HistoryPruner(storage)), losses)
    storage.delete_study(storage.get_study_id_from_name("plain"))
    scaled = optimize(new_study(storage, "scaled", HistoryPruner(storage)), 50.0 * losses + 3.0)
    assert scaled == plain


def test_a_verdict_is_a_function_of_the_stored_trials(history):
    losses = fast(np.random.default_rng(0), trials=20)
    study = new_study(history, "new", HistoryPruner(history))
    optimize(study, losses)
    trial = next(trial for trial in study.trials if trial.state == TrialState.PRUNED)
    running = study.ask()
    for step, value in trial.intermediate_values.items():
        running.report(value, step)
    again = study._storage.get_trial(running._trial_id)
    fresh = pickle.loads(pickle.dumps(study.pruner))
    assert fresh.prune(study, again) == study.pruner.prune(study, again)
    assert HistoryPruner(HistoryStorage(history.store)).prune(study, again) == study.pruner.prune(study, again)


def test_the_reason_is_kept_and_explained(history, capsys):
    study = new_study(history, "new", HistoryPruner(history))
    optimize(study, fast(np.random.default_rng(0), trials=20))
    trial = next(trial for trial in study.trials if trial.state == TrialState.PRUNED)
    reason = reason_of(trial.system_attrs)
    assert reason.step == trial.last_step and reason.value == trial.value
    assert reason.past_studies == 20 and reason.named[0].startswith("past")
    assert reason.chance < reason.least_chance
    assert reason.interval90[0] <= reason.predicted <= reason.interval90[1]
    assert all(PRUNED_BECAUSE not in other.system_attrs for other in study.trials if other.state == TrialState.COMPLETE)
    summary = get_study(history.store, "new")
    explain(summary, list_trials(history.store, summary.study_id), trial.number, as_json=False)
    printed = capsys.readouterr().out
    assert "stopped early" in printed and "20 past studies" in printed
    explain(summary, list_trials(history.store, summary.study_id), trial.number, as_json=True)
    assert '"pruned_because"' in capsys.readouterr().out


def test_reports_that_are_no_numbers_are_very_bad_and_no_obstacle(history):
    losses = fast(np.random.default_rng(0), trials=24)
    losses[9, 3:] = np.nan
    losses[20] = np.inf
    losses[22, 5] = np.nan
    study = new_study(history, "new", HistoryPruner(history))
    stopped = optimize(study, losses, value=lambda curve: np.nan_to_num(curve[-1], nan=np.inf))
    assert stopped[9] <= 4
    assert 20 in stopped
    assert np.isfinite(study.best_value)


@pytest.mark.parametrize("startup", [0, 4, 12])
def test_nothing_is_stopped_before_enough_trials_are_complete(storage, startup):
    study = new_study(storage, "new", HistoryPruner(storage, startup_trials=startup, warmup_steps=3))
    stopped = optimize(study, fast(np.random.default_rng(0), trials=20))
    assert min(stopped) >= max(startup, 4)
    assert min(stopped.values()) > 3


def test_the_best_report_may_be_what_counts(storage):
    rng = np.random.default_rng(0)
    losses = fast(rng, trials=24) + 0.3 * rng.random((24, 20))
    study = new_study(storage, "new", HistoryPruner(storage))
    assert optimize(study, losses, value=np.min)


def test_what_is_not_reported_is_left_alone_and_said_once(storage, caplog):
    losses = fast(np.random.default_rng(0), trials=12)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = new_study(storage, "new", HistoryPruner(storage))
    assert optimize(study, losses, value=lambda curve: 100.0 - curve[-1]) == {}
    assert sum("no trial is stopped early" in record.message for record in caplog.records) == 1


def test_curves_of_one_report_are_left_alone(storage):
    study = new_study(storage, "new", HistoryPruner(storage))
    assert optimize(study, np.random.default_rng(0).random((12, 1))) == {}


def test_trials_without_reports_are_left_alone(storage):
    study = new_study(storage, "new", HistoryPruner(storage))
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=8)
    assert not study.pruner.prune(study, study._storage.get_trial(study.ask()._trial_id))


def test_several_objectives_are_refused(storage):
    study = new_study(storage, "two", HistoryPruner(storage), directions=["minimize", "minimize"])
    with pytest.raises(ValueError, match="2 objectives"):
        study.pruner.prune(study, study._storage.get_trial(study.ask()._trial_id))


@pytest.mark.parametrize("rate", [0.0, 1.0, -1.0])
def test_a_rate_must_be_one(storage, rate):
    with pytest.raises(ValueError, match="false_prunes"):
        HistoryPruner(storage, false_prunes=rate)


def test_related_studies_share_metric_direction_and_parameters(storage):
    rng = np.random.default_rng(0)
    add_past(storage, "akin", fast(rng, trials=10))
    add_past(storage, "reversed", fast(rng, trials=10), direction="maximize")
    stranger = new_study(storage, "stranger")
    for row in fast(rng, trials=10):
        stranger.add_trial(create_trial(value=row[-1], params={"depth": 0.5}, distributions={"depth": X["x"]}))
    study = new_study(storage, "new")
    optimize(study, fast(rng, trials=2))
    assert [sample.name for sample in related_studies(storage, study)] == ["akin"]


def test_a_past_that_says_nothing_of_curves_teaches_nothing(storage):
    rng = np.random.default_rng(0)
    losses = fast(rng, trials=12)
    add_past(storage, "good", losses)
    half_way = 0.2 + 0.5 * losses / losses.max()
    half_way[6:] *= 100
    add_past(storage, "percent from the sixth on", half_way)
    add_past(storage, "few", fast(rng, trials=5))
    silent = new_study(storage, "silent")
    for row in losses:
        silent.add_trial(create_trial(value=row[-1], params={"x": 0.5}, distributions=X))
    study = new_study(storage, "new")
    optimize(study, losses[:1])
    assert [task.name for task in past_curves(storage, related_studies(storage, study), 1.0)] == ["good"]


def test_stored_curves_are_some_of_each_study_in_order(store):
    storage = HistoryStorage(store)
    study = add_past(storage, "past", fast(np.random.default_rng(0), trials=10, k=3))
    study.add_trial(
        create_trial(
            state=TrialState.PRUNED,
            value=0.5,
            params={"x": 0.5},
            distributions=X,
            intermediate_values={5: float("nan"), 2: 0.5},
        )
    )
    study.add_trial(
        create_trial(state=TrialState.FAIL, params={"x": 0.5}, distributions=X, intermediate_values={1: 1.0})
    )
    found = stored_curves(store, {study._study_id: 100})[study._study_id]
    assert [curve.number for curve in found] == list(range(11))
    assert found[-1].state == TrialState.PRUNED
    assert found[-1].steps.tolist() == [2, 5]
    assert np.array_equal(found[-1].values, [0.5, np.nan], equal_nan=True)
    some = stored_curves(store, {study._study_id: 3})[study._study_id]
    assert [curve.number for curve in some] == [0, 3, 6]


def test_steps_that_are_folds_teach_no_curve(storage):
    losses = fast(np.random.default_rng(3), trials=32)
    for name, trainer in (("epochs", {}), ("folds", {"folds": losses.shape[1]})):
        study = add_past(storage, name, losses)
        spec = json.dumps({"study": name, "trainer": trainer})
        with storage.store.write() as connection:
            connection.execute(update(studies).where(studies.c.id == study._study_id).values(spec=spec))
    new = new_study(storage, "new")
    new.enqueue_trial({"x": 0.5})
    new.ask(X)
    found = past_curves(storage, related_studies(storage, new), 1.0)
    assert [past.name for past in found] == ["epochs"]
