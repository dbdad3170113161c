"""Is it counted as it was how often intervals held, and are wrong ones mended?"""

import numpy as np
import pytest

from hpo.statistics.additive_surface import Measurements
from hpo.statistics.calibration import ENOUGH_TASKS, calibrate


def _measured(effects: np.ndarray, variance: float) -> Measurements:
    noisy = effects + np.sqrt(variance) * np.random.default_rng(9).normal(size=effects.shape)
    return Measurements(
        estimates=noisy,
        variances=np.full(effects.shape, variance),
        shared=np.zeros(effects.shape[1]),
        plausible=np.ones(effects.shape[1]),
    )


def test_honest_intervals_are_left_as_they_are():
    calibration = calibrate(_measured(np.random.default_rng(0).normal(size=(200, 30)), 0.2))
    assert calibration.factor == pytest.approx(1.0, abs=0.07)
    assert 0.93 <= calibration.share <= 0.97
    assert (calibration.of == 200).all()


def test_tasks_in_two_groups_make_for_narrower_ones():
    sides = np.random.default_rng(0).choice([-1.0, 1.0], size=(120, 20))
    calibration = calibrate(_measured(sides, 0.001))
    assert calibration.uncorrected == 1.0
    assert calibration.factor < 0.7
    assert calibration.share > 0.9


def test_a_few_far_out_make_for_wider_ones():
    rng = np.random.default_rng(0)
    effects = np.where(rng.random((100, 20)) < 0.09, 60.0, 1.0) * rng.normal(size=(100, 20))
    calibration = calibrate(_measured(effects, 0.01))
    assert calibration.uncorrected < calibration.share


@pytest.mark.parametrize("tasks", [1, 2, 3])
def test_too_few_tasks_to_leave_any_out(tasks):
    calibration = calibrate(_measured(np.ones((tasks, 2)), 0.1))
    assert calibration.of.tolist() == [0, 0]
    assert calibration.factor == 1.0
    assert np.isnan(calibration.share)


def test_some_tasks_check_intervals_but_do_not_change_them():
    calibration = calibrate(_measured(np.random.default_rng(0).normal(size=(ENOUGH_TASKS - 2, 3)), 0.1))
    assert calibration.factor == 1.0
    assert (calibration.of == ENOUGH_TASKS - 2).all()


def test_a_task_that_has_no_estimate_is_not_counted():
    measured = _measured(np.random.default_rng(0).normal(size=(10, 2)), 0.1)
    measured.estimates[4:, 1] = np.nan
    calibration = calibrate(measured)
    assert calibration.of.tolist() == [10, 4]
