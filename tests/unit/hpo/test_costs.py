"""Is what trials cost known from past tasks, from the first trial on, and unlearned where it is not so?"""

from __future__ import annotations

import numpy as np
import pytest

from hpo.priors.costs import LEAST_OF_A_TASK, LEAST_OWN, TaskCosts, cost_model, learn_costs

D = 3
NUMBERS = np.zeros(D, dtype=bool)
TENFOLD = float(np.log(10.0))
NOTHING = TaskCosts(X=np.empty((0, D)), logs=np.empty(0))
POINTS = np.random.default_rng(9).random((40, D))


def task(seed, *, level=0.0, slope=TENFOLD, n=12, noise=0.02):
    """Ten times as dear at one end of the first parameter as at the other."""
    rng = np.random.default_rng(seed)
    X = rng.random((n, D))
    return TaskCosts(X=X, logs=level + slope * X[:, 0] + noise * rng.standard_normal(n))


def past(*levels, **how):
    return learn_costs([task(seed, level=level, **how) for seed, level in enumerate(levels)], NUMBERS, rng())


def rng():
    return np.random.default_rng(0)


def test_the_shape_is_known_before_the_first_trial():
    for levels in ((2.0,), (2.0, 5.0, 3.0)):
        expected = cost_model(NOTHING, past(*levels), NUMBERS, rng()).mean_log(POINTS)
        slope = np.polyfit(POINTS[:, 0], expected, 1)[0]
        assert slope == pytest.approx(TENFOLD, rel=0.3)
        assert np.corrcoef(POINTS[:, 0], expected)[0, 1] > 0.95


def test_the_level_is_learned_from_the_first_trials():
    known = past(2.0, 2.5, 3.0)
    own = task(7, level=6.0, n=2)
    before, after = (cost_model(costs, known, NUMBERS, rng()) for costs in (NOTHING, own))
    middle = np.full(D, 0.5)
    truth = np.exp(6.0 + 0.5 * TENFOLD)
    assert before.predict(middle)[0] == pytest.approx(np.exp(2.5 + 0.5 * TENFOLD), rel=0.3)
    assert after.predict(middle)[0] == pytest.approx(truth, rel=0.3)
    (low, high), (wide_low, wide_high) = after.predict(middle)[1], before.predict(middle)[1]
    assert low < truth < high
    assert high / low < 3.0 < wide_high / wide_low


def test_intervals_cover_what_they_claim():
    inside = []
    for seed in range(40):
        draw = np.random.default_rng(seed)
        tasks = [
            task(100 * seed + t, level=draw.normal(3.0, 1.0), slope=draw.normal(2.3, 0.3), noise=0.1) for t in range(6)
        ]
        known = learn_costs(tasks[1:], NUMBERS, rng())
        own = TaskCosts(X=tasks[0].X[:4], logs=tasks[0].logs[:4])
        for rows in (0, 2, 4):
            seen = TaskCosts(X=own.X[:rows], logs=own.logs[:rows])
            low, high = cost_model(seen, known, NUMBERS, rng()).predict(tasks[0].X[5])[1]
            inside.append(np.log(low) < tasks[0].logs[5] < np.log(high))
    assert np.mean(inside) == pytest.approx(0.9, abs=3 * np.sqrt(0.09 / 40))


def test_tasks_without_a_common_shape_teach_none():
    reversed_half = [task(seed, slope=(-1) ** seed * TENFOLD) for seed in range(6)]
    assert learn_costs(reversed_half, NUMBERS, rng()).kinship < 0.7 < past(*range(6)).kinship
    expected = cost_model(NOTHING, learn_costs(reversed_half, NUMBERS, rng()), NUMBERS, rng()).mean_log(POINTS)
    assert abs(np.polyfit(POINTS[:, 0], expected, 1)[0]) < 1.0


def test_a_past_that_contradicts_is_unlearned():
    known, own = past(1.0, 2.0, 3.0, 4.0), task(50, level=2.0, slope=-TENFOLD, n=8)
    model = cost_model(own, known, NUMBERS, rng())
    truth = 2.0 - TENFOLD * POINTS[:, 0]
    alone = cost_model(own, None, NUMBERS, rng())
    error, error_alone = (np.sqrt(np.mean((each.mean_log(POINTS) - truth) ** 2)) for each in (model, alone))
    assert error < error_alone + 0.1


def test_nothing_is_said_where_nothing_is_known():
    few = task(0, n=LEAST_OWN - 1)
    assert cost_model(few, None, NUMBERS, rng()) is None
    assert cost_model(task(0, n=LEAST_OWN), None, NUMBERS, rng()) is not None
    assert learn_costs([task(0, n=LEAST_OF_A_TASK - 1)], NUMBERS, rng()) is None
    assert learn_costs([], NUMBERS, rng()) is None


def test_what_is_no_cost_is_left_out():
    costs = TaskCosts.of(np.zeros((5, D)), np.array([1.0, np.nan, 0.0, -1.0, np.inf]))
    assert costs.logs.tolist() == [0.0]


def test_equal_costs_are_foreseen_as_equal():
    known = past(1.0, 1.0, slope=0.0, noise=0.0)
    cost, (low, high) = cost_model(task(3, level=1.0, slope=0.0, noise=0.0), known, NUMBERS, rng()).predict(POINTS[0])
    assert cost == pytest.approx(np.e, rel=1e-2)
    assert low <= cost <= high
