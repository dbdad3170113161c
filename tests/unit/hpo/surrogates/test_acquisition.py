"""Is the expected improvement right, near and far?"""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import ndtr

from hpo.surrogates.acquisition import log_expected_improvement


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (1.5, 0.5), (-2.0, 0.3), (3.0, 1.0)])
def test_is_the_integral_it_claims_to_be(mean, std):
    density = lambda y: np.exp(-0.5 * ((y - mean) / std) ** 2) / (std * np.sqrt(2 * np.pi))  # noqa: E731
    expected = quad(lambda y: (0.2 - y) * density(y), mean - 12 * std, 0.2)[0]
    assert log_expected_improvement(np.array([mean]), np.array([std]), 0.2)[0] == pytest.approx(
        np.log(expected), abs=1e-5
    )


def test_is_continuous_where_the_formulas_meet():
    z = np.array([-1.0 - 1e-9, -1.0 + 1e-9])
    below, above = log_expected_improvement(-z, np.ones(2), 0.0)
    assert below == pytest.approx(above, abs=1e-7)
    direct = np.log(np.exp(-0.5) / np.sqrt(2 * np.pi) - ndtr(-1.0))
    assert below == pytest.approx(direct, abs=1e-7)


def test_orders_points_far_in_the_tail():
    means = np.array([10.0, 100.0, 1e3, 1e4, 2e4, 1e5])
    scores = log_expected_improvement(means, np.ones(6), 0.0)
    assert np.isfinite(scores).all()
    assert (np.diff(scores) < 0).all()
