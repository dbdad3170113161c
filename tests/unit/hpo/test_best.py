import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hpo.statistics.best import (
    FEWEST_TRIALS,
    MOST_TRIALS,
    LossUnits,
    around_the_best,
    judge,
    pooled_noise,
)

NUMBERS = np.zeros(2, dtype=bool)
LOSSES = arrays(np.float64, st.integers(2, 40), elements=st.floats(-1e6, 1e6))


@given(losses=LOSSES)
def test_units_keep_the_order_and_can_be_undone(losses):
    units = LossUnits.of(losses)
    if units is None:
        return
    standardised = units.standardise(losses)
    assert (np.diff(standardised[np.argsort(losses, kind="stable")]) >= -1e-12).all()
    scale = float(np.abs(losses).max()) + units.spread
    np.testing.assert_allclose(units.restore(standardised), losses, rtol=1e-6, atol=1e-9 * scale)


@given(losses=LOSSES, factor=st.floats(0.01, 100), shift=st.floats(-100, 100))
def test_units_do_not_depend_on_scale_and_origin(losses, factor, shift):
    losses = np.round(losses, 2)
    units, moved = LossUnits.of(losses), LossUnits.of(factor * losses + shift)
    if units is None or moved is None:
        return
    np.testing.assert_allclose(moved.standardise(factor * losses + shift), units.standardise(losses), atol=1e-4)


def test_equal_losses_have_no_units():
    assert LossUnits.of(np.full(12, 0.3)) is None
    assert LossUnits.of(np.zeros(12)) is None


def _study(n, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.random((n, 2))
    return X, ((X - 0.5) ** 2).sum(1) + 0.02 * rng.standard_normal(n), rng


def test_too_few_or_equal_losses_are_not_judged():
    X, losses, rng = _study(FEWEST_TRIALS)
    everyone = np.ones(FEWEST_TRIALS, dtype=bool)
    at = np.arange(FEWEST_TRIALS)
    assert judge(X, at, losses, everyone, NUMBERS, rng) is not None
    assert judge(X[:-1], at[:-1], losses[:-1], everyone[:-1], NUMBERS, rng) is None
    assert judge(X, at, np.ones(FEWEST_TRIALS), everyone, NUMBERS, rng) is None


def test_the_winner_is_among_those_that_may_win_and_probabilities_add_up():
    X, losses, _ = _study(30)
    at = np.arange(30)
    free = judge(X, at, losses, np.ones(30, dtype=bool), NUMBERS, np.random.default_rng(1))
    assert free.probabilities.sum() == pytest.approx(1)
    assert (free.intervals[:, 0] <= free.losses).all() and (free.losses <= free.intervals[:, 1]).all()
    may = np.ones(30, dtype=bool)
    may[free.winner] = False
    other = judge(X, at, losses, may, NUMBERS, np.random.default_rng(1))
    assert other.winner != free.winner and other.probabilities[free.winner] == 0
    assert free.better(free.winner, other.winner) > 0.5
    gain, low, high = free.difference(free.winner, other.winner)
    assert low <= gain <= high and gain >= 0


def test_a_diverged_run_changes_little():
    X, losses, _ = _study(30)
    far, farther = losses.copy(), losses.copy()
    far[4], farther[4] = 3.0, 1e9
    one, two = (
        judge(X, np.arange(30), each, np.ones(30, dtype=bool), NUMBERS, np.random.default_rng(1))
        for each in (far, farther)
    )
    others = np.arange(30) != 4
    np.testing.assert_allclose(one.losses[others], two.losses[others], atol=0.05)


@pytest.mark.parametrize("diverged", [1e13, 1e20, 1e200])
def test_however_far_a_run_diverged_the_others_are_told_apart(diverged):
    X, losses, _ = _study(30)
    losses[4] = diverged
    found = judge(X, np.arange(30), losses, np.ones(30, dtype=bool), NUMBERS, np.random.default_rng(1))
    others = np.arange(30) != 4
    assert np.isfinite(found.draws[:, others]).all() and np.isfinite(found.losses).all()
    assert np.abs(found.losses[others] - losses[others]).max() < np.ptp(losses[others])
    assert found.noise < np.ptp(losses[others])


def test_many_trials_are_judged_around_the_best():
    X, losses, _ = _study(2 * MOST_TRIALS)
    rows = around_the_best(X, losses, NUMBERS)
    assert len(rows) == MOST_TRIALS == len(set(rows)) and np.argmin(losses) in rows
    distance = np.abs(X - X[np.argmin(losses)]).sum(1)
    assert distance[rows].mean() < 0.7 * distance.mean()
    np.testing.assert_array_equal(around_the_best(X[:50], losses[:50], NUMBERS), np.arange(50))


def test_pooled_noise_is_the_variance_within():
    losses, at = np.array([1.0, 3.0, 10.0, 10.0, 13.0, 7.0]), np.array([0, 0, 1, 1, 1, 2])
    assert pooled_noise(losses, at) == (pytest.approx((2 + 6) / 3), 3)
    variance, freedom = pooled_noise(losses[:1], at[:1])
    assert np.isnan(variance) and freedom == 0
