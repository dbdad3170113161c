"""Do many processes looked at together say what each of them says?"""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from hpo.surrogates.gaussian_process import GaussianProcess, Kernel
from hpo.surrogates.process_stack import ProcessStack


@st.composite
def processes(draw):
    """Of mixed parameters, each with a kernel and a size of its own."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    categorical = np.array(draw(st.lists(st.booleans(), min_size=1, max_size=4)))
    made = []
    for size in draw(st.lists(st.integers(1, 40), min_size=1, max_size=6)):
        kernel = Kernel(
            lengthscales=np.exp(rng.uniform(-2.5, 3.0, len(categorical))),
            noise=float(np.exp(rng.uniform(-8.0, 0.0))),
            categorical=categorical,
            scale=float(rng.uniform(0.5, 2.0)),
            level=float(rng.uniform(0.0, 1.0)),
        )
        X = np.where(categorical, rng.integers(3, size=(size, len(categorical))), rng.random((size, len(categorical))))
        made.append(GaussianProcess(X=X, y=rng.standard_normal(size), kernel=kernel))
    points = np.where(categorical, rng.integers(3, size=(9, len(categorical))), rng.random((9, len(categorical))))
    return made, np.vstack([points, made[0].X[:2]])


@settings(max_examples=60, deadline=None)
@given(processes())
def test_each_is_as_it_is_alone(drawn):
    made, points = drawn
    means, variances = ProcessStack.of(made).predict(points)
    for process, mean, variance in zip(made, means, variances, strict=True):
        expected, deviation = process.predict(points)
        np.testing.assert_allclose(mean, expected, atol=0.01)
        np.testing.assert_allclose(variance, deviation**2, atol=0.005)


def test_blocks_do_not_show(monkeypatch):
    rng = np.random.default_rng(0)
    kernel = Kernel(lengthscales=np.array([0.3, 0.5]), noise=0.01, categorical=np.zeros(2, dtype=bool))
    made = [GaussianProcess(X=rng.random((30, 2)), y=rng.standard_normal(30), kernel=kernel) for _ in range(7)]
    points = rng.random((50, 2))
    whole = ProcessStack.of(made).predict(points)
    monkeypatch.setattr("hpo.surrogates.process_stack.BLOCK", 50 * 30 * 2)
    for one, other in zip(whole, ProcessStack.of(made).predict(points), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
