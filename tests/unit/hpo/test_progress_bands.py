"""Do bands hold for as many new tasks as they claim, and say nothing where too little is known?"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import expon, norm
from scipy.stats import t as student

from hpo.statistics.progress_bands import (
    LEAST_TASKS,
    has_common_scale,
    incumbents,
    milestones,
    prediction_band,
    progress,
    seconds_until_finished,
)

INF, NAN = np.inf, np.nan


def test_incumbents_wait_for_the_first_success():
    assert incumbents(np.array([NAN, 3.0, NAN, 1.0, 2.0]), 5).tolist() == [INF, 3.0, 3.0, 1.0, 1.0]


def test_beyond_its_last_trial_a_study_is_unknown_unless_nothing_was_left():
    losses = np.array([2.0, 1.0])
    assert np.isnan(incumbents(losses, 4)[2:]).all()
    assert incumbents(losses, 4, has_converged=True).tolist() == [2.0, 1.0, 1.0, 1.0]
    assert np.isnan(incumbents(np.empty(0), 2, has_converged=True)).all()
    assert incumbents(losses, 1).tolist() == [2.0]


@pytest.mark.parametrize(
    "losses",
    [np.empty(0), np.ones(1), np.arange(LEAST_TASKS - 1.0), np.full(30, 0.97), np.zeros(30), np.full(30, 1e300)],
)
def test_too_few_tasks_or_all_alike_say_nothing(losses):
    assert prediction_band(losses) is None


@pytest.mark.parametrize(("tasks", "freedom"), [(5, 1 / (0.25 + 0.075)), (12, 1 / (1 / 11 + 0.03125))])
def test_few_losses_have_students_interval_with_the_freedom_of_a_variance_whose_kurtosis_is_usual(tasks, freedom):
    losses = np.random.default_rng(0).normal(5.0, 2.0, tasks)
    band = prediction_band(losses)
    half = student.ppf(0.975, freedom) * losses.std(ddof=1) * np.sqrt(1 + 1 / tasks)
    assert (band.low, band.high) == pytest.approx((losses.mean() - half, losses.mean() + half), rel=1e-5)
    assert band.expected == np.median(losses)


@pytest.mark.parametrize(("shape", "least"), [(norm(), 0.94), (expon(), 0.93), (student(4), 0.94)])
def test_a_band_from_five_tasks_holds_for_other_shapes_than_the_normal(shape, least):
    rng = np.random.default_rng(11)
    bands = [prediction_band(shape.rvs(5, random_state=rng), logarithmic=False) for _ in range(1000)]
    low, high = np.array([(band.low, band.high) for band in bands]).T
    held = np.mean(shape.cdf(high) - shape.cdf(low))
    assert least <= held <= 0.97


def test_losses_of_many_sizes_are_looked_at_by_their_logarithms():
    losses = np.exp(np.random.default_rng(0).normal(0.0, 2.0, 30))
    band, tenfold = prediction_band(losses), prediction_band(10.0 * losses)
    assert 0.0 < band.low < np.median(losses) < band.high
    assert tenfold.high == pytest.approx(10.0 * band.high)


@given(arrays(float, st.integers(LEAST_TASKS, 45), elements=st.floats(-1e6, 1e6)), st.floats(1e-3, 1e3))
def test_a_band_is_in_order_and_moves_with_the_unit(losses, unit):
    band, other = prediction_band(losses), prediction_band(unit * losses)
    if band is not None and other is not None:
        assert band.low <= band.expected <= band.high
        assert other.high == pytest.approx(unit * band.high, rel=1e-3, abs=1e-6 * unit)


def test_progress_never_gets_worse_and_counts_how_often_it_held():
    rng = np.random.default_rng(0)
    curves = np.minimum.accumulate(rng.normal(size=(20, 1)) + rng.normal(size=(20, 15)), axis=1)
    found = progress(curves)
    assert [each.trials for each in found] == list(range(1, 16))
    assert all(each.tasks == 20 and 15 <= each.held <= 20 for each in found)
    for name in ("low", "expected", "high"):
        ends = [getattr(each.band, name) for each in found]
        assert ends == sorted(ends, reverse=True)


def test_tasks_that_were_not_tuned_so_long_or_without_success_are_left_out():
    curves = np.tile(np.arange(8.0)[:, None], (1, 3))
    curves[:4, 2] = NAN
    curves[0, 0] = INF
    first, second, third = progress(curves)
    assert (first.tasks, first.without_success, second.tasks, third.tasks) == (7, 1, 8, 4)
    assert third.band is None and third.held is None and third.typical is not None
    assert progress(np.empty((0, 2)))[0].typical is None


def test_the_band_stays_where_the_metric_is_by_its_nature():
    found = progress(np.array([[-0.99], [-0.98], [-0.7], [-0.95], [-1.0], [-0.9]]), least=-1.0, greatest=0.0)
    assert found[0].band.low == -1.0


def test_accuracies_share_a_scale_and_errors_of_other_sizes_do_not():
    assert has_common_scale(np.array([0.5, 0.9, 0.99]), np.array([0.1, 0.01, 0.001]))
    assert not has_common_scale(np.array([1e-3, 1.0, 1e4]), np.array([1e-4, 0.1, 1e3]))
    assert has_common_scale(np.array([-0.1, 0.0, 5.0]), np.array([2.0, 3.0, 1.0]))
    assert has_common_scale(np.ones(3), np.zeros(3))


def test_trials_side_by_side_start_as_soon_as_a_place_is_free():
    seconds = np.array([3.0, 1.0, 1.0, 1.0])
    assert seconds_until_finished(seconds, 1).tolist() == [3.0, 4.0, 5.0, 6.0]
    assert seconds_until_finished(seconds, 2).tolist() == [3.0, 3.0, 3.0, 3.0]
    assert len(seconds_until_finished(np.empty(0), 2)) == 0


def test_milestones_end_with_the_budget():
    assert milestones(1) == [1]
    assert milestones(30) == [1, 3, 5, 10, 20, 30]
    assert milestones(70) == [1, 3, 5, 10, 20, 30, 50, 70]
