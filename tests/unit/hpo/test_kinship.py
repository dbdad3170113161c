"""Do effects that vary together tell of each other how much, and no more than that?"""

import numpy as np
import pytest

from hpo.statistics.kinship import KIN_FREEDOM, Kinship
from hpo.statistics.random_effects import random_effects

TASKS = np.array([3, 3])


def _kin(*directions: list[float]) -> Kinship:
    return Kinship(sizes=(len(directions),), directions=np.array(directions))


def test_independent_kin_add_their_degrees_of_freedom():
    Q, freedom = _kin([1.0, 0.0], [0.0, 2.0]).pooled(np.array([[2.0, 4.0]]), TASKS)
    weight = KIN_FREEDOM / 2.0
    scale = (1.0 + weight**2) / (1.0 + weight)
    np.testing.assert_allclose(Q[0], np.array([2.0 + weight * 4.0, 4.0 + weight * 2.0]) / scale)
    np.testing.assert_allclose(freedom, 2.0 * (1.0 + weight) / scale)


def test_the_two_choices_of_a_parameter_are_one_effect():
    Q, freedom = _kin([1.0, 0.5], [-1.0, -0.5]).pooled(np.array([[2.5, 2.5]]), TASKS)
    np.testing.assert_allclose(Q, 2.5)
    np.testing.assert_allclose(freedom, 2.0)


def test_other_kins_and_what_nobody_measured_tell_nothing():
    apart = Kinship(sizes=(1, 1, 2), directions=np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, -1.0]]))
    Q, freedom = apart.pooled(np.array([[2.0, 9.0, 3.0, 0.0]]), np.array([3, 3, 3, 0]))
    np.testing.assert_allclose(Q[0, :3], [2.0, 9.0, 3.0])
    np.testing.assert_allclose(freedom[:3], 2.0)


def test_sizes_are_in_the_expected_proportions():
    units = _kin([1.0, 0.0], [0.0, 3.0]).units(np.array([1.0, 1.0]), TASKS)
    assert units[1] == pytest.approx(9.0 * units[0])
    assert units.prod() == pytest.approx(1.0)  # about their geometric mean


def test_a_range_on_which_tasks_agree_by_chance_is_doubted_where_they_differ_in_its_kin():
    rng = np.random.default_rng(0)
    estimates = np.stack([np.array([0.30, 0.31, 0.29]), rng.normal(size=3)], axis=1)
    variances = np.full((3, 2), 0.01)
    alone = random_effects(estimates, variances)
    together = random_effects(estimates, variances, None, _kin([1.0, 0.0], [0.0, 1.0]))
    assert np.diff(together.interval[0]) > np.diff(alone.interval[0])
    assert np.diff(together.prediction[1]) < np.diff(alone.prediction[1])


def test_units_do_not_matter():
    rng = np.random.default_rng(1)
    estimates, variances, kinship = rng.normal(size=(4, 2)), rng.chisquare(3, size=(4, 2)), _kin([1.0, 0.2], [0.1, 1.0])
    fitted = random_effects(estimates, variances, None, kinship)
    scaled = random_effects(7.0 * estimates, 49.0 * variances, None, kinship)
    np.testing.assert_allclose(scaled.prediction, 7.0 * fitted.prediction, rtol=1e-4)
    np.testing.assert_allclose(scaled.tau, 7.0 * fitted.tau, rtol=1e-4)
