"""Is it told which parameters an outcome depends on, alone and together?"""

import numpy as np
import pytest
from scipy.stats.qmc import Sobol

from hpo.statistics.effects import Runs
from hpo.statistics.importance import FEWEST_RUNS, TASKS_FOR_A_BOOTSTRAP, importance


def _runs(points: np.ndarray, outcomes: np.ndarray, t: int = 1, choices: tuple[int, ...] | None = None) -> Runs:
    choices = choices or (0,) * points.shape[1]
    return Runs(
        tasks=np.repeat(np.arange(t), len(points) // t).astype(np.intp),
        outcomes=outcomes,
        ranges=np.zeros(points.shape, dtype=np.int16),
        points=points,
        sizes=tuple(count or 4 for count in choices),
        choices=choices,
    )


def _cube(d: int) -> np.ndarray:
    return Sobol(d, rng=np.random.default_rng(0)).random(1024)


def test_main_effects_have_their_shares():
    rng = np.random.default_rng(0)
    X = rng.random((400, 3))
    found = importance(_runs(X, 3.0 * X[:, 0] + np.sqrt(3.0) * X[:, 1]), _cube(3), rng)
    np.testing.assert_allclose(found.shares, [0.75, 0.25, 0.0], atol=0.06)
    assert found.over == "trials"
    assert (found.intervals[:, 0] <= found.shares).all() and (found.shares <= found.intervals[:, 1]).all()
    assert (found.pair_shares < 0.05).all()


def test_what_two_do_only_together_is_a_pair():
    rng = np.random.default_rng(0)
    X = rng.random((600, 3))
    found = importance(_runs(X, (X[:, 0] - 0.5) * (X[:, 2] - 0.5)), _cube(3), rng)
    assert found.pairs[0] == (0, 2)
    assert found.pair_shares[0] > 0.6
    assert (found.shares < 0.15).all()


def test_a_conditional_parameter_is_judged_where_it_is_active():
    rng = np.random.default_rng(0)
    choice = rng.integers(2, size=500).astype(float)
    own = np.where(choice == 1, rng.random(500), np.nan)
    X = np.stack([choice, own, rng.random(500)], axis=1)
    design = _cube(3)
    design[:, 0] = np.floor(2 * design[:, 0])
    design[design[:, 0] == 0, 1] = np.nan
    by_choice = importance(_runs(X, 5.0 * choice, choices=(2, 0, 0)), design, rng)
    assert by_choice.shares[0] > 0.95 and by_choice.shares[1] < 0.01
    by_own = importance(_runs(X, np.nan_to_num(own, nan=0.5), choices=(2, 0, 0)), design, rng)
    assert by_own.shares[1] > 0.9 and by_own.shares[0] < 0.05


@pytest.mark.parametrize("n", [12, 60])
def test_with_tasks_enough_they_are_the_units(n):
    rng = np.random.default_rng(0)
    t = TASKS_FOR_A_BOOTSTRAP + 3
    X = rng.random((t * n, 2))
    found = importance(_runs(X, X[:, 0] + 0.1 * rng.normal(size=t * n), t), _cube(2), rng)
    assert found.over == "tasks" and found.tasks == t
    assert found.shares[0] > 5 * found.shares[1]


def test_tasks_that_differ_make_for_wide_intervals():
    rng = np.random.default_rng(0)
    X = rng.random((8 * 60, 2))
    tasks = np.repeat(np.arange(8), 60)
    alike = importance(_runs(X, X[:, 0], 8), _cube(2), rng)
    mixed = importance(_runs(X, np.where(tasks % 2 == 0, X[:, 0], X[:, 1]), 8), _cube(2), rng)
    assert np.diff(mixed.intervals[0])[0] > 0.4 > 10 * np.diff(alike.intervals[0])[0]


@pytest.mark.parametrize(
    "outcomes",
    [np.ones(40), np.full(40, np.nan), np.where(np.arange(40) < FEWEST_RUNS - 1, np.arange(40.0), np.nan)],
)
def test_too_little_to_say(outcomes):
    rng = np.random.default_rng(0)
    assert importance(_runs(rng.random((40, 2)), outcomes), _cube(2), rng) is None


def test_the_same_question_has_the_same_answer():
    X = np.random.default_rng(0).random((100, 2))
    first, second = (importance(_runs(X, X[:, 0]), _cube(2), np.random.default_rng(7)) for _ in range(2))
    np.testing.assert_array_equal(first.intervals, second.intervals)
