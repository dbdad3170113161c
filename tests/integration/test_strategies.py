"""Do trials learn with each strategy and communication, on two processes joined by gloo, and end as they should?"""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_trainers_local import (
    SOON_SECONDS,
    is_running,
    keys,
    make_config,
    run,
    started_pids,
    wait_for,
)
from trainers.errors import TrainerError
from trainers.executors.local import LocalExecutor
from trainers.job import Event, Failed, Finished, FitJob, Reported

pytestmark = pytest.mark.usefixtures("warm_templates")
EPOCHS = 3


@pytest.fixture(scope="module")
def executor() -> Iterator[LocalExecutor]:
    """Its trials choose their strategy, as a space may."""
    config = make_config(model="parallel_models.Net", devices=2, max_epochs=EPOCHS, stall_minutes=2.5)
    with LocalExecutor(config, jobs=1) as executor:
        yield executor


def make_job(directory: Path, name: str = "ddp", *, model: dict[str, Any] | None = None, **options: Any) -> FitJob:
    strategy = {"strategy.name": name, **{f"strategy.{option}": value for option, value in options.items()}}
    params = {**strategy, **(model or {})}
    return FitJob(params=params, seed=1, metric="val_loss", direction="minimize", directory=str(directory))


def weights(directory: Path, rank: int) -> list[float]:
    return [float(number) for number in (directory / f"weights-{rank}").read_text().split()]


def values(events: list[Event]) -> list[float]:
    return [event.value for event in events if isinstance(event, Reported)]


@pytest.fixture(scope="module")
def plain(executor: LocalExecutor, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[float], list[float]]:
    """The values and the last weights of DDP's own communication."""
    folder = tmp_path_factory.mktemp("plain")
    events = run(executor, make_job(folder))
    assert isinstance(events[-1], Finished), events[-1]
    assert weights(folder, 0) == weights(folder, 1)
    return values(events), weights(folder, 0)


@pytest.mark.parametrize(
    ("options", "differs_by"),
    [
        ({"communication": "none", "bucket_cap_mb": 1}, 1e-6),
        ({"communication": "fp16"}, 3e-3),
        ({"communication": "powersgd", "powersgd_rank": 2, "powersgd_start": 4}, 0.5),
        ({"communication": "post_local_sgd", "local_sgd_start": 4, "averaging_period": 4}, 0.5),
    ],
)
def test_ranks_agree_and_learn_with_each_communication(
    executor: LocalExecutor,
    tmp_path: Path,
    plain: tuple[list[float], list[float]],
    options: dict[str, Any],
    differs_by: float,
) -> None:
    events = run(executor, make_job(tmp_path, **options))
    assert isinstance(events[-1], Finished), events[-1]
    assert weights(tmp_path, 0) == pytest.approx(weights(tmp_path, 1), abs=1e-6)
    assert weights(tmp_path, 0) == pytest.approx(plain[1], abs=differs_by)
    if options["communication"] != "none":
        assert weights(tmp_path, 0) != plain[1]  # something else was sent
    assert values(events)[-1] < 0.6 * values(events)[0]
    assert values(events)[-1] == pytest.approx(plain[0][-1], rel=0.5)


@pytest.mark.parametrize("communication", ["fp16", "powersgd"])
def test_gradients_of_several_buckets_are_sent(executor: LocalExecutor, tmp_path: Path, communication: str) -> None:
    job = make_job(tmp_path, model={"between": 600, "lr": 0.01}, communication=communication, powersgd_start=2)
    *_, end = run(executor, job)
    assert isinstance(end, Finished), end
    assert weights(tmp_path, 0) == pytest.approx(weights(tmp_path, 1), abs=1e-4)


def test_tensor_parallel_splits_layers_and_keeps_one_whole_checkpoint(executor: LocalExecutor, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    events = run(executor, make_job(tmp_path, "tensor_parallel"))
    assert isinstance(events[-1], Finished), events[-1]
    assert values(events)[-1] < 0.6 * values(events)[0]
    assert weights(tmp_path, 0) != weights(tmp_path, 1)  # each has its half
    state = torch.load(tmp_path / "best.ckpt", weights_only=True)["state_dict"]
    assert state["net.0.weight"].shape == (16, 8)


def test_ranks_that_share_a_layer_share_a_batch(tmp_path: Path) -> None:
    config = make_config(model="parallel_models.Net", devices=2, max_epochs=1, scale_rule="none")
    told = {}
    with LocalExecutor(config, jobs=1) as executor:
        for name in ("ddp", "tensor_parallel"):
            job = make_job(tmp_path / name, name, model={"optimizer": "sgd", "optimizer.sgd.lr": 0.05})
            report, end = run(executor, job)
            assert isinstance(report, Reported), end
            told[name] = report.metrics["effective_batch"]
    assert told == {"ddp": 16.0, "tensor_parallel": 8.0}


def test_workers_learn_through_a_parameter_server(executor: LocalExecutor, tmp_path: Path) -> None:
    events = run(executor, make_job(tmp_path, "parameter_server"))
    assert isinstance(events[-1], Finished), events[-1]
    assert values(events)[-1] < 0.6 * values(events)[0]
    assert weights(tmp_path, 0) == weights(tmp_path, 1)
    assert all(event.metrics["staleness"] >= 0 for event in events if isinstance(event, Reported))
    assert not any(map(is_running, started_pids(tmp_path, "0", "1")))


@pytest.mark.parametrize("name", ["ddp", "tensor_parallel", "parameter_server"])
def test_all_ranks_leave_a_pruned_trial_at_the_same_epoch(executor: LocalExecutor, tmp_path: Path, name: str) -> None:
    *_, end = run(executor, make_job(tmp_path, name), prune_at=1)
    assert isinstance(end, Finished)
    assert end.outcome.pruned
    assert [(tmp_path / f"epoch-{rank}").read_text() for rank in (0, 1)] == ["1", "1"]
    assert (tmp_path / "strategy-0").read_text().endswith(" 0:02:40")  # a little longer than the watchdog waits


@pytest.mark.parametrize("who", ["the parameter server", "rank 1"])
def test_a_killed_server_or_worker_ends_all(executor: LocalExecutor, tmp_path: Path, who: str) -> None:
    key = next(keys)
    executor.launch(key, make_job(tmp_path, "parameter_server", model={"step_seconds": 1.0}))
    ranks = started_pids(tmp_path, "0", "1")
    (server,) = set(_siblings(ranks[0])) - set(ranks)
    os.kill({"the parameter server": server, "rank 1": ranks[1]}[who], signal.SIGKILL)
    (end,) = wait_for(lambda: executor.poll(0.1), seconds=SOON_SECONDS)
    assert isinstance(end, Failed)
    assert end.kind == "killed"
    assert end.reason.startswith(f"{who} was killed by SIGKILL")
    assert not any(map(is_running, [server, *ranks]))


def _siblings(pid: int) -> list[int]:
    parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return [int(child) for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


def test_a_strategy_of_the_space_that_cannot_be_is_told_at_the_start() -> None:
    config = make_config(model="parallel_models.Net", devices=2, strategy_choices={"name": ["ddp", "fsdp"]})
    with pytest.raises(TrainerError, match=r"fsdp.*requires a GPU"):
        LocalExecutor(config, jobs=1).start(["lr", "strategy.name"])


def _has_two_gpus() -> bool:
    import torch

    return torch.cuda.device_count() > 1


@pytest.mark.parametrize("name", ["fsdp", "deepspeed"])
def test_sharded_strategies_on_gpus(tmp_path: Path, name: str) -> None:
    if not _has_two_gpus():
        pytest.skip("needs two GPUs")
    if name == "deepspeed":
        pytest.importorskip("deepspeed")
    config = make_config(model="parallel_models.Net", devices=2, accelerator="cuda", strategy={"name": name})
    with LocalExecutor(config, jobs=1) as executor:
        *_, end = run(executor, make_job(tmp_path, name))
    assert isinstance(end, Finished)
    assert math.isfinite(end.outcome.value)
