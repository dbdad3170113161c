"""Are effects per range counted, scaled and bounded as they claim?"""

import numpy as np
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from hpo.statistics.effects import TaskOutcomes, range_effects, standardised_outcomes, t_interval

LR = {"lr": FloatDistribution(1e-4, 1.0, log=True)}


def _task(
    name: str,
    params: list[dict],
    outcomes: list[float],
    space: dict[str, BaseDistribution],
    higher_is_better: bool = False,
) -> TaskOutcomes:
    return TaskOutcomes(
        task=name, params=params, outcomes=np.array(outcomes), higher_is_better=higher_is_better, distributions=space
    )


def test_higher_is_better_whatever_the_metric():
    outcomes = np.array([1.0, 2.0, 3.0, np.nan, np.inf])
    np.testing.assert_allclose(standardised_outcomes(outcomes, higher_is_better=True)[:3], [-1 / 1.4826, 0, 1 / 1.4826])
    np.testing.assert_allclose(
        standardised_outcomes(-outcomes, higher_is_better=False), standardised_outcomes(outcomes, higher_is_better=True)
    )


def test_units_of_a_task_do_not_matter():
    outcomes = np.random.default_rng(0).normal(size=9)
    np.testing.assert_allclose(
        standardised_outcomes(outcomes, higher_is_better=True),
        standardised_outcomes(100 * outcomes + 7, higher_is_better=True),
    )


def test_log_ranges_counts_and_failures():
    rates = [2e-4, 5e-3, 2e-2, 0.5, 0.9]
    effects = range_effects([_task("a", [{"lr": lr} for lr in rates], [3, 1, 2, np.nan, 9], LR)])
    assert [effect.label for effect in effects] == ["0.0001 … 0.001", "0.001 … 0.01", "0.01 … 0.1", "0.1 … 1"]
    assert [effect.n_trials for effect in effects] == [1, 1, 1, 1]
    assert [effect.n_failed for effect in effects] == [0, 0, 0, 1]
    assert effects[1].mean > effects[0].mean > effects[3].mean
    assert effects[0].interval is None
    assert effects[0].sd is None


def test_the_interval_is_over_tasks_from_three_on():
    rng = np.random.default_rng(0)
    tasks = [
        _task(str(t), [{"lr": lr} for lr in np.geomspace(1e-4, 1, 12)], rng.normal(size=12).tolist(), LR)
        for t in range(4)
    ]
    assert {effect.interval_over for effect in range_effects(tasks[:2])} == {"trials"}
    effects = range_effects(tasks)
    assert {(effect.interval_over, effect.n_tasks) for effect in effects} == {("tasks", 4)}
    first = [standardised_outcomes(task.outcomes, higher_is_better=False)[:3].mean() for task in tasks]
    assert effects[0].mean == pytest.approx(np.mean(first))
    assert effects[0].interval == pytest.approx(t_interval(np.array(first)))


def test_a_conditional_parameter_counts_only_where_it_is_active():
    space: dict[str, BaseDistribution] = {
        "optimizer": CategoricalDistribution(("adam", "sgd")),
        "momentum": FloatDistribution(0.0, 1.0),
    }
    params = [{"optimizer": "adam"}, {"optimizer": "sgd", "momentum": 0.1}, {"optimizer": "sgd", "momentum": 1.0}]
    effects = range_effects([_task("a", params, [1, 2, 3], space)])
    counts = {(effect.parameter, effect.label): effect.n_trials for effect in effects}
    assert counts == {
        ("optimizer", "adam"): 1,
        ("optimizer", "sgd"): 2,
        ("momentum", "0 … 0.25"): 1,
        ("momentum", "0.75 … 1"): 1,
    }


def test_ranges_span_what_all_tasks_searched():
    narrow = _task("a", [{"depth": 1}, {"depth": 2}], [1, 2], {"depth": IntDistribution(1, 2)})
    wide = _task("b", [{"depth": 8}], [1], {"depth": IntDistribution(4, 8)})
    assert {effect.label: effect.n_trials for effect in range_effects([narrow, wide])} == {"1 … 2": 2, "7 … 8": 1}


def test_t_interval_of_known_values():
    assert t_interval(np.array([1.0])) is None
    assert t_interval(np.array([1.0, 2.0, 3.0])) == pytest.approx(
        (2 - 4.302653 / np.sqrt(3), 2 + 4.302653 / np.sqrt(3))
    )
