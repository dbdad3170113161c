import numpy as np
import pytest

from hpo.statistics.noisy_values import NoisePrior, noisy_values

NUMBERS = np.zeros(1, dtype=bool)
AXIS = np.linspace(0, 1, 20)[:, None]


def _judged(y, at=None, points=AXIS, seed=0, **options):
    at = np.arange(len(y)) if at is None else at
    return noisy_values(points, at, y, NUMBERS, np.random.default_rng(seed), sweeps=60, **options)


def _bowl(seed, deviation=0.3):
    return 6 * (AXIS[:, 0] - 0.4) ** 2 - 1 + deviation * np.random.default_rng(seed).standard_normal(20)


def test_a_value_is_drawn_towards_its_neighbours():
    y = _bowl(1)
    lucky = 12
    y[lucky] -= 1.5
    found = _judged(y)
    assert y[lucky] + 0.5 < found.mean[lucky]


def test_points_that_nobody_tried_change_nothing_of_the_others():
    y = _bowl(2)
    alone, beside = _judged(y), _judged(y, points=np.vstack([AXIS, [[0.77]]]))
    np.testing.assert_allclose(beside.means[:, :20], alone.means, atol=1e-9)
    np.testing.assert_allclose(beside.draws[:, :20], alone.draws, atol=1e-6)


def test_replicates_narrow_the_interval():
    y = _bowl(3)
    again = np.concatenate([y, np.full(8, y[8]) + 0.3 * np.random.default_rng(0).standard_normal(8)])
    low, high = _judged(y).quantiles(8, (0.025, 0.975))
    low8, high8 = _judged(again, at=np.r_[np.arange(20), np.full(8, 8)]).quantiles(8, (0.025, 0.975))
    assert high8 - low8 < 0.8 * (high - low)


def test_quantiles_are_those_of_the_mixture():
    found = _judged(_bowl(4))
    rng = np.random.default_rng(0)
    draws = (found.means[:, 3] + found.deviations[:, 3] * rng.standard_normal((2000, 60))).ravel()
    shares = (0.025, 0.25, 0.5, 0.975)
    np.testing.assert_allclose(found.quantiles(3, shares), np.quantile(draws, shares), atol=0.02)


def test_noise_without_any_difference_is_all_noise():
    y = np.random.default_rng(5).standard_normal(20)
    assert np.median(_judged(y).noise) == pytest.approx(1.0, abs=0.35)


def test_what_is_known_of_the_noise_counts():
    y = _bowl(6)
    little = _judged(y, noise=NoisePrior(mean=np.log(1e-3), deviation=0.2))
    much = _judged(y, noise=NoisePrior(mean=np.log(1.0), deviation=0.2))
    assert np.median(little.noise) < 0.5 * np.median(much.noise)


def test_a_run_far_off_makes_the_tails_heavy():
    points = np.linspace(0, 1, 40)[:, None]
    y = 0.1 * np.random.default_rng(7).standard_normal(40) + points[:, 0]
    far_off = y.copy()
    far_off[[11, 30]] += np.array([3.0, -3.0])
    at = np.arange(40)
    heavy = [np.isfinite(_judged(each, at=at, points=points).tails).mean() for each in (y, far_off)]
    assert heavy[0] < 0.6 and heavy[1] > 0.95


def test_one_parameter_that_is_a_choice_and_none_at_all():
    choices = np.array([[0.0], [1.0], [2.0]])
    at = np.repeat([0, 1, 2], 8)
    y = np.array([1.0, 0.0, -1.0])[at] + 0.2 * np.random.default_rng(8).standard_normal(24)
    found = noisy_values(choices, at, y, np.array([True]), np.random.default_rng(0), sweeps=40)
    np.testing.assert_allclose(found.mean, [1, 0, -1], atol=0.25)
    alone = noisy_values(
        np.empty((1, 0)), np.zeros(24, dtype=int), y, np.zeros(0, dtype=bool), np.random.default_rng(0), sweeps=40
    )
    assert alone.mean[0] == pytest.approx(y.mean(), abs=0.2)
