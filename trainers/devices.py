"""Which devices does a trial get, and how much of their memory did it take?"""

from __future__ import annotations

import resource
import sys

import torch

from trainers.job import TrainerConfig


def choose_devices(config: TrainerConfig, *, slot: int) -> int | list[int]:
    """Trials that run side by side spread over the GPUs of the machine."""
    gpus = torch.cuda.device_count() if config.accelerator in ("auto", "cuda", "gpu") else 0
    if gpus <= config.devices:
        return config.devices
    return sorted((slot * config.devices + device) % gpus for device in range(config.devices))


def peak_memory_bytes(device: torch.device) -> int:
    """The most memory this process has held: on its GPU, or else in RAM."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
