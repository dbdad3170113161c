"""Are ranges where a person would put them, over all that tasks searched?"""

import numpy as np
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from hpo.spaces.encoding import encode_value
from hpo.spaces.parameter_axes import Axes
from hpo.spaces.space import Condition

LR = FloatDistribution(1e-4, 1.0, log=True)


def _axes(*spaces: dict[str, BaseDistribution], conditions: dict[str, Condition] | None = None) -> Axes:
    return Axes.of(spaces, conditions or {})


def test_log_ranges():
    axes = _axes({"lr": LR})
    assert axes.axes[0].labels == ("0.0001 … 0.001", "0.001 … 0.01", "0.01 … 0.1", "0.1 … 1")
    values = np.array([[1e-4], [5e-3], [0.02], [1.0], [1.1], [np.nan], [1e-5]])
    assert axes.ranges(values)[:, 0].tolist() == [0, 1, 2, 3, -1, -1, -1]


def test_ranges_span_what_all_tasks_searched():
    axes = _axes({"depth": IntDistribution(1, 2)}, {"depth": IntDistribution(4, 8)})
    assert axes.axes[0].labels == ("1 … 2", "3 … 4", "5 … 6", "7 … 8")
    assert axes.ranges(np.array([[2.0], [3.0], [8.0]]))[:, 0].tolist() == [0, 1, 3]


def test_one_value_is_one_range():
    axes = _axes({"x": FloatDistribution(2.0, 2.0), "k": IntDistribution(3, 3)})
    assert [axis.labels for axis in axes.axes] == [("2",), ("3",)]
    assert axes.ranges(np.array([[2.0, 3.0]])).tolist() == [[0, 0]]
    assert np.isfinite(axes.coordinates(np.array([[2.0, 3.0]]))).all()


def test_choices_of_several_tasks_are_put_together():
    first, second = CategoricalDistribution(("adam", "sgd")), CategoricalDistribution(("sgd", True, 1))
    axes = _axes({"o": first}, {"o": second})
    assert axes.axes[0].labels == ("adam", "sgd", "True", "1")
    assert axes.values(["o"], [second], np.array([[0.0], [1.0], [2.0], [np.nan]]))[:3, 0].tolist() == [1, 2, 3]


def test_a_number_here_and_a_choice_there_are_two_axes():
    number, choice = FloatDistribution(0.0, 1.0), CategoricalDistribution(("low", "high"))
    axes = _axes({"x": number}, {"x": choice})
    assert [axis.name for axis in axes.axes] == ["x", "x"]
    values = axes.values(["x"], [choice], np.array([[1.0]]))
    assert np.isnan(values[0, 0]) and values[0, 1] == 1.0


@pytest.mark.parametrize(
    "distribution", [LR, FloatDistribution(-3.0, 5.0), IntDistribution(1, 9), IntDistribution(2, 300, log=True)]
)
def test_coordinates_are_those_of_the_encoding(distribution):
    axes = _axes({"x": distribution})
    low, high = float(distribution.low), float(distribution.high)
    values = np.array([low, high, np.round((low + high) / 2)])
    expected = [encode_value(axes.axes[0].distribution, value) for value in values]
    np.testing.assert_allclose(axes.coordinates(values[:, None])[:, 0], expected)


def test_the_design_knows_conditions_and_ranges():
    space = {
        "o": CategoricalDistribution(("adam", "sgd")),
        "m": FloatDistribution(0.0, 1.0),
        "k": IntDistribution(1, 8),
    }
    axes = _axes(space, conditions={"m": Condition(parent="o", values=("sgd",))})
    points, ranges = axes.design(np.random.default_rng(0).random((400, 3)))
    assert (np.isnan(points[:, 1]) == (points[:, 0] == 0)).all()
    assert ((ranges[:, 1] < 0) == (points[:, 0] == 0)).all()
    counts = np.bincount(ranges[:, 2], minlength=4)
    assert (counts > 60).all() and len(counts) == 4


def test_a_curve_of_integers_goes_through_integers():
    values, coordinates = _axes({"k": IntDistribution(1, 5)}).axes[0].curve()
    assert values == [1, 2, 3, 4, 5]
    assert len(coordinates) == 5
