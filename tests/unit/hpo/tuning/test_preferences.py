"""Do hopes, constraints and costs pull where they should, and no longer than they should?"""

from dataclasses import replace

import numpy as np
import pytest

from hpo.priors.costs import TaskCosts, cost_model
from hpo.spaces.encoding import Encoding
from hpo.spaces.space import SearchSpace
from hpo.tuning.evidence import Evidence
from hpo.tuning.preferences import HOPE, log_feasibility, log_hope, log_thrift, where_hoped

ENCODING = Encoding(
    space=SearchSpace.from_json(
        {
            "lr": {"type": "float", "low": 1e-4, "high": 1.0, "log": True, "likely": [1e-3, 1e-2]},
            "optimizer": {"type": "categorical", "choices": ["adam", "sgd", "lion"], "likely": ["sgd"]},
            "momentum": {
                "type": "float", "low": 0.0, "high": 1.0, "likely": [0.8, 1.0], "when": {"optimizer": ["sgd"]}
            },
        }
    )
)  # fmt: skip
RNG = np.random.default_rng(0)


def _evidence(**more):
    X = RNG.random((12, 3))
    X[:, 1] = 1.0
    return Evidence(X=X, losses=X.sum(1), pending=X[:0], tried=X, waiting=0, **more)


def test_a_hope_favours_what_is_likely_and_fades():
    points = ENCODING.encode(
        [
            {"lr": 3e-3, "optimizer": "sgd", "momentum": 0.9},
            {"lr": 0.5, "optimizer": "sgd", "momentum": 0.9},
            {"lr": 3e-3, "optimizer": "sgd", "momentum": 0.1},
            {"lr": 3e-3, "optimizer": "adam"},
        ]
    )
    early, late = log_hope(ENCODING, 1)(points), log_hope(ENCODING, 100)(points)
    assert (early[0] > early[1:]).all()
    assert early[3] == pytest.approx(HOPE * np.log(1 / 9), abs=0.1 * HOPE)  # momentum is not there to be hoped for
    np.testing.assert_allclose(late, early / 100)


def test_nine_of_ten_hoped_for_values_are_in_the_interval():
    places = np.linspace(-0.5, 1.5, 20001)
    points = np.column_stack([places, np.ones_like(places), np.full_like(places, 0.9)])
    density = np.exp(log_hope(ENCODING, 1)(points) / HOPE)
    low, high = 0.25, 0.5
    assert density[(places >= low) & (places <= high)].sum() / density.sum() == pytest.approx(0.9, abs=0.01)


def test_a_start_is_where_it_is_hoped_for():
    points = ENCODING.uniform(where_hoped(ENCODING, RNG.random((50, 3))))
    configurations = [ENCODING.decode(point) for point in points]
    assert {configuration["optimizer"] for configuration in configurations} == {"sgd"}
    assert all(1e-3 <= configuration["lr"] <= 1e-2 for configuration in configurations)
    assert all(configuration["momentum"] >= 0.8 for configuration in configurations)


def test_nothing_hoped_for_changes_nothing():
    plain = Encoding(space=SearchSpace.from_json({"x": {"type": "float", "low": 0, "high": 1}}))
    assert log_hope(plain, 3) is None
    cube = RNG.random((4, 1))
    np.testing.assert_array_equal(where_hoped(plain, cube), cube)


def test_what_broke_a_constraint_is_unlikely_to_keep_it():
    bound = _evidence()
    kept, broken = np.array([[0.1, 1.0, 0.5]]), np.array([[0.95, 1.0, 0.5]])
    bound = replace(bound, constraints=bound.X[:, :1] - 0.5)
    term = log_feasibility(bound, ENCODING, np.random.default_rng(0))
    assert np.exp(term(kept))[0] > 0.7 > 0.3 > np.exp(term(broken))[0]
    assert bound.feasible.tolist() == (bound.X[:, 0] <= 0.5).tolist()
    assert log_feasibility(_evidence(), ENCODING, np.random.default_rng(0)) is None


def test_what_is_cheap_is_worth_more():
    X = _evidence().X
    costs = cost_model(TaskCosts.of(X, np.exp(4 * X[:, 0])), None, ENCODING.categorical, np.random.default_rng(0))
    cheap, dear = log_thrift(costs)(np.array([[0.1, 1.0, 0.5], [0.9, 1.0, 0.5]]))
    assert cheap - dear == pytest.approx(4 * 0.8, abs=0.5)
    assert log_thrift(None) is None
