"""Do configurations survive the way to points and back?"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from hpo.spaces.encoding import Encoding, decode_value, encode_value, grid_of
from hpo.spaces.space import SearchSpace

SPACE = SearchSpace.from_json(
    {
        "optimizer": {"type": "categorical", "choices": ["adam", "sgd"]},
        "lr": {"type": "float", "low": 1e-5, "high": 1.0, "log": True},
        "momentum": {"type": "float", "low": 0.0, "high": 0.9, "when": {"optimizer": ["sgd"]}},
        "nesterov": {"type": "categorical", "choices": [True, False], "when": {"optimizer": ["sgd"]}},
        "depth": {"type": "int", "low": 1, "high": 5},
        "width": {"type": "int", "low": 8, "high": 512, "log": True},
    }
)
DISTRIBUTIONS = st.sampled_from(
    [
        FloatDistribution(-3.0, 2.0),
        FloatDistribution(1e-7, 10.0, log=True),
        FloatDistribution(-10.2, 10.2, step=0.1),
        FloatDistribution(2.0, 2.0),
        IntDistribution(-4, 9),
        IntDistribution(0, 12, step=3),
        IntDistribution(1, 1000, log=True),
        IntDistribution(7, 7),
        CategoricalDistribution(("a", 2, None, True)),
    ]
)


@given(distribution=DISTRIBUTIONS, quantile=st.floats(0.0, 0.999))
def test_decoded_values_are_in_the_distribution_and_encode_to_the_same_place(distribution, quantile):
    encoding = Encoding(space=SearchSpace(distributions={"x": distribution}, conditions={}))
    point = encoding.uniform(np.array([[quantile]]))[0]
    value = encoding.decode(point)["x"]
    assert distribution._contains(distribution.to_internal_repr(value))
    again = encode_value(distribution, value)
    assert again == pytest.approx(point[0], abs=1e-9)
    assert decode_value(distribution, again) == pytest.approx(value) if isinstance(value, float) else True


@given(quantiles=st.lists(st.floats(0.0, 0.999), min_size=6, max_size=6))
def test_encode_then_decode_is_the_identity(quantiles):
    encoding = Encoding(space=SPACE)
    configuration = encoding.decode(encoding.uniform(np.array([quantiles]))[0])
    assert ("momentum" in configuration) == (configuration["optimizer"] == "sgd") == ("nesterov" in configuration)
    again = encoding.decode(encoding.encode([configuration])[0])
    assert again.keys() == configuration.keys()
    for name, value in configuration.items():
        assert again[name] == (pytest.approx(value, rel=1e-9) if isinstance(value, float) else value)


def test_steps_are_equally_likely():
    encoding = Encoding(space=SearchSpace(distributions={"depth": IntDistribution(1, 3)}, conditions={}))
    points = encoding.uniform(np.linspace(0, 0.999, 300)[:, None])
    _, counts = np.unique(points, return_counts=True)
    assert counts.tolist() == [100, 100, 100]


def test_an_inactive_parameter_has_one_place():
    encoding = Encoding(space=SPACE)
    common = {"optimizer": "adam", "lr": 0.1, "depth": 2, "width": 64}
    bare, loud = encoding.encode([common, {**common, "momentum": 0.3, "nesterov": True}])
    np.testing.assert_array_equal(bare, loud)


def test_past_values_outside_the_range_inform_and_are_moved_inside_when_proposed():
    encoding = Encoding(space=SearchSpace(distributions={"lr": FloatDistribution(1e-3, 1e-1, log=True)}, conditions={}))
    points = encoding.raw([{"lr": 1e-5}, {"lr": 1e-2}, {}])
    np.testing.assert_allclose(points[:2, 0], [-1.0, 0.5])
    assert np.isnan(points[2, 0])
    assert encoding.decode(encoding.project(points)[0]) == {"lr": pytest.approx(1e-3)}


def test_a_choice_that_is_gone_is_unknown():
    assert np.isnan(encode_value(CategoricalDistribution(("a", "b")), "c"))


def test_a_small_space_is_listed_once():
    space = SearchSpace.from_json(
        {
            "kind": {"type": "categorical", "choices": ["a", "b"]},
            "depth": {"type": "int", "low": 1, "high": 3, "when": {"kind": ["b"]}},
        }
    )
    encoding = Encoding(space=space)
    assert [encoding.decode(point) for point in encoding.every_point()] == [
        {"kind": "a"},
        *({"kind": "b", "depth": depth} for depth in (1, 2, 3)),
    ]
    assert grid_of(FloatDistribution(0, 1)) is None
    assert Encoding(space=SPACE).size == np.inf
