"""Which GPUs may programs here use, and how much memory has each? Known without torch, from NVIDIA's driver."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

QUERY = ("nvidia-smi", "--query-gpu=uuid,memory.total", "--format=csv,noheader,nounits")
QUERY_SECONDS = 30.0  # a driver that has to wake its GPUs up takes some
MEBIBYTE = 2**20


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A GPU of this machine."""

    name: str  # the same in every process, whatever CUDA_VISIBLE_DEVICES makes of its number
    memory_bytes: int | None  # None: the driver does not say


def visible_gpus() -> list[Gpu]:
    """The GPUs that programs started from here see, in the order of CUDA's numbers; none where there is no driver."""
    try:
        listed = subprocess.run(QUERY, capture_output=True, text=True, timeout=QUERY_SECONDS, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return select_visible(parse_gpus(listed), os.environ)


def parse_gpus(listed: str) -> list[Gpu]:
    """The driver's list: a line `GPU-5e1f…, 81559` for each, in MiB."""
    gpus = []
    for line in listed.splitlines():
        name, _, memory = (part.strip() for part in line.partition(","))
        if name:
            gpus.append(Gpu(name=name, memory_bytes=int(memory) * MEBIBYTE if memory.isdigit() else None))
    return gpus


def select_visible(gpus: Sequence[Gpu], environment: Mapping[str, str]) -> list[Gpu]:
    """What CUDA_VISIBLE_DEVICES leaves of them: numbers, beginnings of names, names of parts (MIG).

    As with CUDA, the first entry that is none of these ends the list.
    """
    asked = environment.get("CUDA_VISIBLE_DEVICES")
    if asked is None:
        return list(gpus)
    visible: list[Gpu] = []
    for entry in (entry.strip() for entry in asked.split(",")):
        if entry.startswith("MIG-"):
            found = Gpu(name=entry, memory_bytes=None)
        elif entry.isdigit() and int(entry) < len(gpus):
            found = gpus[int(entry)]
        else:
            named = [gpu for gpu in gpus if entry and gpu.name.startswith(entry)]
            if len(named) != 1:
                break
            found = named[0]
        visible.append(found)
    return visible
