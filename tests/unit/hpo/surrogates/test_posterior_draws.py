"""Are the draws those of the Gaussian process?"""

from __future__ import annotations

import numpy as np
import pytest

from hpo.surrogates import posterior_draws
from hpo.surrogates.gaussian_process import GaussianProcess, Kernel
from hpo.surrogates.posterior_draws import Features, PosteriorDraws

CATEGORICAL = np.array([False, True])


def kernel(**changes):
    fields = {"lengthscales": np.array([0.4, 0.8]), "noise": 1e-3, "categorical": CATEGORICAL, **changes}
    return Kernel(**fields)


def points(count, rng):
    return np.column_stack([rng.random(count), rng.integers(-1, 3, count)])


def test_features_have_the_covariance_of_the_kernel(monkeypatch):
    monkeypatch.setattr(posterior_draws, "FEATURES", 40_000)
    rng = np.random.default_rng(0)
    features = Features.draw(kernel(scale=2.0), [np.arange(-1.0, 3.0)], rng)
    A = points(30, rng)
    phi = features.at(A)
    assert phi @ phi.T == pytest.approx(features.kernel.covariance(A, A), abs=0.08)  # 5 standard errors


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_draws_have_the_mean_and_the_spread_of_the_posterior(level, monkeypatch):
    monkeypatch.setattr(posterior_draws, "FEATURES", 4000)
    rng = np.random.default_rng(1)
    X = points(20, rng)
    y = np.sin(4 * X[:, 0]) + X[:, 1]
    features = Features.draw(kernel(level=level), [np.arange(-1.0, 3.0)], rng)
    draws = PosteriorDraws.of(features, X, y, 4000, rng)
    new = points(300, rng)
    process = GaussianProcess(X=X, y=y, kernel=features.kernel)
    mean, deviation = process.predict(new)
    values = draws.at(new)
    assert draws.mean(new) == pytest.approx(mean)
    assert values.mean(axis=1) == pytest.approx(mean, abs=5 * deviation.max() / np.sqrt(4000) + 1e-3)
    assert values.std(axis=1) == pytest.approx(deviation, rel=0.15, abs=0.02)  # as good as so many features are
