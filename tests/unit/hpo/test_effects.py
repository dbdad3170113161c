"""Are effects per range counted, scaled, adjusted and bounded as they claim?"""

import numpy as np
import pytest
from scipy.stats.qmc import Sobol

from hpo.statistics.effects import (
    Adjustment,
    Runs,
    best_of,
    on_task_scales,
    pair_counts,
    range_counts,
)
from hpo.statistics.random_effects import FEWEST_TASKS

RANGES = 4


def _runs(tasks: list[int] | np.ndarray, points: np.ndarray, outcomes: np.ndarray, choices: tuple[int, ...]) -> Runs:
    sizes = tuple(count or RANGES for count in choices)
    return Runs(
        tasks=np.asarray(tasks, dtype=np.intp),
        outcomes=np.asarray(outcomes, dtype=float),
        ranges=_ranges(points, choices),
        points=points,
        sizes=sizes,
        choices=choices,
    )


def _ranges(points: np.ndarray, choices: tuple[int, ...]) -> np.ndarray:
    columns = [
        np.where(
            np.isnan(x), -1, np.clip(np.floor(np.nan_to_num(x) * (1 if count else RANGES)), 0, (count or RANGES) - 1)
        )
        for x, count in zip(points.T, choices, strict=True)
    ]
    return np.stack(columns, axis=1).astype(np.int16)


def _design(choices: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    cube = Sobol(len(choices), rng=np.random.default_rng(0)).random(1024)
    points = np.where(np.array(choices) > 0, np.floor(cube * np.maximum(choices, 1)), cube)
    return points, _ranges(points, choices)


def _greedy(rng: np.random.Generator, t: int, n: int, worth: np.ndarray) -> Runs:
    """Tasks in which a tuner looks at high values of the first parameter with high values of the second."""
    first = rng.random(t * n)
    second = np.clip(first + 0.15 * rng.normal(size=t * n), 0.0, 1.0)
    tasks = np.repeat(np.arange(t), n)
    outcomes = worth[tasks] * second + 0.2 * rng.normal(size=t * n)
    return _runs(tasks, np.stack([first, second], axis=1), outcomes, (0, 0))


def test_higher_is_better_whatever_the_metric():
    outcomes = np.array([1.0, 2.0, 3.0, np.nan, np.inf])
    tasks = np.zeros(5, dtype=np.intp)
    up = on_task_scales(tasks, outcomes, higher_is_better=True)
    np.testing.assert_allclose(up[:3], [-1 / 1.4826, 0, 1 / 1.4826])
    assert np.isnan(up[3:]).all()
    np.testing.assert_allclose(on_task_scales(tasks, -outcomes, higher_is_better=False), up)


def test_each_task_has_its_own_scale():
    rng = np.random.default_rng(0)
    tasks = np.repeat(np.arange(3), [9, 40, 2]).astype(np.intp)
    outcomes = rng.normal(size=51)
    scale, shift = np.array([1.0, 100.0, 1e-6])[tasks], np.array([0.0, 7.0, -3.0])[tasks]
    np.testing.assert_allclose(
        on_task_scales(tasks, scale * outcomes + shift, higher_is_better=True),
        on_task_scales(tasks, outcomes, higher_is_better=True),
        rtol=1e-6,
    )


def test_very_different_sizes_of_tasks_are_scaled_alike():
    rng = np.random.default_rng(0)
    sizes = [1000, *[3] * 30]
    tasks = np.repeat(np.arange(31), sizes).astype(np.intp)
    outcomes = rng.normal(size=len(tasks))
    alone = on_task_scales(np.zeros(1000, dtype=np.intp), outcomes[:1000], higher_is_better=True)
    np.testing.assert_array_equal(on_task_scales(tasks, outcomes, higher_is_better=True)[:1000], alone)


def test_a_task_without_two_outcomes_says_nothing():
    tasks = np.array([0, 0, 1, 2, 2], dtype=np.intp)
    scaled = on_task_scales(tasks, np.array([3.0, 3.0, 1.0, 1.0, 2.0]), higher_is_better=True)
    assert np.isnan(scaled[:3]).all() and np.isfinite(scaled[3:]).all()


def test_runs_and_failures_are_counted_where_they_are():
    points = np.array([[0.1], [0.3], [0.6], [0.9], [0.95], [np.nan]])
    counts, _ = range_counts(_runs([0] * 6, points, [1, 2, 3, np.nan, 4, 5], (0,)))
    assert counts.runs.tolist() == [1, 1, 1, 1]
    assert counts.failed.tolist() == [0, 0, 0, 1]
    assert counts.tasks.tolist() == [1, 1, 1, 1]
    assert np.isnan(counts.deviation).all()


def test_a_pair_counts_only_where_both_are_active():
    points = np.array([[0.0, 0.1], [1.0, np.nan], [1.0, 0.9]])
    counts, _ = pair_counts(_runs([0, 0, 0], points, [1.0, 2.0, 3.0], (2, 0)), [(0, 1)])
    assert counts.runs.tolist() == [1, 0, 0, 0, 0, 0, 0, 1]


def test_with_fewer_than_three_tasks_nothing_is_said_of_a_new_one():
    rng = np.random.default_rng(0)
    for t in (1, 2, FEWEST_TASKS):
        runs = _greedy(rng, t, 40, np.ones(t))
        _, along = range_counts(runs)
        adjusted = Adjustment.of(runs, *_design((0, 0))).of_ranges()
        for estimates in (along, adjusted):
            assert np.isfinite(estimates.interval).all()
            assert np.isnan(estimates.prediction).all() == (t < FEWEST_TASKS)


def test_what_went_along_is_told_from_what_did_it():
    runs = _greedy(np.random.default_rng(1), 8, 60, np.full(8, 2.0))
    _, along = range_counts(runs)
    adjusted = Adjustment.of(runs, *_design((0, 0))).of_ranges()
    assert along.mean[3] - along.mean[0] > 1.0  # the first parameter does nothing
    assert abs(adjusted.mean[3] - adjusted.mean[0]) < 0.3
    assert (adjusted.interval[:4, 0] <= 0).all() and (adjusted.interval[:4, 1] >= 0).all()
    truth = 2.0 * (np.array([0.125, 0.375, 0.625, 0.875]) - 0.5)
    np.testing.assert_allclose(adjusted.mean[4:], truth, atol=0.2)
    best = best_of(adjusted, runs.sizes, np.random.default_rng(0))
    assert best[7] > 0.9
    assert best[4:].sum() == pytest.approx(1.0)
    assert best_of(adjusted, runs.sizes, np.random.default_rng(0), sign=-1.0)[4] > 0.9


def test_what_differs_between_tasks_is_in_the_prediction():
    rng = np.random.default_rng(2)
    same = Adjustment.of(_greedy(rng, 30, 40, np.full(30, 2.0)), *_design((0, 0))).of_ranges()
    other = Adjustment.of(_greedy(rng, 30, 40, rng.normal(2.0, 2.0, 30)), *_design((0, 0))).of_ranges()
    assert other.tau[7] == pytest.approx(2.0 * 0.375, rel=0.4)
    assert same.tau[7] < 0.2
    assert np.diff(other.prediction[7])[0] > 3 * np.diff(same.prediction[7])[0]
    assert other.calibration.of[7] == 30


def test_a_choice_and_its_own_parameter():
    rng = np.random.default_rng(3)
    t, n = 6, 50
    choice = rng.integers(2, size=t * n).astype(float)
    own = np.where(choice == 1, rng.random(t * n), np.nan)
    outcomes = np.where(choice == 1, 1.0 + np.nan_to_num(own), 0.0) + 0.1 * rng.normal(size=t * n)
    runs = _runs(np.repeat(np.arange(t), n), np.stack([choice, own], axis=1), outcomes, (2, 0))
    points, _ = _design((2, 0))
    points[points[:, 0] == 0, 1] = np.nan
    adjusted = Adjustment.of(runs, points, _ranges(points, (2, 0))).of_ranges()
    assert adjusted.mean[1] - adjusted.mean[0] == pytest.approx(1.5, abs=0.1)
    np.testing.assert_allclose(adjusted.mean[2:], [-0.375, -0.125, 0.125, 0.375], atol=0.08)


def test_units_do_not_matter():
    runs = _greedy(np.random.default_rng(4), 4, 30, np.ones(4))
    design = _design((0, 0))
    large = _runs(runs.tasks, runs.points, 1e6 * runs.outcomes + 5.0, (0, 0))
    np.testing.assert_allclose(
        Adjustment.of(large, *design).of_ranges().interval, 1e6 * Adjustment.of(runs, *design).of_ranges().interval,
        rtol=1e-5, atol=1.0,
    )  # fmt: skip


def test_a_curve_goes_through_its_ranges():
    runs = _greedy(np.random.default_rng(5), 5, 60, np.full(5, 2.0))
    adjustment = Adjustment.of(runs, *_design((0, 0)))
    curve = adjustment.along(1, np.linspace(0.0, 0.25, 33))
    assert curve.mean.mean() == pytest.approx(adjustment.of_ranges().mean[4], abs=0.05)


@pytest.mark.parametrize("outcomes", [[np.nan] * 4, [1.0] * 4, [1.0, np.nan, np.nan, np.nan]])
def test_nothing_to_say_is_not_said(outcomes):
    points = np.array([[0.1], [0.4], [0.6], [0.9]])
    runs = _runs([0] * 4, points, outcomes, (0,))
    assert Adjustment.of(runs, *_design((0,))) is None
    _, along = range_counts(runs)
    assert not np.isfinite(along.prediction).any()


def test_a_range_that_nobody_tried_is_never_called_best():
    runs = _greedy(np.random.default_rng(6), 4, 30, np.ones(4))
    inside = runs.points[:, 0] < 0.5
    runs = _runs(runs.tasks[inside], runs.points[inside], runs.outcomes[inside], (0, 0))
    counts, along = range_counts(runs)
    assert counts.runs[2:4].tolist() == [0, 0]
    best = best_of(along, runs.sizes, np.random.default_rng(0))
    assert np.isnan(best[2:4]).all() and best[:2].sum() == pytest.approx(1.0)
