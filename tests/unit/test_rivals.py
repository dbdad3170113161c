"""Are the methods that ours is raced against what they should be? On a family of tasks with nearby optima."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from typing import Any, cast

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from hpo.replay.methods import load_method
from hpo.replay.problem import Method, PastRuns, Problem
from hpo.spaces.encoding import Encoding
from hpo.spaces.space import SearchSpace
from tests.benchmarks.rivals import OPTIONAL, RIVALS
from tests.benchmarks.rivals.cts import normal_scores
from tests.benchmarks.rivals.rgpe import RGPE, shares_of_smallest

ROWS = 60
BUDGET = 14
SEEDS = (0, 1)
EXPECTED_OF_RANDOM = (ROWS + 1) / (BUDGET + 1)  # rank of the best row after so many, 1 for the best of all
SPACE = SearchSpace.from_json(
    {
        "lr": {"type": "float", "low": 1e-4, "high": 1.0, "log": True},
        "layers": {"type": "int", "low": 1, "high": 6},
        "optimizer": {"type": "categorical", "choices": ["sgd", "adam"]},
        "momentum": {"type": "float", "low": 0.0, "high": 0.99, "when": {"optimizer": ["sgd"]}},
    }
)
ENCODING = Encoding(space=SPACE)


def points_and_losses(rng, optimum):
    points = np.unique(ENCODING.uniform(rng.random((ROWS, 4))), axis=0)
    lr, layers, optimizer, momentum = (points[:, ENCODING.names.index(name)] for name in SPACE.distributions)
    losses = (lr - optimum) ** 2 + 0.2 * (layers - 0.6) ** 2 + 0.05 * optimizer + 0.1 * (momentum - 0.7) ** 2
    return points, 100.0 * losses


def problem_and_losses(task="new", *, past_tasks=4):
    rng = np.random.default_rng(len(task))
    past = []
    for number in range(past_tasks):
        X, losses = points_and_losses(rng, rng.normal(0.35, 0.05))
        unused = cast(Any, None)
        past.append(PastRuns(name=f"past {number}", X=X, losses=losses, sample=unused, mapping=unused))
    points, losses = points_and_losses(rng, 0.38)
    assert len(points) == ROWS
    problem = Problem(
        name=task,
        encoding=ENCODING,
        configurations=[ENCODING.decode(point) for point in points],
        points=points,
        maximize=False,
        past=past,
    )
    return problem, losses


@cache
def runs_of(name):
    """The rows that a rival chooses in the common problem, by seed."""
    problem, losses = problem_and_losses()
    method = load_method(RIVALS[name])
    return {seed: chosen(method, problem, losses, seed) for seed in SEEDS}


def chosen(method: Method, problem, losses, seed, budget=BUDGET):
    chooser, rows = method.begin(problem, seed), []
    for _ in range(budget):
        rows.append(chooser.choose(rows, losses[rows]).row)
    return rows


@pytest.fixture(autouse=True)
def one_thread():
    """As in a race: the matrices are small, and threads that wait for each other take longer."""
    with threadpool_limits(limits=1):
        yield


@pytest.fixture(params=RIVALS)
def rival(request) -> Method:
    name = request.param
    if name in OPTIONAL and find_spec(OPTIONAL[name]) is None:
        pytest.skip(f"{OPTIONAL[name]} is not installed")
    method = load_method(RIVALS[name])
    assert method.name == name
    return method


def test_beats_random_rows(rival):
    _, losses = problem_and_losses()
    ranks = np.argsort(np.argsort(losses)) + 1
    assert np.mean([ranks[rows].min() for rows in runs_of(rival.name).values()]) < EXPECTED_OF_RANDOM


def test_no_row_twice_and_the_seed_decides(rival):
    problem, losses = problem_and_losses()
    first = runs_of(rival.name)
    assert all(len(set(rows)) == BUDGET for rows in first.values())
    assert chosen(rival, problem, losses, seed=1, budget=12) == first[1][:12]


def test_the_last_row_is_found(rival):
    problem, losses = problem_and_losses()
    rows = [row for row in np.random.default_rng(0).permutation(ROWS).tolist() if row != 17]
    assert rival.begin(problem, 0).choose(rows, losses[rows]).row == 17


def test_works_without_a_past_and_on_equal_losses(rival):
    problem, losses = problem_and_losses(past_tasks=0)
    assert len(set(chosen(rival, problem, np.zeros_like(losses), seed=0, budget=11))) == 11


def test_weights_share_ties():
    misordered = np.array([[0.0, 3.0, 1.0, 2.0], [0.0, 1.0, 1.0, 1.0], [5.0, 5.0, 1.0, 3.0]])
    assert shares_of_smallest(misordered) == pytest.approx([(1 / 2 + 1 / 3) / 4, (1 / 2 + 1 + 1 / 3 + 1) / 4, 1 / 12])


def test_rgpe_leans_on_the_task_that_ranks_alike():
    problem, losses = problem_and_losses()
    mirrored = [
        PastRuns(name=past.name, X=past.X, losses=-past.losses, sample=past.sample, mapping=past.mapping)
        for past in problem.past[1:]
    ]
    past = [problem.past[0], *mirrored]
    problem = Problem(**{**vars(problem), "past": past})
    chooser = RGPE().begin(problem, 0)
    rows = list(range(12))
    assert shares_of_smallest(chooser._misordered(rows, losses[rows]))[0] > 0.95


def test_normal_scores_do_not_depend_on_the_scale():
    losses = np.array([3.0, 1.0, 2.0, 1e9])
    assert normal_scores(losses) == pytest.approx(normal_scores(np.log(losses) * 7 - 2))
    assert np.argsort(normal_scores(losses)).tolist() == np.argsort(losses).tolist()
