"""Does a trial on several devices behave like one trial? Two processes on the CPU, joined by gloo."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.test_trainers_local import (
    SOON_SECONDS,
    is_running,
    keys,
    make_config,
    make_job,
    run,
    started_pids,
    wait_for,
)
from trainers.executors.local import LocalExecutor
from trainers.job import Failed, Finished, Reported

pytestmark = pytest.mark.usefixtures("warm_templates")


@pytest.fixture(scope="module")
def executor() -> Iterator[LocalExecutor]:
    with LocalExecutor(make_config(devices=2), jobs=1) as executor:
        yield executor


def test_only_rank_0_reports(executor: LocalExecutor, tmp_path: Path) -> None:
    *reports, end = run(executor, make_job(tmp_path, habit="logs_by_rank"))
    assert [(report.epoch, report.value) for report in reports] == [(0, 3.0), (1, 1.0), (2, 2.0)]
    assert isinstance(end, Finished)
    assert (end.outcome.value, end.outcome.best_epoch, end.outcome.epochs) == (1.0, 1, 3)
    assert Path(end.outcome.checkpoint).is_file()
    ranks = started_pids(tmp_path, "0", "1")
    assert len(set(ranks)) == 2
    assert not any(map(is_running, ranks))


def test_pruning_stops_all_ranks(executor: LocalExecutor, tmp_path: Path) -> None:
    *reports, end = run(executor, make_job(tmp_path), prune_at=0)
    assert [report.epoch for report in reports] == [0]
    assert isinstance(end, Finished)
    assert end.outcome.pruned
    assert not any(map(is_running, started_pids(tmp_path, "0", "1")))


def test_a_bad_metric_fails_as_in_one_process(executor: LocalExecutor, tmp_path: Path) -> None:
    *_, end = run(executor, make_job(tmp_path, losses=[1.0, float("nan")]))
    assert isinstance(end, Failed)
    assert (end.kind, end.reason) == ("nan", "val_loss is nan in epoch 1")


def test_an_error_in_one_rank_ends_all(executor: LocalExecutor, tmp_path: Path) -> None:
    (end,) = run(executor, make_job(tmp_path, habit="rank_1_raises"))
    assert isinstance(end, Failed)
    assert (end.kind, end.reason) == ("exception", "ValueError: only here")
    assert not any(map(is_running, started_pids(tmp_path, "0", "1")))


@pytest.mark.parametrize("who", [0, 1])
def test_a_killed_rank_ends_all(executor: LocalExecutor, tmp_path: Path, who: int) -> None:
    key = next(keys)
    executor.launch(key, make_job(tmp_path, habit="rank_1_hangs"))
    ranks = started_pids(tmp_path, "0", "1")
    os.kill(ranks[who], signal.SIGKILL)
    (end,) = wait_for(lambda: executor.poll(0.1), seconds=SOON_SECONDS)
    assert isinstance(end, Failed)
    assert end.kind == "killed"
    assert end.reason.startswith(f"rank {who} was killed by SIGKILL")
    assert not any(map(is_running, ranks))


def test_kill_ends_a_hung_rank_and_the_one_that_waits_for_it(executor: LocalExecutor, tmp_path: Path) -> None:
    key = next(keys)
    executor.launch(key, make_job(tmp_path, habit="rank_1_hangs"))
    ranks = started_pids(tmp_path, "0", "1")
    executor.kill(key)
    assert not any(map(is_running, ranks))
    assert executor.poll(0.1) == []


def test_ranks_share_the_batches_of_a_recipe_and_score_all_examples_once(tmp_path: Path) -> None:
    import torch
    from sklearn.metrics import f1_score, roc_auc_score

    from trainers.job import FitJob, TrainerConfig
    from trainers.recipes import find_recipe
    from trainers.recipes.digits import Digits
    from trainers.recipes.recurrent import RNN

    recipe, variant = find_recipe("digits_rnn")
    config = TrainerConfig(
        model=recipe.model, data=recipe.data, data_args={"variant": variant}, max_epochs=2, devices=2, accelerator="cpu"
    )
    job = FitJob(params={"lr": 0.02}, seed=0, metric=recipe.metric, direction=recipe.direction, directory=str(tmp_path))
    with LocalExecutor(config, jobs=1) as executor:
        *reports, end = run(executor, job)
    assert isinstance(end, Finished)
    report = reports[end.outcome.best_epoch]
    assert isinstance(report, Reported)
    model, data = RNN(), Digits()
    model.network = model.make_network(data.input_shape, data.n_outputs)
    model.load_state_dict(torch.load(tmp_path / "best.ckpt", weights_only=True)["state_dict"])
    ((images, labels),) = data.val_dataloader()
    chances = model.eval().network(images).softmax(dim=1).detach().numpy()
    found = chances.argmax(axis=1)
    assert report.metrics["val_accuracy"] == pytest.approx((found == labels.numpy()).mean(), abs=1e-6)
    assert report.metrics["val_f1"] == pytest.approx(f1_score(labels, found, average="macro"), abs=1e-6)
    area = roc_auc_score(labels, chances, multi_class="ovr", average="macro")
    assert report.metrics["val_auroc"] == pytest.approx(area, abs=1e-5)
