"""Does Optuna get the importance of hyperparameters as it asks for it?"""

import optuna
import pytest
from optuna.importance import get_param_importances

from hpo.decisions.importance_evaluator import HistoryImportanceEvaluator


def _study(trials: int) -> optuna.Study:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))

    def objective(trial: optuna.Trial) -> float:
        x, kind = trial.suggest_float("x", 0, 1), trial.suggest_categorical("kind", ["a", "b"])
        own = trial.suggest_float("own", 1e-3, 1, log=True) if kind == "b" else 0.0
        return 5 * x + 0.1 * own

    study.optimize(objective, n_trials=trials)
    return study


def test_through_optunas_own_function():
    study, evaluator = _study(60), HistoryImportanceEvaluator()
    found = get_param_importances(study, evaluator=evaluator)
    assert next(iter(found)) == "x" and set(found) == {"x", "kind", "own"}
    assert sum(found.values()) == pytest.approx(1.0)
    assert evaluator.evaluate(study)["x"] > 0.8
    assert list(evaluator.evaluate(study, ["own"])) == ["own"]
    by_kind = evaluator.evaluate(study, target=lambda trial: float(trial.params["kind"] == "b"))
    assert by_kind["kind"] > 0.9


@pytest.mark.parametrize("factor", [1e-9, 1.0, 1e9])
def test_neither_units_nor_a_diverged_trial_matter(factor):
    study = _study(60)
    found = HistoryImportanceEvaluator().evaluate(
        study, target=lambda trial: 1e30 if trial.number == 7 else factor * trial.values[0]
    )
    assert found["x"] > 0.6


def test_what_cannot_be_said():
    evaluator = HistoryImportanceEvaluator()
    assert set(evaluator.evaluate(_study(3)).values()) == {0.0}
    assert evaluator.evaluate(optuna.create_study()) == {}
    with pytest.raises(ValueError, match="no complete trial has a parameter 'y'"):
        evaluator.evaluate(_study(3), ["y"])
    with pytest.raises(ValueError, match="needs a target"):
        evaluator.evaluate(optuna.create_study(directions=["minimize", "minimize"]))
