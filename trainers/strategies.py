"""How do the processes of one trial work together?"""

from __future__ import annotations

from datetime import timedelta

from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy, Strategy

from trainers.job import TrainerConfig
from trainers.ranks import is_rank

COLLECTIVE_TIMEOUT = timedelta(minutes=10)  # NCCL's own default; gloo's is 30 min, long for a rank that hangs


def count_ranks(config: TrainerConfig) -> int:
    """Processes that a trial forks; 1: it forks none."""
    return config.devices


def choose_strategy(config: TrainerConfig) -> str | Strategy:
    """How the ranks of a trial work together, whoever started them."""
    if config.devices == 1:
        return "auto"
    return DDPStrategy(timeout=COLLECTIVE_TIMEOUT, cluster_environment=LightningEnvironment() if is_rank() else None)
