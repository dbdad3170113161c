"""Does the Gaussian process follow the textbook?"""

import numpy as np
import pytest
from scipy.stats import multivariate_t

from hpo.surrogates.gaussian_process import (
    GaussianProcess,
    Kernel,
    _log_evidence,
    _negative_log_posterior,
    _Pairs,
    cholesky,
    fit_kernel,
    sample_kernels,
)

CATEGORICAL = np.array([False, False, True])


def _observations(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    X = np.column_stack([rng.random((n, 2)), rng.integers(3, size=n)])
    return X, np.sin(4 * X[:, 0]) + 0.5 * (X[:, 2] == 1) + 0.1 * rng.normal(size=n)


def test_gradient_is_the_derivative_of_the_value():
    observed = [(_Pairs.of(X, CATEGORICAL), y) for X, y in (_observations(9, 0), _observations(6, 1))]
    theta = np.array([-0.7, 0.3, 0.1, -2.0])
    _, gradient = _negative_log_posterior(theta, observed)
    for j in range(len(theta)):
        step = 1e-5 * np.eye(len(theta))[j]
        up, down = (_negative_log_posterior(theta + sign * step, observed)[0] for sign in (1, -1))
        assert gradient[j] == pytest.approx((up - down) / 2e-5, rel=1e-5, abs=1e-6)


def test_prediction_is_the_conditional_of_the_joint_normal():
    X, y = _observations(8)
    kernel = Kernel(lengthscales=np.array([0.4, 1.0, 0.8]), noise=0.05, categorical=CATEGORICAL)
    points = _observations(5, 2)[0]
    process = GaussianProcess(X=X, y=y, kernel=kernel)
    K, cross = kernel.covariance(X, X) + 0.05 * np.eye(8), kernel.covariance(points, X)
    covariance = kernel.covariance(points, points) - cross @ np.linalg.solve(K, cross.T)
    mean, std = process.predict(points)
    np.testing.assert_allclose(mean, cross @ np.linalg.solve(K, y), atol=1e-10)
    np.testing.assert_allclose(std**2, np.diag(covariance), atol=1e-10)
    np.testing.assert_allclose(process.joint(points)[1], covariance, atol=1e-10)
    np.testing.assert_allclose(process.mean(points), mean)


def test_order_of_observations_does_not_matter():
    X, y = _observations(12)
    points = _observations(4, 3)[0]
    kernel = Kernel.prior_mode(CATEGORICAL)
    forwards = GaussianProcess(X=X, y=y, kernel=kernel).predict(points)
    backwards = GaussianProcess(X=X[::-1], y=y[::-1], kernel=kernel).predict(points)
    np.testing.assert_allclose(forwards, backwards, atol=1e-10)


def test_believing_its_mean_keeps_the_mean_and_lowers_the_uncertainty():
    X, y = _observations(8)
    process = GaussianProcess(X=X, y=y, kernel=Kernel.prior_mode(CATEGORICAL))
    pending = _observations(2, 5)[0]
    believing = process.believing_its_mean(pending)
    np.testing.assert_allclose(believing.mean(pending), process.mean(pending), atol=1e-6)
    assert (believing.predict(pending)[1] < process.predict(pending)[1]).all()
    assert process.believing_its_mean(pending[:0]) is process


def test_what_is_gone_on_from_is_the_same_as_worked_out_anew():
    rng = np.random.default_rng(5)
    X, pending, points = rng.random((30, 2)), rng.random((3, 2)), rng.random((500, 2))
    kernel = Kernel(lengthscales=np.array([0.3, 0.6]), noise=1e-4, categorical=np.zeros(2, dtype=bool), level=0.5)
    process = GaussianProcess(X=X, y=np.sin(9 * X[:, 0]) + X[:, 1], kernel=kernel)
    extended = process.believing_its_mean(pending).believing_its_mean(pending[:1] + 0.01)
    anew = GaussianProcess(X=extended.X, y=extended.y, kernel=kernel)
    np.testing.assert_allclose(extended.predict(points), anew.predict(points), atol=1e-8)
    np.testing.assert_allclose(extended.mean(points), process.mean(points), atol=1e-8)


def test_a_fit_finds_the_parameter_that_matters():
    X, y = _observations(40)
    kernel = fit_kernel([(X, (y - y.mean()) / y.std())], CATEGORICAL, np.random.default_rng(0))
    assert kernel.lengthscales[0] < kernel.lengthscales[1]
    assert 1e-6 <= kernel.noise < 0.2


def test_equal_points_and_values_are_no_obstacle():
    X, y = np.full((6, 3), 0.5), np.zeros(6)
    kernel = fit_kernel([(X, y)], CATEGORICAL, np.random.default_rng(0))
    mean, std = GaussianProcess(X=X, y=y, kernel=kernel).predict(X[:1])
    assert np.isfinite([mean, std]).all()


def test_cholesky_of_a_singular_covariance():
    factor = cholesky(np.ones((4, 4)))
    np.testing.assert_allclose(factor @ factor.T, np.ones((4, 4)), atol=1e-3)
    indefinite = np.diag([1.0, -0.5, 2.0])
    assert np.isfinite(cholesky(indefinite)).all()


def test_the_evidence_with_an_unknown_scale_is_a_multivariate_t_density():
    X, y = _observations(6)
    theta = np.log([0.4, 1.0, 0.8, 0.05])
    K = Kernel(lengthscales=np.exp(theta[:-1]), noise=0.05, categorical=CATEGORICAL, level=1.0).covariance(X, X)
    shape = multivariate_t(shape=K + 0.05 * np.eye(6), df=2 * 3.0)  # a = b = 3
    assert _log_evidence(theta, _Pairs.of(X, CATEGORICAL), y)[0] == pytest.approx(shape.logpdf(y), abs=1e-6)


def test_sampled_kernels_differ_and_agree_on_what_matters():
    X, y = _observations(40)
    z, rng = (y - y.mean()) / y.std(), np.random.default_rng(0)
    kernels = sample_kernels(X, z, rng, start=fit_kernel([(X, z)], CATEGORICAL, rng), count=12)
    assert len({kernel.noise for kernel in kernels}) > 6
    shorter = [kernel.lengthscales[0] < kernel.lengthscales[1] for kernel in kernels]
    assert np.mean(shorter) > 0.7
