"""Does a new task start where the past is sure, and stay open where it is not?"""

import numpy as np
import pytest

from hpo.gaussian_process import Kernel
from hpo.priors.history import History, HistoryProcess, candidate_scales, rank_accuracy
from hpo.priors.portfolio import PastTask
from hpo.statistics.loss_scale import LossScale

NUMBERS = np.array([False, False])
KERNEL = Kernel(lengthscales=np.array([0.3, 0.3]), noise=0.01, categorical=NUMBERS)
RNG = np.random.default_rng(0)
X = RNG.random((30, 2)) * [0.5, 1.0]  # the right half of the square is unknown to the past
FAR = np.array([[5.0, 5.0]])


def _task(losses, weight=1.0):
    scale = LossScale.of(losses)
    return PastTask(X=X, y=scale.standardise(losses), weight=weight, scale=scale)


def _bowl(points):
    return ((points - 0.3) ** 2).sum(1)


def test_history_is_sure_near_its_trials_and_knows_nothing_far_away():
    history = History(tasks=[_task(_bowl(X)), _task(_bowl(X) + 0.01)], kernel=KERNEL)
    mean, std = history.look(X).pooled(0.3)
    assert np.corrcoef(mean, _bowl(X))[0, 1] > 0.9
    assert (std < 0.5).all()
    far_mean, far_std = history.look(FAR).pooled(0.3)
    assert far_mean == pytest.approx(0.0, abs=1e-6)
    assert far_std == pytest.approx(np.hypot(1.0, 0.3))


def test_more_tasks_and_heavier_ones_are_surer():
    one = History(tasks=[_task(_bowl(X))], kernel=KERNEL).look(X).pooled(0.3)[1]
    two = History(tasks=[_task(_bowl(X))] * 2, kernel=KERNEL).look(X).pooled(0.3)[1]
    light = History(tasks=[_task(_bowl(X), weight=0.1)], kernel=KERNEL).look(X).pooled(0.3)[1]
    assert (two < one).all()
    assert (one < light).all()


def test_closest_are_the_tasks_that_order_alike():
    history = History(tasks=[_task(-_bowl(X)), _task(_bowl(X)), _task(-_bowl(X))], kernel=KERNEL)
    assert history.closest(X[:8], _bowl(X[:8]), 1).tolist() == [1]
    assert len(history.closest(X[:8], _bowl(X[:8]), 3)) == 3


def test_the_process_is_the_conditional_of_the_joint_normal():
    history = History(tasks=[_task(_bowl(X))], kernel=KERNEL)
    seen, points = RNG.random((5, 2)), RNG.random((4, 2))
    Z = RNG.standard_normal((5, 2))
    process = HistoryProcess(X=seen, Z=Z, kernel=KERNEL, deviation=0.3, outlook=history.look(seen))
    everything = np.vstack([seen, points])
    mean, std = history.look(everything).pooled(0.3)
    joint = np.outer(std, std) * KERNEL.correlation(everything, everything) + 0.3**2 * np.outer(mean, mean) + 0.5**2
    noisy, cross = joint[:5, :5] + process.noise * np.eye(5), joint[5:, :5]
    means, deviation = process.predict(points, history.look(points))
    expected = mean[5:, None] + cross @ np.linalg.solve(noisy, Z - mean[:5, None])
    np.testing.assert_allclose(means.T, expected, atol=1e-8)
    covariance = joint[5:, 5:] - cross @ np.linalg.solve(noisy, cross.T)
    np.testing.assert_allclose(deviation**2, np.diag(covariance), atol=1e-8)


def test_one_candidate_scale_fits_where_the_level_moved():
    losses = _bowl(X)
    task = _task(losses)
    scales, log_prior = candidate_scales(losses + 100.0, task.y, [task.scale])
    errors = [np.abs(scale.standardise(losses + 100.0) - task.y).max() for scale in scales]
    assert min(errors) < 1e-6
    assert np.exp(log_prior).sum() <= 1.0
    assert log_prior[0] == max(log_prior)


def test_rank_accuracy_is_one_for_alike_and_zero_for_reversed():
    values = np.array([1.0, 3.0, 2.0, 5.0])
    assert rank_accuracy(values, 10 * values) == 1.0
    assert rank_accuracy(-values, values) == 0.0
    assert rank_accuracy(values[:1], values[:1]) == 0.5


def test_after_four_good_trials_the_far_corner_is_still_expected_to_be_bad():
    history = History(tasks=[_task(_bowl(X))], kernel=KERNEL)
    seen = 0.3 + 0.05 * np.random.default_rng(1).standard_normal((4, 2))
    Z = history.tasks[0].scale.standardise(_bowl(seen))[:, None]
    process = HistoryProcess(X=seen, Z=Z, kernel=KERNEL, deviation=0.3, outlook=history.look(seen))
    corner = np.array([[0.5, 1.0]])
    means, std = process.predict(corner, history.look(corner))
    assert means[0, 0] - 2 * std[0] > Z.max()
