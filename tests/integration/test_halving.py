"""Halving in Optuna studies on a real history: what it stops, what it says, and what it does without a past."""

import pickle

import numpy as np
import optuna
import pytest
from optuna.pruners import SuccessiveHalvingPruner
from optuna.trial import TrialState

from hpo import HistoryHalving
from hpo.cli.explain import explain
from hpo.tuning.prune_reasons import HALVED_BECAUSE, halving_reason_of
from storage.history import get_study, list_trials
from storage.optuna_storage import HistoryStorage
from tests.integration.test_pruner import add_past, new_study, optimize
from tests.learning_curves import fast


@pytest.fixture
def history(sqlite_store):
    """Past studies on one scale, whose curves keep their order."""
    storage, rng = HistoryStorage(sqlite_store), np.random.default_rng(7)
    for number in range(8):
        add_past(storage, f"past {number}", fast(rng, trials=32))
    return storage


def test_it_saves_much_and_keeps_the_best(history):
    losses = fast(np.random.default_rng(0), trials=64)
    study = new_study(history, "new", HistoryHalving(history))
    stopped = optimize(study, losses)
    spent = sum(len(trial.intermediate_values) for trial in study.trials)
    assert spent < 0.5 * losses.size
    assert study.best_value < np.sort(losses[:, -1])[3]
    assert not {7, 15, 31, 63} & set(stopped)
    assert max(stopped.values()) < losses.shape[1]


def test_the_first_trial_is_stopped_where_it_diverges(history):
    losses = fast(np.random.default_rng(0), trials=3)
    losses[0] = 1e6
    assert 0 in optimize(new_study(history, "new", HistoryHalving(history)), losses)


def test_maximising_the_opposite_is_the_same(history):
    losses = fast(np.random.default_rng(0), trials=24)
    down = optimize(new_study(history, "down", HistoryHalving(history)), losses)
    rng = np.random.default_rng(7)
    for number in range(8):
        add_past(history, f"up {number}", fast(rng, trials=32), scale=-1.0, direction="maximize")
    up = new_study(history, "up", HistoryHalving(history), direction="maximize")
    history.delete_study(history.get_study_id_from_name("down"))
    assert down
    assert optimize(up, losses, sign=-1.0) == down


def test_without_a_past_it_is_optunas(sqlite_store):
    storage, losses = HistoryStorage(sqlite_store), fast(np.random.default_rng(0), trials=24)
    plain = optimize(new_study(storage, "plain", SuccessiveHalvingPruner()), losses)
    storage.delete_study(storage.get_study_id_from_name("plain"))
    assert plain
    assert optimize(new_study(storage, "ours", HistoryHalving(storage)), losses) == plain


def test_a_verdict_is_a_function_of_the_stored_trials_and_is_explained(history, capsys):
    study = new_study(history, "new", HistoryHalving(history))
    optimize(study, fast(np.random.default_rng(0), trials=24))
    trial = next(trial for trial in study.trials if trial.state == TrialState.PRUNED and trial.number > 4)
    running = study.ask()
    for step, value in trial.intermediate_values.items():
        running.report(value, step)
    again = study._storage.get_trial(running._trial_id)
    fresh = pickle.loads(pickle.dumps(study.pruner))
    assert fresh.prune(study, again) == study.pruner.prune(study, again)
    reason = halving_reason_of(trial.system_attrs)
    assert reason.better >= reason.allowed and reason.past_studies == 8 and reason.step == trial.last_step
    complete = [other for other in study.trials if other.state == TrialState.COMPLETE]
    assert all(HALVED_BECAUSE not in other.system_attrs for other in complete)
    summary = get_study(history.store, "new")
    explain(summary, list_trials(history.store, summary.study_id), trial.number, as_json=False)
    printed = capsys.readouterr().out
    assert "stopped early" in printed and "past studies" in printed and "past 7" in printed
    explain(summary, list_trials(history.store, summary.study_id), trial.number, as_json=True)
    assert '"allowed"' in capsys.readouterr().out


def test_what_makes_no_sense_is_refused(history):
    with pytest.raises(ValueError, match=r"false_prunes = 1\.0"):
        HistoryHalving(history, false_prunes=1.0)
    with pytest.raises(ValueError, match="warmup_steps = -1"):
        HistoryHalving(history, warmup_steps=-1)
    study = optuna.create_study(directions=["minimize", "minimize"])
    with pytest.raises(ValueError, match="2 objectives"):
        HistoryHalving(history).prune(study, study.ask())
