"""Does k-fold cross-validation train on every fold, and give their mean? In real processes with real Lightning."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_trainers_local import USER_CODE, make_config, make_job, run
from trainers.errors import ParameterMismatchError
from trainers.executors.local import LocalExecutor
from trainers.fitting.folds import check_folds, fits_of
from trainers.job import Failed, Finished, FitJob, TrainerConfig
from trainers.programs.loading import load_program

pytestmark = pytest.mark.usefixtures("warm_templates")


def folded(**changes: Any) -> TrainerConfig:
    return make_config(**{"model": "folded.Told", "data": "folded.Folded", "folds": 3, "max_epochs": 2, **changes})


@pytest.fixture(scope="module")
def executor() -> Iterator[LocalExecutor]:
    with LocalExecutor(folded(), jobs=1) as executor:
        yield executor


def test_a_trial_is_as_good_as_its_folds_on_average(executor: LocalExecutor, tmp_path: Path) -> None:
    *reports, end = run(executor, make_job(tmp_path))
    assert [(report.epoch, report.value) for report in reports] == [(0, 1.0), (1, 1.5), (2, 3.0)]
    assert [report.metrics["fold_val_loss"] for report in reports] == [1.0, 2.0, 6.0]
    assert [report.metrics["examples"] for report in reports] == [4.0, 4.0, 4.0]
    assert isinstance(end, Finished)
    outcome = end.outcome
    assert (outcome.value, outcome.epochs, outcome.pruned) == (3.0, 6, False)
    assert outcome.checkpoint == str(tmp_path / "fold-1" / "best.ckpt")  # 2.0 is nearest to 3.0
    assert all((tmp_path / f"fold-{fold}" / "best.ckpt").is_file() for fold in range(3))
    seeds = {(tmp_path / f"fold-{fold}" / "seeds").read_text() for fold in range(3)}
    assert len(seeds) == 3


def test_a_trial_may_be_pruned_between_folds(executor: LocalExecutor, tmp_path: Path) -> None:
    *reports, end = run(executor, make_job(tmp_path), prune_at=1)
    assert [report.epoch for report in reports] == [0, 1]
    assert isinstance(end, Finished)
    assert (end.outcome.value, end.outcome.epochs, end.outcome.pruned) == (1.5, 4, True)
    assert not (tmp_path / "fold-2" / "best.ckpt").exists()


def test_what_ends_after_the_last_fold_is_complete(executor: LocalExecutor, tmp_path: Path) -> None:
    *_, end = run(executor, make_job(tmp_path), prune_at=2)
    assert isinstance(end, Finished)
    assert (end.outcome.value, end.outcome.pruned) == (3.0, False)


def test_a_failure_names_its_fold(executor: LocalExecutor, tmp_path: Path) -> None:
    *reports, end = run(executor, make_job(tmp_path, losses=[1.0, float("nan"), 2.0]))
    assert [report.epoch for report in reports] == [0]
    assert isinstance(end, Failed)
    assert (end.kind, end.reason) == ("nan", "val_loss is nan in epoch 0 (in fold 1)")


def test_a_trial_that_died_goes_on_in_the_fold_where_it_was(executor: LocalExecutor, tmp_path: Path) -> None:
    first, again = tmp_path / "attempt-1", tmp_path / "attempt-2"
    *reports, end = run(executor, make_job(first, dies_in=1))
    assert [report.epoch for report in reports] == [0]
    assert isinstance(end, Failed) and end.kind == "killed"
    job = replace(make_job(again, dies_in=1), earlier=(str(first),))
    *reports, end = run(executor, job)
    assert [(report.epoch, report.value) for report in reports] == [(0, 1.0), (1, 1.5), (2, 3.0)]
    assert isinstance(end, Finished)
    assert end.outcome.value == 3.0
    assert end.outcome.notes == ("fold 0: went on after epoch 0 of fold-0",)
    assert (again / "fold-0" / "best.ckpt").is_file()


def test_several_ranks_agree_on_their_folds(tmp_path: Path) -> None:
    with LocalExecutor(folded(devices=2), jobs=1) as executor:
        *reports, end = run(executor, make_job(tmp_path / "whole"))
        assert [(report.epoch, report.value) for report in reports] == [(0, 1.0), (1, 1.5), (2, 3.0)]
        assert isinstance(end, Finished)
        assert (end.outcome.value, end.outcome.epochs) == (3.0, 6)
        *_, measured = run(executor, replace(make_job(tmp_path / "measured"), against=("examples", "size_bytes")))
        assert isinstance(measured, Finished), measured
        assert (measured.outcome.value, measured.outcome.more_values[0]) == (3.0, 4.0)
        *reports, end = run(executor, make_job(tmp_path / "pruned"), prune_at=0)
    assert isinstance(end, Finished)
    assert (len(reports), end.outcome.value, end.outcome.pruned) == (1, 1.0, True)


@pytest.mark.parametrize(
    ("changes", "names", "message"),
    [
        ({"data": "folded.Whole"}, [], "the data module is to take the arguments `fold` .* Whole takes batch_size"),
        ({"model": "odd_models.Odd", "data": None}, [], "`folds`, and there is no data module"),
        ({}, ["lr", "data.fold"], "the space has data.fold, which cross-validation sets: remove it"),
    ],
)
def test_what_cannot_be_folded_is_refused_at_once(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], names: list[str], message: str
) -> None:
    monkeypatch.syspath_prepend(USER_CODE)
    config = folded(**changes)
    with pytest.raises(ParameterMismatchError, match=f"folds = 3: .*{message}"):
        check_folds(load_program(config), config, names)


def test_one_fold_is_a_fit_like_any(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    assert fits_of(make_config(), job) == [job]
    fits: list[FitJob] = fits_of(folded(), job)
    assert [fit.params["data.fold"] for fit in fits] == [0, 1, 2]
    assert len({fit.seed for fit in fits}) == 3
