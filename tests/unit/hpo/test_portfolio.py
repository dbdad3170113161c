"""Does a portfolio cover the past tasks?"""

from itertools import combinations

import numpy as np
import pytest

from hpo.priors.portfolio import PastTask, fit_shared_kernel, greedy_cover, normalised_regret, portfolio
from hpo.statistics.loss_scale import LossScale

NUMBERS = np.array([False, False])


def _portfolio(tasks, landmarks, count):
    rng = np.random.default_rng(0)
    return portfolio(tasks, landmarks, fit_shared_kernel(tasks, NUMBERS, rng), count, rng)


def test_greedy_cover_is_close_to_the_best_set():
    regret = np.random.default_rng(0).random((12, 9))
    picked, gains = greedy_cover(regret, np.ones(12), 3)
    assert len(set(picked)) == 3
    gain = lambda columns: (1 - regret[:, list(columns)].min(axis=1)).sum()  # noqa: E731
    assert gains.sum() == pytest.approx(gain(picked))
    assert gain(picked) >= (1 - 1 / np.e) * max(gain(columns) for columns in combinations(range(9), 3))


def test_heavier_tasks_are_served_first():
    regret = np.array([[0.0, 1.0], [1.0, 0.0]])
    assert greedy_cover(regret, np.array([1.0, 3.0]), 1)[0] == [1]
    assert greedy_cover(regret, np.array([3.0, 1.0]), 5)[0] == [0, 1]


def test_regret_does_not_know_the_scale():
    losses = np.random.default_rng(0).random((3, 20))
    np.testing.assert_allclose(normalised_regret(losses), normalised_regret(50 * losses + 3), atol=1e-9)
    assert normalised_regret(np.ones((1, 4))).tolist() == [[0, 0, 0, 0]]


def test_one_past_task_gives_four_good_points_that_differ():
    X = np.random.default_rng(0).random((60, 2))
    y = ((X - 0.3) ** 2).sum(1)
    task = PastTask(X=X, y=(y - y.mean()) / y.std(), weight=1.0, scale=LossScale.of(y))
    points = np.array([pick.point for pick in _portfolio([task], X, 4)])
    assert len(np.unique(points, axis=0)) == 4
    assert (((points - 0.3) ** 2).sum(1) <= np.median(y)).all()
    assert ((points[0] - 0.3) ** 2).sum() <= np.quantile(y, 0.1)


def test_credit_goes_to_the_task_that_is_covered():
    X = np.random.default_rng(0).random((60, 2))
    tasks = []
    for centre in (0.1, 0.9):
        y = ((X - centre) ** 2).sum(1)
        tasks.append(PastTask(X=X, y=(y - y.mean()) / y.std(), weight=1.0, scale=LossScale.of(y)))
    first, second = _portfolio(tasks, X, 2)
    assert first.credit.sum() == pytest.approx(1)
    for pick in (first, second):
        assert np.argmax(pick.credit) == int(pick.point.mean() > 0.5)


def test_of_points_that_gain_nearly_as_much_the_cheap_one_comes_first():
    regret = np.array([[0.0, 0.01, 0.5, 0.95], [0.9, 0.9, 0.9, 0.0]])
    costs = np.array([10.0, 1.0, 0.1, 3.0])
    assert greedy_cover(regret, np.ones(2), 2)[0] == [0, 3]
    assert greedy_cover(regret, np.ones(2), 2, costs)[0] == [1, 3]
    assert greedy_cover(regret, np.ones(2), 2, np.ones(4))[0] == [0, 3]
