"""What does a launcher (torchrun, srun) tell a process about its place among the others?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from trainers.errors import TrainerError

VARIABLES = (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS"))  # torchrun's first: it may run under srun
OTHER_VARIABLES = (
    *("LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "NODE_RANK", "ROLE_RANK", "ROLE_WORLD_SIZE"),
    *("MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_USE_AGENT_STORE"),
    *("SLURM_LOCALID", "SLURM_NODEID", "SLURM_NTASKS_PER_NODE", "SLURM_STEP_NUM_TASKS"),
)


@dataclass(frozen=True, kw_only=True)
class LaunchedPlace:
    """Which process of how many this is."""

    rank: int
    world_size: int


def place_in_launch(environment: Mapping[str, str]) -> LaunchedPlace:
    """The place that a launcher gave; the only process where there is no launcher. Raises TrainerError."""
    for rank, world_size in VARIABLES:
        if rank in environment and world_size in environment:
            try:
                return LaunchedPlace(rank=int(environment[rank]), world_size=int(environment[world_size]))
            except ValueError:
                told = f"{rank}={environment[rank]!r} and {world_size}={environment[world_size]!r}"
                raise TrainerError(f"the launcher has set {told}, which are no numbers") from None
    return LaunchedPlace(rank=0, world_size=1)


def without_launcher(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment for processes that are no ranks of whatever this process was launched by.

    Else Lightning would take a trial of a study that srun has started for one of srun's tasks.
    """
    told = {name for pair in VARIABLES for name in pair} | set(OTHER_VARIABLES)
    return {name: value for name, value in environment.items() if name not in told}
