"""Is the best untried point found?"""

import numpy as np
import pytest

from hpo.spaces.encoding import Encoding
from hpo.spaces.space import SearchSpace
from hpo.surrogates.search import around, best_listed, maximise, neighbours, untried

CONTINUOUS = Encoding(space=SearchSpace.from_json({name: {"type": "float", "low": 0, "high": 1} for name in "abcd"}))
SMALL = Encoding(space=SearchSpace.from_json({name: {"type": "int", "low": 0, "high": 3} for name in "ab"}))


def test_finds_a_narrow_peak():
    target, rng = np.array([0.21, 0.77, 0.5, 0.93]), np.random.default_rng(0)
    found = maximise(
        lambda points: -((points - target) ** 2).sum(1),
        around(np.array([[0.3, 0.7, 0.4, 0.8]]), CONTINUOUS, rng),
        CONTINUOUS,
        np.empty((0, 4)),
        rng,
    )
    np.testing.assert_allclose(found, target, atol=0.02)


def test_visits_every_point_of_a_small_space_before_it_repeats_one():
    tried = np.empty((0, 2))
    for _ in range(16):
        point = best_listed(lambda points: points.sum(1), SMALL.every_point(), tried)
        assert untried(point[None, :], tried)[0]
        tried = np.vstack([tried, point])
    assert best_listed(lambda points: points.sum(1), SMALL.every_point(), tried) == pytest.approx([0.875, 0.875])


def test_neighbours_differ_and_exist():
    anchors = SMALL.encode([{"a": 1, "b": 2}])
    nearby = neighbours(anchors, 0.5, SMALL, np.random.default_rng(0))
    np.testing.assert_array_equal(SMALL.project(nearby), nearby)
    assert len(np.unique(nearby, axis=0)) > 4
