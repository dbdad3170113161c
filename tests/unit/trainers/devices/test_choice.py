"""Are trials that do not fit on the GPUs of a machine refused, with what would be right?"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trainers.devices.choice import check_room, choose_devices, hold_devices
from trainers.errors import DeviceError
from trainers.job import TrainerConfig

FOUR = ["GPU-a", "GPU-b", "GPU-c", "GPU-d"]


def config(**changes: Any) -> TrainerConfig:
    return TrainerConfig(**{"model": "a.B", "max_epochs": 1, **changes})


@pytest.mark.parametrize(
    ("changes", "jobs", "told"),
    [
        (
            {"devices": 2},
            4,
            "jobs = 4 with 2 devices each need 8 GPUs; this machine has 4: use --jobs 2, or "
            "`trainer.trials_per_device: 2`",
        ),
        ({}, 5, "jobs = 5 with 1 device each need 5 GPUs; this machine has 4: use --jobs 4"),
        (
            {"trials_per_device": 2},
            9,
            "jobs = 9 with 1 device each need 5 GPUs; this machine has 4, 2 trials on each .8 at once.: use --jobs 8",
        ),
        ({"devices": 5}, 1, "trainer.devices = 5: a trial needs 5 GPUs, and this machine has 4: use `devices: 4`"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], jobs: int, told: str) -> None:
    with pytest.raises(DeviceError, match=told):
        check_room(config(**changes), jobs=jobs, gpus=FOUR)


@pytest.mark.parametrize(
    ("changes", "jobs"), [({}, 4), ({"devices": 2}, 2), ({"devices": 4}, 1), ({"trials_per_device": 3}, 12)]
)
def test_what_fits_is_not(changes: dict[str, Any], jobs: int) -> None:
    check_room(config(**changes), jobs=jobs, gpus=FOUR)


def test_the_advice_is_itself_right() -> None:
    for devices in range(1, 5):
        for sharers in range(1, 4):
            for jobs in range(1, 20):
                asked = config(devices=devices, trials_per_device=sharers)
                try:
                    check_room(asked, jobs=jobs, gpus=FOUR)
                except DeviceError as error:
                    fewer = int(str(error).partition("use --jobs ")[2].partition(",")[0])
                    more = int(str(error).partition("trials_per_device: ")[2].partition("`")[0])
                    check_room(asked, jobs=fewer, gpus=FOUR)
                    check_room(config(devices=devices, trials_per_device=more), jobs=jobs, gpus=FOUR)
                    assert fewer < jobs and more > sharers


def test_trials_that_start_at_once_hold_different_gpus_and_use_them(
    tmp_path: Path, in_processes: Callable[..., list[Any]]
) -> None:
    def start(slot: int) -> int | list[int]:
        hold_devices(config(devices=2), gpus=FOUR, slot=slot, wait=lambda: None, folder=tmp_path / "locks")
        devices = choose_devices(config(devices=2), slot=0)
        (tmp_path / f"has-started-{slot}").touch()
        while len(list(tmp_path.glob("has-started-*"))) < 2:  # nobody ends, and frees its devices, before all hold some
            time.sleep(0.01)
        return devices

    assert sorted(in_processes(start, 2)) == [[0, 1], [2, 3]]


def test_without_gpus_there_is_room_on_the_cpu_alone() -> None:
    check_room(config(devices=2), jobs=16, gpus=[])
    with pytest.raises(DeviceError, match=r"accelerator: cuda, but this machine shows torch .* no GPU"):
        check_room(config(accelerator="cuda"), jobs=1, gpus=[])


def test_processes_on_a_cpu_are_not_many_times_as_many_as_cores() -> None:
    cores = len(os.sched_getaffinity(0))
    check_room(config(devices=cores), jobs=64, gpus=[])
    with pytest.raises(DeviceError, match=rf"trainer.devices = {32 * cores}: .* has {cores} cores"):
        check_room(config(devices=32 * cores), jobs=1, gpus=[])
