"""Is it seen when a parameter matters?"""

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from hpo.spaces.inferred_conditions import inferred_conditions
from hpo.spaces.space import Condition
from hpo.tuning.sampler import HistorySampler
from tests.memory_history import MemoryHistory

KERNELS = CategoricalDistribution(["rbf", "poly", "linear"])
SPACE = {
    "C": FloatDistribution(0.1, 10.0),
    "degree": IntDistribution(2, 10),
    "gamma": FloatDistribution(0.1, 10.0),
    "kernel": KERNELS,
}
RBF = {"kernel": "rbf", "C": 1.0, "gamma": 0.5}
POLY = {"kernel": "poly", "C": 2.0, "degree": 3}
LINEAR = {"kernel": "linear", "C": 1.0}


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        ([], {}),
        ([RBF, {**RBF, "C": 2.0}], {}),
        ([RBF, LINEAR], {"gamma": ("rbf", "poly")}),  # poly was not seen yet
        ([RBF, LINEAR, POLY], {"gamma": ("rbf",), "degree": ("poly",)}),
        ([RBF, LINEAR, {"kernel": "rbf", "C": 1.0}], {}),  # the kernel does not explain it
    ],
)
def test_conditions_are_those_that_all_trials_agree_with(seen, expected):
    conditions = {name: Condition(parent="kernel", values=values) for name, values in expected.items()}
    assert inferred_conditions(seen, SPACE) == conditions


def test_only_choices_made_before_are_conditions():
    space = {"a": CategoricalDistribution([0, 1]), "b": CategoricalDistribution([0, 1])}
    assert inferred_conditions([{"b": 0, "a": 1}, {"b": 1}], space) == {"a": Condition(parent="b", values=(0,))}
    assert inferred_conditions([{"a": 1, "b": 0}, {"b": 1}], space) == {}


def test_a_plain_script_does_not_try_the_same_configuration_again():
    def objective(trial):
        kernel = trial.suggest_categorical("kernel", ["rbf", "poly", "linear"])
        off = {"rbf": 0.5, "poly": 0.4, "linear": 0.0}[kernel]
        if kernel == "rbf":
            off += trial.suggest_float("gamma", 1e-4, 1e3, log=True) / 1e4
        if kernel == "poly":
            off += trial.suggest_int("degree", 2, 10) / 100
        return off + (trial.suggest_float("C", 0.01, 100.0, log=True) - 1.0) ** 2 / 100

    storage = MemoryHistory()
    study = optuna.create_study(storage=storage, sampler=HistorySampler(storage, seed=0))
    study.optimize(objective, n_trials=16)
    tried = [tuple(sorted(trial.params.items())) for trial in study.trials]
    assert len(set(tried)) == len(tried)
    assert study.best_value < 0.05
