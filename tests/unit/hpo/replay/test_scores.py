"""Are the figures what they are said to be? Compared with numbers worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hpo.replay.runs import Run
from hpo.replay.scores import (
    DRAWS,
    bootstrap_means,
    compare,
    holm,
    percentile_interval,
    regret,
    score_methods,
    trials_to,
    two_sided_p,
)


def run(losses: list[float], *, method: str = "a", task: str = "t", seed: int = 0, **changes: Any) -> Run:
    """A run on a task whose losses are 0 at best, 4 in the median and 10 at worst."""
    n = len(losses)
    given: dict[str, Any] = {
        "table": "table",
        "family": "family",
        "task": task,
        "regime": "full",
        "method": method,
        "seed": seed,
        "budget": n,
        "rows": 100,
        "data": "0",
        "chosen": tuple(range(n)),
        "losses": tuple(losses),
        "seconds": (0.1,) * n,
        "intervals": (None,) * n,
        "least": 0.0,
        "median": 4.0,
        "greatest": 10.0,
    }
    return Run(**{**given, **changes})


def test_regret_is_of_the_best_so_far_on_the_scale_of_the_task() -> None:
    some = run([8, 2, 6, 1])
    np.testing.assert_allclose(regret(some, "minmax"), [0.8, 0.2, 0.2, 0.1])
    np.testing.assert_allclose(regret(some, "median"), [1.0, 0.5, 0.5, 0.25])


def test_where_half_of_the_rows_are_best_regret_is_all_or_nothing() -> None:
    np.testing.assert_array_equal(regret(run([3, 0], median=0.0), "median"), [1.0, 0.0])


def test_trials_to_counts_from_one_and_says_one_more_than_all_where_it_was_never_reached() -> None:
    assert trials_to(np.array([0.3, 0.05, 0.0])) == 2
    assert trials_to(np.array([0.04])) == 1
    assert trials_to(np.array([0.3, 0.2])) == 3


def test_seeds_are_averaged_within_a_task_before_tasks_are() -> None:
    runs = [run([10], task="t"), run([0], task="t", seed=1), run([0], task="u")]
    (score,) = score_methods(runs)
    assert score.regret["minmax"][1] == pytest.approx(0.25)  # of (1 + 0) / 2 and 0; over runs it would be 1/3
    assert score.trials_to_close["minmax"] == pytest.approx(1.25)  # of (2 + 1) / 2 and 1
    assert score.reached["minmax"] == pytest.approx(2 / 3)
    assert (score.tasks, score.runs) == (2, 3)


def test_regret_is_told_only_within_the_budget() -> None:
    (score,) = score_methods([run([5, 4, 3, 2])])
    assert list(score.regret["minmax"]) == [1, 3]
    assert score.rank == {}


def test_ranks_share_a_place_and_leave_out_what_not_all_methods_have_run() -> None:
    runs = [
        run([5, 5, 5, 5, 1], method="a"),
        run([5, 5, 5, 5, 2], method="b"),
        run([5, 5, 5, 5, 2], method="c"),
        run([5, 5, 5, 5, 9], method="a", seed=1),  # nobody else has this seed
    ]
    assert [score.rank[5] for score in score_methods(runs)] == [1.0, 2.5, 2.5]


def test_intervals_are_judged_by_the_next_loss_from_two_known_ones_on() -> None:
    intervals = ((0, 9), (0, 9), (4, 6), (0, 2), None, (1, 5))
    (score,) = score_methods([run([5, 5, 5, 5, 5, 5], intervals=intervals)])
    assert score.intervals is not None
    assert score.intervals.count == 3
    assert score.intervals.coverage == pytest.approx(2 / 3)
    assert score.intervals.width == pytest.approx((2 + 2 + 4) / 3 / 4)  # in units of median - least
    assert [(each.first, each.count) for each in score.buckets] == [(2, 2), (5, 1), (10, 0), (20, 0)]
    assert score.buckets[2].coverage is None


def test_seconds_are_of_single_choices() -> None:
    (score,) = score_methods([run([1] * 5, seconds=(1.0, 2.0, 3.0, 4.0, 5.0))])
    assert score.seconds == pytest.approx({"p50": 3.0, "p95": 4.8})


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]


def test_bootstrap_is_over_tasks_and_always_the_same() -> None:
    values = np.random.default_rng(0).normal(1.0, 2.0, (50, 2))
    draws = bootstrap_means(values)
    assert draws.shape == (DRAWS, 2)
    np.testing.assert_array_equal(draws, bootstrap_means(values))
    np.testing.assert_allclose(draws.mean(axis=0), values.mean(axis=0), atol=0.02)
    np.testing.assert_allclose(draws.std(axis=0), values.std(axis=0) / np.sqrt(50), rtol=0.05)
    low, high = percentile_interval(draws[:, 0])
    half = 1.96 * values[:, 0].std() / np.sqrt(50)
    assert (low, high) == pytest.approx((values[:, 0].mean() - half, values[:, 0].mean() + half), abs=0.05)


def test_p_is_small_where_all_draws_agree_and_one_where_nothing_differs() -> None:
    assert two_sided_p(np.ones(999)) == pytest.approx(2 / 1000)
    assert two_sided_p(np.zeros(999)) == 1.0


def test_a_comparison_is_paired_by_task() -> None:
    runs = []
    for number, level in enumerate((1.0, 4.0, 7.0)):  # tasks differ widely, methods by one everywhere
        runs.append(run([level] * 5, method="base", task=str(number)))
        runs.append(run([level + 1.0] * 5, method="other", task=str(number)))
    runs.append(run([0.0] * 5, method="other", task="only the other's"))
    (found,) = compare(runs, "base")
    assert (found.method, found.baseline, found.tasks) == ("other", "base", 3)
    (at_5,) = [each for each in found.differences if each.kind == "minmax"]
    assert at_5.mean == pytest.approx(0.1)
    assert at_5.interval95 == pytest.approx((0.1, 0.1))
    assert at_5.p_holm is not None and at_5.p_holm < 0.001


def test_the_ratio_of_trials_is_of_means_over_tasks() -> None:
    runs = [
        run([9, 0, 0, 0, 0], method="base", task="t"),
        run([9, 9, 9, 0, 0], method="base", task="u"),
        run([9, 9, 9, 0, 0], method="other", task="t"),
        run([9, 9, 9, 9, 9], method="other", task="u"),
    ]
    (found,) = compare(runs, "base")
    assert found.trials_ratio["minmax"] == pytest.approx((4 + 6) / (2 + 4))
    assert found.trials_ratio_interval95["minmax"] == pytest.approx((6 / 4, 4 / 2))


def test_one_task_has_no_interval() -> None:
    (found,) = compare([run([1] * 5, method="base"), run([2] * 5, method="other")], "base")
    assert {each.interval95 for each in found.differences} == {None}
    assert found.trials_ratio_interval95["minmax"] is None
