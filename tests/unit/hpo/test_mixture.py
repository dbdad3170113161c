"""Do the models add up, and does the past count only while it explains this study?"""

import numpy as np
import pytest

from hpo.priors.history import History
from hpo.priors.mixture import mixture
from hpo.priors.portfolio import PastTask
from hpo.statistics.loss_scale import LossScale
from hpo.surrogates.gaussian_process import Kernel

NUMBERS = np.array([False, False])
KERNEL = Kernel(lengthscales=np.array([0.5, 0.5]), noise=0.01, categorical=NUMBERS)
NOBODY = np.empty((0, 2))
GRID = np.random.default_rng(5).random((50, 2))


def _bowl(points):
    return ((points - 0.3) ** 2).sum(1)


def _history(sign=1.0, tasks=2, trials=25):
    rng, past = np.random.default_rng(1), []
    for _ in range(tasks):
        X = rng.random((trials, 2))
        scale = LossScale.of(sign * _bowl(X))
        past.append(PastTask(X=X, y=scale.standardise(sign * _bowl(X)), weight=1.0, scale=scale))
    return History(tasks=past, kernel=KERNEL)


def _mixture(history, n=8, pending=NOBODY, shift=0.0):
    X = np.random.default_rng(2).random((n, 2))
    models = mixture(X, _bowl(X) + shift, NUMBERS, np.random.default_rng(3), history=history)
    return models.believing(pending)


def test_weights_sum_to_one():
    models = _mixture(_history())
    assert sum(model.weights.sum() for model in models.models) == pytest.approx(1.0)
    assert models.next_loss(GRID[0]).credit.sum() == pytest.approx(models.history_weight)


def test_a_history_that_is_right_counts_and_a_reversed_one_does_not():
    assert _mixture(_history()).history_weight > 0.6
    assert _mixture(_history(sign=-1.0)).history_weight < 0.1
    assert _mixture(None).history_weight == 0.0


def test_quantiles_are_in_order_and_move_with_the_losses():
    expected = _mixture(None).next_loss(GRID[0])
    low, middle, high = expected.quantiles([0.05, 0.5, 0.95])
    assert low < middle < high
    assert expected.probability_below(low) == pytest.approx(0.05, abs=1e-6)
    without_noise = expected.quantiles([0.05, 0.95], noise=False)
    assert low < without_noise[0] < middle < without_noise[1] < high
    moved = _mixture(None, shift=100.0).next_loss(GRID[0]).quantiles([0.5])[0]
    assert moved == pytest.approx(middle + 100.0, abs=1e-4)


def test_a_running_evaluation_is_left_alone():
    point = GRID[:1]
    before, after = _mixture(_history()), _mixture(_history(), pending=point)
    assert after.log_expected_improvement(point)[0] < before.log_expected_improvement(point)[0]


def test_many_past_tasks_and_many_trials_are_no_obstacle():
    models = _mixture(_history(tasks=12, trials=6), n=130)
    assert len(models.next_loss(GRID[0]).credit) == 12
    assert np.isfinite(models.log_expected_improvement(GRID)).all()
