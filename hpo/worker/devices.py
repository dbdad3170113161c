"""What of this machine may trials have?"""

from __future__ import annotations

import os
from collections.abc import MutableMapping

from hpo.errors import SettingsError
from trainers.devices.gpus import Gpu, visible_gpus

AUTO = "auto"


def devices_for(asked: str, environment: MutableMapping[str, str]) -> tuple[int, tuple[str, ...]]:
    """How many devices a trial may have, and their names: GPUs where there are any, else processes on the CPU.

    asked: a number, or `auto` for all. Fewer GPUs than there are: `environment` shows the others to no trial.
    Raises SettingsError.
    """
    gpus = visible_gpus()
    count = _count(asked, gpus)
    if not gpus:
        return count, (f"{len(os.sched_getaffinity(0))} CPU cores",)
    if count < len(gpus):
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpu.name for gpu in gpus[:count])
    return count, tuple(_described(gpu) for gpu in gpus[:count])


def _count(asked: str, gpus: list[Gpu]) -> int:
    if asked == AUTO:
        return len(gpus) or len(os.sched_getaffinity(0))
    if not asked.isdecimal() or int(asked) < 1:
        raise SettingsError(f"--devices {asked}: give a whole number from 1 on, or {AUTO}")
    if gpus and int(asked) > len(gpus):
        raise SettingsError(f"--devices {asked}: this machine has {len(gpus)}")
    return int(asked)


def _described(gpu: Gpu) -> str:
    memory = "" if gpu.memory_bytes is None else f", {gpu.memory_bytes / 2**30:.0f} GiB"
    return f"{gpu.name}{memory}"
