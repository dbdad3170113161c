"""How do the processes of one trial work together?"""

from __future__ import annotations

from datetime import timedelta

from lightning.pytorch.strategies import DDPStrategy, Strategy

from trainers.job import TrainerConfig

COLLECTIVE_TIMEOUT = timedelta(minutes=10)  # NCCL's own default; gloo's is 30 min, long for a rank that hangs


def choose_strategy(config: TrainerConfig) -> str | Strategy:
    """Ranks are forked from the trial's process: nothing is imported twice, and no script runs again."""
    if config.devices == 1:
        return "auto"
    return DDPStrategy(start_method="fork", timeout=COLLECTIVE_TIMEOUT)
