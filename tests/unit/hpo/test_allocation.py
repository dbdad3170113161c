import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from hpo.statistics.allocation import FIRST_ROUND, next_round, ocba_shares, standing, student_interval

REPLICATES = st.lists(st.lists(st.floats(-100, 100), min_size=0, max_size=6), min_size=1, max_size=6).filter(any)


def test_shares_are_those_of_the_theorem():
    means, deviations = np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 1.0])
    shares = ocba_shares(means, deviations)
    assert shares.sum() == pytest.approx(1)
    assert shares[1] / shares[2] == pytest.approx((2 / 1) ** 2 / (1 / 2) ** 2)
    assert shares[0] == pytest.approx(1.0 * np.sqrt((shares[1] / 2.0) ** 2 + (shares[2] / 1.0) ** 2))


def test_shares_exist_where_means_are_equal_or_nothing_varies():
    for deviations in (np.ones(3), np.zeros(3), np.array([1.0, 0.0, 1.0])):
        shares = ocba_shares(np.zeros(3), deviations)
        assert np.isfinite(shares).all() and shares.sum() == pytest.approx(1)
    np.testing.assert_array_equal(ocba_shares(np.zeros(1), np.ones(1)), [1])


@given(replicates=REPLICATES, most=st.integers(1, 20))
def test_a_round_gives_what_there_is_and_the_first_ones_first(replicates, most):
    now = standing([np.array(each, dtype=float) for each in replicates], np.random.default_rng(0))
    given_out = next_round(now, most)
    assert (given_out >= 0).all() and given_out.sum() <= most
    missing = np.maximum(FIRST_ROUND - now.counts, 0)
    if missing.any():
        assert (given_out <= missing).all() and given_out.sum() == min(most, missing.sum())
    else:
        assert given_out.sum() == most
    assert now.probabilities.sum() == pytest.approx(1)
    inside = (now.intervals[:, 0] <= now.losses + 1e-9) & (now.losses - 1e-9 <= now.intervals[:, 1])
    assert (inside | np.isnan(now.intervals[:, 0])).all()


def test_who_came_out_best_of_several_is_expected_to_be_worse_than_its_mean():
    rng = np.random.default_rng(0)
    now = standing([rng.normal(size=5) for _ in range(6)], rng)
    assert now.losses[now.leader] > now.means[now.leader]
    alone = standing([np.array([1.0, 2.0, 4.0])], rng)
    assert alone.losses[0] == alone.means[0]
    assert tuple(alone.intervals[0]) == pytest.approx(student_interval(np.array([1.0, 2.0, 4.0])))


def test_the_contender_that_is_clearly_worse_gets_hardly_any():
    rng = np.random.default_rng(0)
    now = standing([0.0 + rng.normal(size=6), 0.2 + rng.normal(size=6), 50 + rng.normal(size=6)], rng)
    given_out = next_round(now, 12)
    assert given_out[2] == 0 and given_out[:2].min() > 0
    assert now.probabilities[2] < 0.01 and now.leader in (0, 1)


def test_without_any_spread_known_nobody_stands_out():
    now = standing([np.array([1.0]), np.array([5.0]), np.array([])], np.random.default_rng(0))
    np.testing.assert_allclose(now.probabilities, [0.5, 0.5, 0])


def test_students_interval():
    losses = np.array([1.0, 2.0, 4.0, 4.5])
    expected = stats.t.interval(0.95, 3, losses.mean(), stats.sem(losses))
    assert student_interval(losses) == pytest.approx(expected)
    assert student_interval(losses[:1]) is None


def test_where_nobody_has_a_replicate_all_get_their_first_round():
    now = standing([np.array([]), np.array([])], np.random.default_rng(0))
    np.testing.assert_array_equal(now.probabilities, [0, 0])
    np.testing.assert_array_equal(next_round(now, 2 * FIRST_ROUND), [FIRST_ROUND, FIRST_ROUND])
