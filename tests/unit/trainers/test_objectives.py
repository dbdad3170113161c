"""Are further objectives taken from what was measured and what a trial cost, and missed where they are not there?"""

from __future__ import annotations

from dataclasses import replace

import pytest

from trainers.compression.settings import check_compression
from trainers.errors import CompressionError
from trainers.job import FitJob, Outcome, TrainerConfig
from trainers.objectives import with_further_values
from trainers.programs.functions import Reporter
from trainers.reports import FitError

OUTCOME = Outcome(
    value=0.5, best_epoch=1, epochs=3, seconds=2.5, peak_memory_bytes=7, checkpoint="best.ckpt", pruned=False
)


def job(*against: str, directory: str = ".") -> FitJob:
    return FitJob(params={}, seed=0, metric="loss", direction="minimize", directory=directory, against=against)


def test_what_was_measured_and_what_it_cost():
    found = with_further_values(OUTCOME, job("size_bytes", "seconds", "epochs"), {"size_bytes": 10.0})
    assert found.more_values == (10.0, 2.5, 3.0)
    assert with_further_values(OUTCOME, job("seconds"), {"seconds": 9.0}).more_values == (9.0,)  # the model's own
    assert with_further_values(replace(OUTCOME, pruned=True), job("gone"), {}).more_values == ()


@pytest.mark.parametrize(
    ("measured", "kind", "words"),
    [({"f1": float("nan")}, "nan", "f1 of the best"), ({}, "missing_metric", "there are: epochs, peak_memory_bytes")],
)
def test_what_is_missing_or_no_number_is_said(measured, kind, words):
    with pytest.raises(FitError, match=words) as raised:
        with_further_values(OUTCOME, job("f1"), measured)
    assert raised.value.kind == kind


def test_a_function_reports_them_with_its_metric(tmp_path):
    reporter = Reporter(job("size", "epochs", directory=str(tmp_path)), tell=lambda **_: False)
    reporter(loss=0.2, size=5.0)
    reporter(loss=0.3, size=9.0)
    assert reporter.conclude(None, is_pruned=False, name="train").more_values == (5.0, 2.0)  # those of the best step


def test_a_function_cannot_be_compressed_and_other_names_are_left_to_the_training():
    module = TrainerConfig(model="a.B", max_epochs=1)
    assert check_compression(module, ["lr", "compress.sparsity", "model.width"]) == ["lr", "model.width"]
    function = TrainerConfig(function="a.train")
    assert check_compression(function, ["lr"]) == ["lr"]
    with pytest.raises(CompressionError, match=r"'a\.train' is a function, and only a LightningModule"):
        check_compression(function, ["lr", "compress.sparsity"])
