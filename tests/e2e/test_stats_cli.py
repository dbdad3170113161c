"""Does `hpo stats` answer a person at a terminal, and a script?"""

from __future__ import annotations

import random
from pathlib import Path

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial

from storage import history
from storage.optuna_storage import HistoryStorage
from storage.schema import Store
from storage.studies import SPACE_ATTRIBUTE
from tests.e2e.conftest import Hpo, answer

SPACE = {
    "kind": CategoricalDistribution(("a", "b")),
    "lr": FloatDistribution(1e-4, 1.0, log=True),
    "momentum": FloatDistribution(0.0, 1.0),
}
DECLARED = {
    "kind": {"type": "categorical", "choices": ["a", "b"]},
    "lr": {"type": "float", "low": 1e-4, "high": 1.0, "log": True},
    "momentum": {"type": "float", "low": 0.0, "high": 1.0, "when": {"kind": ["b"]}},
}


def fill(store: Store, tasks: int, *, runs: int = 24, failing: int = 0) -> str:
    """Past studies of a loss that grows with the distance of lr from 0.05; the name of their family."""
    storage = HistoryStorage(store)
    for t in range(tasks):
        rng = random.Random(t)
        study = optuna.create_study(storage=storage, study_name=f"past {t}")
        study._storage.set_study_system_attr(study._study_id, SPACE_ATTRIBUTE, DECLARED)
        for number in range(runs):
            kind = rng.choice("ab")
            params = {"kind": kind, "lr": 10 ** rng.uniform(-4, 0)} | (
                {"momentum": rng.random()} if kind == "b" else {}
            )
            is_failed = number < failing
            study.add_trial(
                create_trial(
                    state=TrialState.FAIL if is_failed else TrialState.COMPLETE,
                    params=params,
                    distributions={name: SPACE[name] for name in params},
                    value=None if is_failed else abs(params["lr"] ** 0.25 - 0.05**0.25) + rng.gauss(0, 0.02) + t,
                )
            )
    return history.list_studies(store)[0].family


def test_a_family_of_five_tasks(hpo: Hpo, sqlite_store: Store) -> None:
    family = fill(sqlite_store, 5, failing=2)
    out, _ = hpo("stats", family, "--importance", "--pairs")
    assert "5 tasks, 120 trials, 10 failed" in out
    assert "0.01 … 0.1" in out and "of 5" in out and "kind, lr" in out
    found = answer(hpo, "stats", family, "--importance", "--pairs")
    by_range = {(row["parameter"], row["range"]): row for row in found["effects"]}
    best = by_range["lr", "0.01 … 0.1"]
    assert best["best"] > 0.8
    assert best["adjusted"]["interval_over"] == "tasks"
    low, high = best["adjusted"]["interval"]
    assert 0 < low < best["adjusted"]["mean"] < high
    assert best["adjusted"]["prediction"][0] <= low and high <= best["adjusted"]["prediction"][1]
    assert best["adjusted"]["held"]["of"] == 5
    assert sum(row["failed"] for row in found["effects"] if row["parameter"] == "lr") == 10
    momentum = [row for row in found["effects"] if row["parameter"] == "momentum"]
    assert sum(row["trials"] for row in momentum) == by_range["kind", "b"]["trials"]
    assert found["importance"]["over"] == "tasks"
    assert found["importance"]["parameters"][0]["parameter"] == "lr"
    assert found["importance"]["parameters"][0]["share"] > 0.6
    assert len(found["pairs"]) == 2 * 4 + 2 * 4 + 4 * 4


def test_one_task_says_nothing_of_others(hpo: Hpo, sqlite_store: Store) -> None:
    family = fill(sqlite_store, 1)
    out, _ = hpo("stats", family)
    assert "for this task only; for a new task it takes 3 tasks" in out
    found = answer(hpo, "stats", family, "--raw-units")
    assert found["unit"] == "in the task's own units, lower is better"
    row = next(row for row in found["effects"] if row["range"] == "0.01 … 0.1")
    assert row["adjusted"]["prediction"] is None and row["adjusted"]["tau"] is None
    assert row["adjusted"]["mean"] < 0 < row["best"]


def test_one_parameter_and_a_condition(hpo: Hpo, sqlite_store: Store) -> None:
    family = fill(sqlite_store, 3)
    found = answer(hpo, "stats", family, "--parameter", "lr", "--where", "params.kind = a")
    assert {row["parameter"] for row in found["effects"]} == {"lr"}
    assert 0 < found["trials"] < 72
    _, err = hpo("stats", family, "--parameter", "rl", code=2)
    assert "it has: kind, lr, momentum" in err
    _, err = hpo("stats", family, "--where", "params.lr >", code=2)
    assert "cannot be read" in err


@pytest.mark.parametrize("arguments", [(), ("--parameter", "lr"), ("--parameter", "kind")])
@pytest.mark.parametrize("tasks", [1, 4])
def test_figures(hpo: Hpo, sqlite_store: Store, tmp_path: Path, arguments: tuple[str, ...], tasks: int) -> None:
    family = fill(sqlite_store, tasks)
    for name in ("effects.png", "effects.svg"):
        hpo("stats", family, *arguments, "--figure", name)
        assert (tmp_path / name).stat().st_size > 5_000
    _, err = hpo("stats", family, "--figure", "effects.png", code=2)
    assert "--force overwrites it" in err
    hpo("stats", family, "--figure", "effects.png", "--force")
    _, err = hpo("stats", family, "--figure", "effects.gif", code=2)
    assert "one of .png, .svg, .pdf" in err


@pytest.mark.parametrize("runs", [1, 2])
def test_hardly_any_trials(hpo: Hpo, sqlite_store: Store, runs: int) -> None:
    family = fill(sqlite_store, 1, runs=runs)
    out, _ = hpo("stats", family, "--importance", "--pairs")
    assert "importance: not enough to say; it takes 10 trials" in out
    found = answer(hpo, "stats", family, "--importance", "--pairs")
    assert found["importance"] is None
    if runs == 1:
        assert "adjusted: not enough to say; it takes a task with two different outcomes" in out
        assert all(row["adjusted"] is None and row["went_along"]["interval"] is None for row in found["effects"])
        _, err = hpo("stats", family, "--figure", "effects.png", code=2)
        assert "nothing to draw" in err


def test_only_failures(hpo: Hpo, sqlite_store: Store) -> None:
    family = fill(sqlite_store, 2, runs=6, failing=6)
    found = answer(hpo, "stats", family, "--importance", "--pairs")
    assert found["failed"] == found["trials"] == 12
    assert all(row["went_along"]["mean"] is None and row["best"] is None for row in found["effects"])
    hpo("stats", family, "--importance", "--pairs")
