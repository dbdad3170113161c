"""Does each method choose as it says: rows once each, from the seed alone, and the list before anything is seen?"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest

from hpo.errors import SettingsError
from hpo.replay.methods import Random, load_method
from hpo.replay.optuna_methods import OptunaMethod, nearest, tpe
from hpo.replay.portfolio import Portfolio, greedy_order
from hpo.replay.problem import Choice, Problem
from hpo.replay.race import replay
from hpo.tuning.past import FIRST_POINTS
from tests.unit.hpo.replay.recorded import family, problem

FAST = ("random", "portfolio", "tpe", "tpe+portfolio")


def rows_of(name: str, seed: int = 0, *, regime: str = "full", budget: int = 14) -> list[int]:
    recorded = family(rows=20)
    found = problem(regime, of=recorded)
    return replay(load_method(name), found, recorded.tasks[0], seed=seed, budget=budget)[0]


@pytest.mark.parametrize("name", FAST)
def test_no_row_twice_and_the_same_for_a_seed(name: str) -> None:
    rows = rows_of(name, budget=20)
    assert sorted(rows) == list(range(20))
    assert rows[:14] == rows_of(name)
    if name != "portfolio":
        assert rows[:14] != rows_of(name, seed=1)


@pytest.mark.parametrize("name", FAST)
def test_without_a_past(name: str) -> None:
    assert rows_of(name, regime="none") != rows_of(name, seed=1, regime="none")


@pytest.mark.parametrize("name", ["history", "gp+portfolio", "gp"])
@pytest.mark.parametrize("regime", ["full", "shifted-space", "none"])
def test_the_tuner_and_its_parts(name: str, regime: str) -> None:
    recorded = family(rows=20)
    found = problem(regime, of=recorded)
    rows, _, choices = replay(load_method(name), found, recorded.tasks[0], seed=0, budget=8)
    assert len(set(rows)) == 8
    assert rows == replay(load_method(name), found, recorded.tasks[0], seed=0, budget=8)[0]
    for told in ("interval90", "best_case", "history_weight"):
        known = [getattr(choice, told) is not None for choice in choices]
        assert known == [False] * FIRST_POINTS + [True] * (8 - FIRST_POINTS), told
    assert all(each.interval90[0] <= each.best_case <= each.interval90[1] for each in choices[FIRST_POINTS:])


def test_the_tuner_and_the_plain_process_start_alike() -> None:
    starts = {name: rows_of(name, budget=FIRST_POINTS) for name in ("history", "gp+portfolio", "gp")}
    assert starts["history"] == starts["gp+portfolio"] != starts["gp"]


def test_gp_sampler_runs() -> None:
    assert len(set(rows_of("gpsampler", budget=11))) == 11


def test_random_differs_between_tasks() -> None:
    recorded = family()
    orders = [Random().begin(problem(of=recorded, task=task), 0)._order for task in range(2)]  # type: ignore[attr-defined]
    assert orders[0] != orders[1]


def test_the_greedy_list_by_hand() -> None:
    regret = np.array([[0.0, 1.0, 0.2, 1.0], [1.0, 0.0, 0.2, 1.0], [1.0, 1.0, 0.9, 0.8]])
    # 2 gains .8 + .8 + .1; then 0 and 1 gain .2 each, of which 0 is first, and 3 only .1 at last
    assert greedy_order(regret) == [2, 0, 1, 3]
    assert greedy_order(np.ones((2, 3))) == [0, 1, 2]
    assert greedy_order(np.array([[0.0, 0.0, 0.5]])) == [0, 1, 2]


def test_a_portfolio_uses_what_was_measured() -> None:
    """Where the past tasks have the target's rows, the first is the one with the least mean regret."""
    found = problem(of=family(rows=20))
    losses = [np.abs(np.arange(20.0) - best) for best in (3, 4, 5)]
    past = [replace(each, X=found.points, losses=some) for each, some in zip(found.past, losses, strict=False)]
    assert Portfolio().begin(replace(found, past=past), 0).choose((), np.empty(0)).row == 4


def test_a_portfolio_is_good_where_tasks_are_alike() -> None:
    recorded = family(rows=60)
    task = recorded.tasks[2]
    rows, _, _ = replay(load_method("portfolio"), problem(of=recorded, task=2), task, seed=0, budget=3)
    assert task.losses[rows].min() < np.quantile(task.losses, 0.1)


def test_a_portfolio_comes_first() -> None:
    assert rows_of("tpe+portfolio")[:4] == rows_of("portfolio")[:4]


def test_tpe_is_told_the_row_that_was_tried() -> None:
    recorded = family(rows=20)
    found = problem(of=recorded)
    chooser = OptunaMethod("tpe", tpe).begin(found, 0)
    first = chooser.choose((), np.empty(0)).row
    second = chooser.choose((first,), np.array([0.5])).row
    chooser.choose((first, second), np.array([0.5, 0.7]))
    told = [
        trial
        for trial in chooser._study.trials  # type: ignore[attr-defined]
        if trial.state == optuna.trial.TrialState.COMPLETE
    ]
    assert [trial.params for trial in told] == [found.configurations[first], found.configurations[second]]
    assert [trial.value for trial in told] == [0.5, 0.7]


def test_tpe_learns() -> None:
    recorded = family(rows=300)
    task = recorded.tasks[0]
    best = []
    for seed in range(3):
        rows, _, _ = replay(load_method("tpe"), problem(of=recorded), task, seed=seed, budget=30)
        best.append(np.mean(task.losses[rows[15:]]))
    assert np.mean(best) < np.median(task.losses)


def test_nearest_is_the_least_gower_distance_of_what_is_left() -> None:
    encoding = family().encoding  # lr, width, optimizer, momentum
    points = np.array([[0.5, 0.5, 0.0, 0.5], [0.5, 0.5, 1.0, 0.5], [0.9, 0.9, 0.0, 0.5]])
    point = np.array([0.5, 0.5, 0.0, 0.5])
    assert nearest(point, points, [], encoding) == 0
    assert nearest(point, points, [0], encoding) == 2  # .8 in all; another choice counts 1


def test_a_row_may_lie_outside_the_range() -> None:
    """Optuna lets a study change its ranges, so that runs of one study may exceed the first."""
    found = problem(of=family(rows=20))
    outside = [{**params, "width": 65} for params in found.configurations]
    chooser = OptunaMethod("tpe", tpe).begin(replace(found, configurations=outside), 0)
    first = chooser.choose((), np.empty(0)).row
    assert chooser.choose((first,), np.array([0.5])).row != first


# The registry


def test_an_unknown_method_lists_the_known_ones() -> None:
    with pytest.raises(SettingsError, match=r"no method 'tpes'; there are .*random.*Did you mean 'tpe'"):
        load_method("tpes")


class Last:
    """A method of the user's."""

    name = "last"

    def begin(self, problem: Problem, seed: int) -> Last:
        self.rows = len(problem.points)
        return self

    def choose(self, rows: tuple[int, ...], losses: object) -> Choice:
        return Choice(row=self.rows - 1 - len(rows))


def test_a_method_of_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(load_method(f"{__name__}:Last"), Last)
    (tmp_path / "a_users_methods.py").write_text("class Mine:\n    def begin(self, problem, seed): ...\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    assert type(load_method("a_users_methods:Mine")).__name__ == "Mine"
    with pytest.raises(SettingsError, match="has no Other"):
        load_method("a_users_methods:Other")
    with pytest.raises(SettingsError, match="cannot be imported"):
        load_method("no_such_module:Mine")
    with pytest.raises(SettingsError, match="no begin"):
        load_method("math:pi")
