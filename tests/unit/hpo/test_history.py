"""Does a new task start where the past is sure, and stay open where it is not?"""

import numpy as np
import pytest

from hpo.priors.history import Belief, History, HistoryProcess, candidate_scales
from hpo.priors.portfolio import PastTask
from hpo.statistics.loss_scale import LossScale
from hpo.surrogates.gaussian_process import Kernel

NUMBERS = np.array([False, False])
KERNEL = Kernel(lengthscales=np.array([0.3, 0.3]), noise=0.01, categorical=NUMBERS)
RNG = np.random.default_rng(0)
X = RNG.random((30, 2)) * [0.5, 1.0]  # the right half of the square is unknown to the past
BELIEF = Belief(deviation=0.3, slope=0.3, level=0.5, kinship=0.0)
KINSHIP = Belief(deviation=0.1, slope=0.1, level=0.2, kinship=1.0)
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


@pytest.mark.parametrize("belief", [BELIEF, KINSHIP])
def test_the_process_is_the_conditional_of_the_joint_normal(belief):
    history = History(tasks=[_task(_bowl(X)), _task(_bowl(X - 0.2)), _task(_bowl(X + 0.1))], kernel=KERNEL)
    seen, points = RNG.random((5, 2)), RNG.random((4, 2))
    Z = RNG.standard_normal((5, 2))
    process = HistoryProcess(X=seen, Z=Z, kernel=KERNEL, belief=belief, outlook=history.look(seen))
    everything = np.vstack([seen, points])
    outlook = history.look(everything)
    mean, std = outlook.pooled(belief.deviation)
    joint = np.outer(std, std) * KERNEL.correlation(everything, everything)
    joint += belief.slope**2 * np.outer(mean, mean) + belief.level**2
    known = 1.0 / (1.0 + outlook.variances)
    departures = known * (outlook.values - mean)
    joint += belief.kinship * departures.T @ departures / 2.0
    noisy, cross = joint[:5, :5] + process.noise * np.eye(5), joint[5:, :5]
    means, deviation = process.predict(points, history.look(points))
    expected = mean[5:, None] + cross @ np.linalg.solve(noisy, Z - mean[:5, None])
    np.testing.assert_allclose(means.T, expected, atol=1e-8)
    covariance = joint[5:, 5:] - cross @ np.linalg.solve(noisy, cross.T)
    np.testing.assert_allclose(deviation**2, np.diag(covariance), atol=1e-8)


def test_a_new_task_that_moves_as_others_did_is_followed():
    shifts = np.linspace(-0.25, 0.25, 7)
    history = History(tasks=[_task((X[:, 0] - 0.25 - shift) ** 2) for shift in shifts], kernel=KERNEL)
    seen = np.array([[0.05, 0.5], [0.45, 0.5]])
    optimum = 0.4  # one task moved so far to the right; two losses show which way
    Z = history.tasks[-2].scale.standardise((seen[:, 0] - optimum) ** 2)[:, None]
    points = np.column_stack([np.linspace(0.0, 0.5, 26), np.full(26, 0.5)])

    def least(belief):
        process = HistoryProcess(X=seen, Z=Z, kernel=KERNEL, belief=belief, outlook=history.look(seen))
        return points[np.argmin(process.predict(points, history.look(points))[0][0]), 0]

    alone = Belief(deviation=0.1, slope=0.1, level=0.2, kinship=0.0)
    assert abs(least(KINSHIP) - optimum) < 0.08
    assert abs(least(KINSHIP) - optimum) <= abs(least(alone) - optimum)


def test_a_task_can_be_left_out_and_points_can_be_remembered():
    tasks = [_task(_bowl(X)), _task(_bowl(X - 0.2)), _task(-_bowl(X))]
    without, history = History(tasks=tasks[:2], kernel=KERNEL), History(tasks=tasks, kernel=KERNEL)
    for of in (lambda outlook: outlook.pooled(0.3)[0], lambda outlook: outlook.pooled(0.3)[1]):
        np.testing.assert_allclose(of(history.look(X).without(2)), of(without.look(X)))
    remembering = History(tasks=tasks, kernel=KERNEL, often=X[:10])
    for points in (X, X[5:15], X[:3], FAR):
        np.testing.assert_allclose(remembering.look(points).values, history.look(points).values)
        np.testing.assert_allclose(remembering.look(points).variances, history.look(points).variances)


def test_one_candidate_scale_fits_where_the_level_moved():
    losses = _bowl(X)
    task = _task(losses)
    scales, log_prior = candidate_scales(losses + 100.0, task.y, [task.scale])
    errors = np.abs(scales.standardise(losses[:, None] + 100.0) - task.y[:, None]).max(axis=0)
    assert errors.min() < 1e-6
    assert np.exp(log_prior).sum() <= 1.0
    assert log_prior[0] == max(log_prior)


def test_after_four_good_trials_the_far_corner_is_still_expected_to_be_bad():
    history = History(tasks=[_task(_bowl(X))], kernel=KERNEL)
    seen = 0.3 + 0.05 * np.random.default_rng(1).standard_normal((4, 2))
    Z = history.tasks[0].scale.standardise(_bowl(seen))[:, None]
    process = HistoryProcess(X=seen, Z=Z, kernel=KERNEL, belief=BELIEF, outlook=history.look(seen))
    corner = np.array([[0.5, 1.0]])
    means, std = process.predict(corner, history.look(corner))
    assert means[0, 0] - 2 * std[0] > Z.max()
