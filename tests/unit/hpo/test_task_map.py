"""Do tasks with like response surfaces lie side by side on the map, and those without lie apart?"""

import numpy as np
import pytest

from hpo.statistics.additive_surface import AdditiveSurface, Basis, Moments
from hpo.statistics.task_map import task_map


def _surfaces() -> np.ndarray:
    x = np.linspace(0, 1, 200)
    up, hill = x, -((x - 0.5) ** 2)
    return np.stack([up, 5.0 + 3.0 * up + 0.1 * hill, -up, hill])


def test_scale_and_level_do_not_matter_and_the_direction_does():
    found = task_map(_surfaces())
    assert found.correlations[0, 1] > 0.99
    assert found.correlations[0, 2] == pytest.approx(-1.0)
    assert abs(found.correlations[0, 3]) < 1e-9
    apart = np.linalg.norm(found.places[:, None] - found.places, axis=2)
    assert apart[0, 1] < 0.1 < 1.0 < apart[0, 3] < apart[0, 2]


def test_distances_in_the_plane_are_those_of_the_surfaces_where_two_axes_suffice():
    found = task_map(_surfaces())
    apart = np.linalg.norm(found.places[:, None] - found.places, axis=2)
    np.testing.assert_allclose(apart, np.sqrt(2 * np.maximum(1 - found.correlations, 0)), atol=1e-6)
    assert found.kept == pytest.approx(1.0)


def test_a_flat_surface_has_no_place_and_the_order_of_tasks_does_not_matter():
    surfaces = np.vstack([_surfaces(), np.full(200, 3.0)])
    found = task_map(surfaces)
    assert found.tasks.tolist() == [0, 1, 2, 3]
    turned = task_map(surfaces[::-1])
    np.testing.assert_allclose(np.abs(turned.places[::-1]), np.abs(found.places), atol=1e-9)


def test_a_single_task_lies_in_the_middle():
    found = task_map(_surfaces()[:1])
    assert found.places.tolist() == [[0.0, 0.0]] and found.kept == 1.0
    assert len(task_map(np.empty((0, 5))).tasks) == 0


def test_a_task_with_few_runs_is_taken_to_be_like_the_others_and_says_that_it_tells_little():
    rng = np.random.default_rng(0)
    sizes = [60] * 8 + [2]
    tasks = np.repeat(np.arange(9), sizes).astype(np.intp)
    points = rng.random((len(tasks), 1))
    slopes = np.array([3.0, 3.0, 3.0, 3.0, -3.0, -3.0, -3.0, -3.0, 3.0])
    outcomes = slopes[tasks] * (points[:, 0] - 0.5) + 0.1 * rng.normal(size=len(tasks))
    basis = Basis.of((0,))
    moments = Moments.of(basis, tasks, points, outcomes)
    grid = np.linspace(0, 1, 50)[:, None]
    surfaces, told = AdditiveSurface.fit(basis, moments).of_tasks(moments, basis.rows(grid))
    assert surfaces.shape == (9, 50)
    for task in (0, 7):
        np.testing.assert_allclose(surfaces[task], slopes[task] * (grid[:, 0] - 0.5), atol=0.25)
    assert told[:8].min() > 0.9 > told[8]
    assert told[8] >= 0.0
