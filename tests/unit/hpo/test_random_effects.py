"""Do the estimates of tasks give the mean task, the differences between tasks and the next task as they should?"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import stdtrit
from scipy.stats import norm

from hpo.statistics.random_effects import predictive_interval, random_effects

FINITE = st.floats(-1e3, 1e3)


def test_without_errors_of_their_own_both_intervals_are_students():
    values = np.random.default_rng(0).normal(2.0, 3.0, size=8)
    fitted = random_effects(values[:, None], np.zeros((8, 1)))
    mean, sd, t = values.mean(), values.std(ddof=1), stdtrit(7, 0.975)
    assert fitted.mean[0] == pytest.approx(mean)
    assert fitted.tau[0] == pytest.approx(sd, rel=0.01)
    np.testing.assert_allclose(fitted.interval[0], [mean - t * sd / 8**0.5, mean + t * sd / 8**0.5], rtol=0.01)
    half = t * sd * np.sqrt(1 + 1 / 8)
    np.testing.assert_allclose(fitted.prediction[0], [mean - half, mean + half], rtol=0.03)


def test_tau_is_that_of_paule_and_mandel():
    d, v = np.array([0.1, 1.3, -0.7, 2.2, 0.4]), np.array([0.2, 0.1, 0.4, 0.3, 0.2])
    tau2 = random_effects(d[:, None], v[:, None]).tau[0] ** 2
    w = 1.0 / (v + tau2)
    assert (w * (d - (w * d).sum() / w.sum()) ** 2).sum() == pytest.approx(4.0, rel=0.01)


def test_an_interval_is_never_narrower_than_the_plain_one():
    d, v = np.full((6, 1), 0.5) + 1e-6 * np.arange(6)[:, None], np.full((6, 1), 0.04)
    fitted = random_effects(d, v)
    assert fitted.tau[0] == 0.0
    assert np.diff(fitted.interval[0])[0] == pytest.approx(2 * norm.ppf(0.975) * 0.2 / 6**0.5)


def test_exact_tasks_weigh_more():
    d, v = np.array([[0.0], [0.0], [10.0]]), np.array([[0.01], [0.01], [100.0]])
    assert abs(random_effects(d, v).mean[0]) < 0.1


def test_too_few_tasks_say_nothing_of_others():
    d = np.array([[1.0, 1.0, np.nan], [2.0, np.nan, np.nan], [3.0, 2.0, np.nan]])
    fitted = random_effects(d, np.full((3, 3), 0.1))
    assert fitted.tasks.tolist() == [3, 2, 0]
    assert np.isfinite(fitted.prediction[0]).all() and np.isfinite(fitted.interval[0]).all()
    assert np.isnan(fitted.prediction[1:]).all() and np.isnan(fitted.interval[1:]).all()
    assert fitted.mean[1] == pytest.approx(1.5) and np.isnan(fitted.mean[2])


def test_a_common_error_stays_however_many_tasks_there_are():
    d, v = np.random.default_rng(0).normal(size=(400, 1)), np.full((400, 1), 0.1)
    apart, common = random_effects(d, v), random_effects(d, v, np.array([0.25]))
    assert np.diff(apart.interval[0])[0] < 0.3
    assert np.diff(common.interval[0])[0] == pytest.approx(2 * 1.97 * 0.5, rel=0.05)
    assert np.diff(common.prediction[0])[0] > np.diff(apart.prediction[0])[0]


def test_new_estimates_spread_more_the_less_exact_they_are():
    fitted = random_effects(np.random.default_rng(0).normal(size=(9, 1)), np.full((9, 1), 0.1))
    widths = [np.diff(predictive_interval(fitted, np.array([v])))[0, 0] for v in (0.0, 1.0, 100.0)]
    assert widths[0] == pytest.approx(np.diff(fitted.prediction[0])[0])
    assert widths[0] < widths[1] < widths[2]


@given(st.lists(st.tuples(FINITE, st.floats(1e-6, 1e3)), min_size=3, max_size=12), FINITE, st.floats(1e-3, 1e3))
def test_units_and_the_order_of_tasks_do_not_matter(tasks, shift, unit):
    d, v = np.array(tasks)[:, :1], np.array(tasks)[:, 1:]
    fitted, moved = random_effects(d, v), random_effects(shift + unit * d[::-1], unit**2 * v[::-1])
    scale = unit * (1.0 + np.abs(d).max() + np.sqrt(v.max())) + abs(shift)
    np.testing.assert_allclose(moved.mean, shift + unit * fitted.mean, atol=1e-5 * scale)
    np.testing.assert_allclose(moved.interval, shift + unit * fitted.interval, atol=1e-4 * scale)
    np.testing.assert_allclose(moved.prediction, shift + unit * fitted.prediction, atol=1e-3 * scale)
    assert fitted.prediction[0, 0] <= fitted.mean[0] <= fitted.prediction[0, 1]
    assert np.isfinite(fitted.spread).all()
