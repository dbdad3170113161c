"""Do trials train on real GPUs as on a CPU, one at a time on each, and with hardly a pause between them?"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_trainers_local import keys, make_config, make_job, run
from trainers.devices.gpus import visible_gpus
from trainers.errors import DeviceError
from trainers.executors.local import LocalExecutor
from trainers.job import Event, Finished, FitJob, Outcome, Reported

GPUS = visible_gpus()
GIBIBYTE = 2**30
IDLE_SECONDS = 1.0

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not GPUS, reason="needs a GPU")]


def config(**changes: Any) -> Any:
    return make_config(**{"model": "on_gpu.OnGpu", "max_epochs": 2, "accelerator": "gpu", **changes})


def outcome_of(events: list[Event]) -> Outcome:
    assert isinstance(events[-1], Finished), events[-1]
    return events[-1].outcome


def noted(directory: Path, what: str) -> tuple[float, str]:
    """When it was, and on which device."""
    lines = [line.split() for line in (directory / "noted").read_text().splitlines()]
    return next((float(at), device) for said, at, device in lines if said == what)


@pytest.mark.parametrize(
    ("changes", "params"),
    [
        ({"trainer_args": {"precision": "bf16-mixed"}}, {}),
        ({}, {"compiled": True}),
        ({"strategy": {"name": "ddp"}}, {}),  # NCCL, with one process
        ({"strategy": {"name": "ddp"}, "trainer_args": {"precision": "bf16-mixed"}}, {"compiled": True}),
    ],
    ids=["bf16", "compile", "nccl", "all"],
)
def test_it_trains(tmp_path: Path, changes: dict[str, Any], params: dict[str, Any]) -> None:
    with LocalExecutor(config(**changes), jobs=1) as executor:
        assert outcome_of(run(executor, make_job(tmp_path, **params))).epochs == 2
    assert noted(tmp_path, "begins")[1].startswith("cuda")


def test_memory_is_recorded_and_the_gpu_is_hardly_idle_between_trials(tmp_path: Path) -> None:
    folders = [tmp_path / str(number) for number in range(4)]
    with LocalExecutor(config(), jobs=1) as executor:
        for folder in folders:
            outcome = outcome_of(run(executor, make_job(folder, held_bytes=2 * GIBIBYTE)))
            assert outcome.peak_memory_bytes == pytest.approx(2 * GIBIBYTE, rel=0.05)
    pauses = [noted(after, "begins")[0] - noted(before, "ends")[0] for before, after in pairwise(folders)]
    assert sorted(pauses)[len(pauses) // 2] <= IDLE_SECONDS, pauses


def test_studies_side_by_side_wait_for_a_free_gpu(tmp_path: Path) -> None:
    jobs = len(GPUS)
    with LocalExecutor(config(), jobs=jobs) as mine, LocalExecutor(config(), jobs=jobs) as theirs:
        running: dict[int, tuple[LocalExecutor, Path]] = {}
        for executor in (mine, theirs):
            for _ in range(jobs):
                key = next(keys)
                directory = tmp_path / str(key)
                executor.launch(key, _slow(directory))
                running[key] = executor, directory
        folders = [directory for _, directory in running.values()]
        while running:
            for executor in (mine, theirs):
                for event in executor.poll(0.05):
                    if isinstance(event, Reported):
                        executor.answer(event.key, prune=False)
                    else:
                        assert isinstance(event, Finished), event
                        del running[event.key]
    spans = [(*noted(folder, "begins"), noted(folder, "ends")[0]) for folder in folders]
    for number, (begun, device, ended) in enumerate(spans):
        for other_begun, other_device, other_ended in spans[number + 1 :]:
            assert device != other_device or other_begun >= ended or begun >= other_ended


def _slow(directory: Path) -> FitJob:
    return make_job(directory, nap=0.1)


def test_more_than_there_are_is_refused_at_the_start() -> None:
    with pytest.raises(DeviceError, match=f"this machine has {len(GPUS)}"):
        LocalExecutor(config(), jobs=len(GPUS) + 1).start()
