"""Is a function's trial worth what it reports or returns, and does it say what is wrong with that?"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import optuna
import pytest
import torch

from trainers.errors import ModelImportError
from trainers.job import FitJob, Outcome, TrainerConfig
from trainers.programs.functions import FunctionProgram, Reporter, TrialPruned
from trainers.reports import FitError

Train = Callable[..., Any]


@pytest.fixture
def module() -> Iterator[ModuleType]:
    """The user's own module."""
    module = sys.modules["users_module"] = ModuleType("users_module")
    yield module
    del sys.modules["users_module"]


class Study:
    """Runs a function as a trial, and keeps what was reported of it."""

    def __init__(self, folder: Path, module: ModuleType) -> None:
        self.folder, self.module = folder, module
        self.reports: list[tuple[int, float | None, dict[str, float]]] = []
        self.prune_at: int | None = None
        self.changes: dict[str, Any] = {}

    def run(self, function: Any, **params: Any) -> Outcome:
        self.module.train = function
        config = TrainerConfig(function="users_module.train", trainer_args={"a": 1, "b": 2}, accelerator="cpu")
        fields = {"params": params, "seed": 3, "metric": "loss", "direction": "minimize", "directory": str(self.folder)}
        return FunctionProgram.load(config).run(FitJob(**{**fields, **self.changes}), slot=0, report=self.report)

    def report(self, *, epoch: int, value: float | None, metrics: dict[str, float]) -> bool:
        self.reports.append((epoch, value, metrics))
        return epoch == self.prune_at

    def fails(self, function: Any, **params: Any) -> tuple[str, str]:
        with pytest.raises(FitError) as caught:
            self.run(function, **params)
        return caught.value.kind, caught.value.reason


@pytest.fixture
def study(tmp_path: Path, module: ModuleType) -> Study:
    return Study(tmp_path, module)


def test_the_best_report_counts_where_nothing_is_returned(study: Study) -> None:
    def train(config: dict[str, Any], report: Reporter) -> None:
        assert config == {"a": 1, "b": 5}
        for loss in (3.0, 1.0, 2.0):
            report(loss=loss, other=torch.tensor(7))

    outcome = study.run(train, b=5)
    assert (outcome.value, outcome.best_epoch, outcome.epochs, outcome.pruned) == (1.0, 1, 3, False)
    assert study.reports[1] == (1, 1.0, {"loss": 1.0, "other": 7.0})
    assert outcome.peak_memory_bytes > 10**6


@pytest.mark.parametrize(
    ("returned", "reports"),
    [
        (0.5, [(0, 0.5, {"loss": 0.5})]),
        (np.float32(0.5), [(0, 0.5, {"loss": 0.5})]),
        (torch.tensor(0.5), [(0, 0.5, {"loss": 0.5})]),
        ({"loss": 0.5, "seconds": 3}, [(0, 0.5, {"loss": 0.5, "seconds": 3.0})]),
    ],
)
def test_what_is_returned_is_reported_where_nothing_was(study: Study, returned: Any, reports: list[Any]) -> None:
    assert study.run(lambda config: returned).value == 0.5
    assert study.reports == reports


def test_what_is_returned_counts_more_than_what_was_reported(study: Study) -> None:
    def train(config: dict[str, Any], report: Reporter) -> float:
        report(loss=1.0)
        report(loss=3.0)
        return 2.0

    assert study.run(train).value == 2.0
    assert len(study.reports) == 2


def test_maximize(study: Study) -> None:
    def train(config: dict[str, Any], report: Reporter) -> None:
        for step in (2, 5, 7):
            report(step=step, loss=-abs(step - 5))

    study.changes = {"direction": "maximize"}
    assert study.run(train).best_epoch == 5


def test_a_pruned_function_stops_at_its_report(study: Study) -> None:
    seen = []

    def train(config: dict[str, Any], report: Reporter) -> None:
        for step in range(5):
            seen.append(step)
            report(loss=5 - step)

    study.prune_at = 2
    outcome = study.run(train)
    assert (outcome.pruned, outcome.value, outcome.epochs, seen) == (True, 3.0, 3, [0, 1, 2])


def test_a_pruned_function_may_clean_up_and_end_as_it_likes(study: Study) -> None:
    def train(config: dict[str, Any], report: Reporter) -> float:
        try:
            report(loss=1.0)
        except TrialPruned:
            return 9.0
        raise AssertionError

    study.prune_at = 0
    assert study.run(train).pruned


@pytest.mark.parametrize("pruned", [TrialPruned, optuna.TrialPruned])
def test_a_function_may_prune_itself(study: Study, pruned: type[Exception]) -> None:
    def train(config: dict[str, Any], report: Reporter) -> None:
        report(loss=1.0)
        raise pruned

    outcome = study.run(train)
    assert outcome.pruned
    assert outcome.value == 1.0

    def at_once(config: dict[str, Any]) -> None:
        raise pruned

    assert study.fails(at_once) == ("exception", "users_module.train ended as pruned before it reported loss")


def test_what_makes_no_result(study: Study) -> None:
    nan, inf = float("nan"), float("inf")
    assert study.fails(lambda config: nan) == ("nan", "users_module.train returned loss = nan")
    assert study.fails(lambda config, report: report(step=4, loss=inf)) == ("nan", "loss is inf in step 4")
    assert study.fails(lambda config: {"acc": 1}) == ("missing_metric", "users_module.train returned acc, no loss")
    assert study.fails(lambda config, report: report(acc=1)) == (
        "missing_metric",
        "loss was neither reported nor returned; reported: acc",
    )
    assert study.fails(lambda config: "low") == (
        "exception",
        "users_module.train returned loss = 'low', which is no number; return a number, a mapping of numbers with "
        "'loss', or nothing",
    )
    assert study.fails(lambda config: True)[1].startswith("users_module.train returned loss = True, which is no number")


def test_a_function_cannot_swallow_its_failure(study: Study) -> None:
    def train(config: dict[str, Any], report: Reporter) -> float:
        with suppress(Exception):
            report(loss=float("nan"))
        return 1.0

    assert study.fails(train)[0] == "nan"


@pytest.mark.parametrize(
    ("report", "error", "message"),
    [
        (lambda report: report(0.3), TypeError, r"report\(0.3\): name what it is, as in report\(loss=0.3\)"),
        (lambda report: report(), TypeError, r"write report\(loss=...\)"),
        (lambda report: report(loss="low"), TypeError, "loss = 'low', which is no number"),
        (lambda report: report(step=0.5, loss=1), TypeError, "cannot be interpreted as an integer"),
        (lambda report: report(step=-1, loss=1), ValueError, "step = -1 does not follow step -1"),
        (
            lambda report: (report(step=3, loss=1), report(step=3, loss=1)),
            ValueError,
            "step = 3 does not follow step 3",
        ),
    ],
)
def test_a_report_that_makes_no_sense_is_an_error_in_the_function(
    study: Study, report: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        study.run(lambda config, reporter: report(reporter))


def test_seeds_are_set(study: Study) -> None:
    def draw(config: dict[str, Any]) -> float:
        return random.random() + float(np.random.rand()) + float(torch.rand(1))

    assert study.run(draw).value == study.run(draw).value


def test_its_folder_is_there_and_kept_for_the_next_attempt(study: Study, tmp_path: Path) -> None:
    def train(config: dict[str, Any], report: Reporter) -> int:
        state = report.directory / "state.txt"
        steps = int(state.read_text()) if state.exists() else 0
        state.write_text(str(steps + 1))
        return steps

    study.changes = {"files": str(tmp_path / "kept"), "directory": str(tmp_path / "attempt-1")}
    assert study.run(train).value == 0
    study.changes = {"files": str(tmp_path / "kept"), "directory": str(tmp_path / "attempt-2")}
    assert study.run(train).value == 1


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (3, "function 'users_module.train' is of type int, not a function"),
        (int, "function 'users_module.train' is of type type, not a function"),
        (lambda: 3, r"function 'users_module.train' takes \(\); it is called as `train\(config, report\)`"),
        (lambda a, b, c: 3, r"takes \(a, b, c\); it is called as"),
    ],
)
def test_what_is_no_such_function(study: Study, found: Any, message: str) -> None:
    with pytest.raises(ModelImportError, match=message):
        study.run(found)
