"""Which devices does a trial get, and how much of their memory did it take?"""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import torch

from trainers.devices.gpus import visible_gpus
from trainers.devices.locks import LOCKS, take
from trainers.errors import DeviceError
from trainers.job import TrainerConfig

GPU_ACCELERATORS = ("auto", "cuda", "gpu")
PROCESSES_PER_CORE = 4  # of one trial, heuristic: more wait for each other rather than train
WAIT_SECONDS = 0.05  # between looks for a free device

_held: list[int] = []  # the GPUs of the trial that this process, or the one that it was forked from, is


def gpus_for(config: TrainerConfig) -> list[str]:
    """The names of the GPUs that the trials of a study may use; none where they train on something else."""
    return list(_gpu_names()) if config.accelerator in GPU_ACCELERATORS else []


def check_room(config: TrainerConfig, *, jobs: int, gpus: Sequence[str]) -> None:
    """Whether so many trials fit on the GPUs side by side. Raises DeviceError, which says what would be right.

    Where a study may train on a CPU, a machine without GPUs has room for any number of trials, whose processes take
    turns; but one trial's wait for each other at every step, so there must not be many times as many as cores.
    """
    devices, sharers = config.devices, config.trials_per_device
    if not gpus:
        if config.accelerator in ("cuda", "gpu") and not torch.backends.mps.is_available():
            raise DeviceError(
                f"trainer.accelerator: {config.accelerator}, but this machine shows torch {torch.__version__} no GPU: "
                "use `accelerator: auto` or `cpu`, or a machine with one (is CUDA_VISIBLE_DEVICES set to nothing?)"
            )
        most = PROCESSES_PER_CORE * len(os.sched_getaffinity(0))
        if devices > most and config.accelerator in ("auto", "cpu"):
            raise DeviceError(
                f"trainer.devices = {devices}: on a CPU each is a process of its own, and this machine has "
                f"{len(os.sched_getaffinity(0))} cores for them: use `devices: {most}` at most, better 1"
            )
        return
    here = f"this machine has {len(gpus)}"
    if devices > len(gpus):
        raise DeviceError(
            f"trainer.devices = {devices}: a trial needs {devices} GPUs, and {here}: use `devices: {len(gpus)}`"
            + ("" if len(gpus) > 1 else ", or `accelerator: cpu` for processes without a GPU")
        )
    most = len(gpus) * sharers // devices
    if jobs > most:
        each = f"{devices} device{'s' if devices > 1 else ''} each"
        shared = "" if sharers == 1 else f", {sharers} trials on each ({most} at once)"
        raise DeviceError(
            f"jobs = {jobs} with {each} need {-(-jobs * devices // sharers)} GPUs; {here}{shared}: "
            f"use --jobs {most}, or `trainer.trials_per_device: {-(-jobs * devices // len(gpus))}`"
        )


def hold_devices(
    config: TrainerConfig, *, gpus: Sequence[str], slot: int, wait: Callable[[], None], folder: Path = LOCKS
) -> None:
    """Hold some of the GPUs for the trial that this process is, until its last process ends.

    Waits until enough of them are free, and calls `wait` now and then meanwhile. slot: which of the trials that run
    side by side this is. folder: for the locks. Without GPUs nothing is held. Raises DeviceError.
    To be called before ranks are forked, which hold them too.
    """
    if not gpus:
        return
    check_room(config, jobs=1, gpus=gpus)
    is_told = False

    def wait_for_others() -> None:
        nonlocal is_told
        if not is_told:
            sys.stderr.write("waiting for a free GPU: other trials of this machine hold them\n")
            sys.stderr.flush()
        is_told = True
        wait()
        time.sleep(WAIT_SECONDS)

    hold = take(
        gpus,
        config.devices,
        sharers=config.trials_per_device,
        folder=folder,
        wait=wait_for_others,
        turn_by=slot * config.devices % len(gpus),
    )
    _held[:] = hold.devices  # its files stay open as long as the process lives


def choose_devices(config: TrainerConfig, *, slot: int) -> int | list[int]:
    """The GPUs that this trial holds; where it holds none, as many devices as it needs, others for other slots."""
    if _held:
        return list(_held)
    gpus = len(gpus_for(config))
    if gpus <= config.devices:
        return config.devices
    return sorted((slot * config.devices + device) % gpus for device in range(config.devices))


def peak_memory_bytes(device: torch.device) -> int:
    """The most memory this process has held: on its GPU, or else in RAM."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@cache  # the driver takes its time; the template asks it once for all trials, which are forked from it
def _gpu_names() -> tuple[str, ...]:
    """One for each GPU that torch sees, the same in all programs of this machine. Does not start CUDA."""
    count = torch.cuda.device_count()
    named = [gpu.name for gpu in visible_gpus()] if count else []
    if len(named) == count:
        return tuple(named)
    asked = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")  # not NVIDIA's, or its tools are not installed
    return tuple(f"gpu-{asked[place].strip() if len(asked) == count else place}" for place in range(count))
