"""Where do the trials of a study run: on this machine, on a Ray cluster, or by a launcher's command line?"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from hpo.errors import SettingsError, SpecError
from trainers.executors import Executor
from trainers.job import TrainerConfig

EXECUTORS = ("local", "ray")


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where trials run. Raises SettingsError for options that do not go together."""

    executor: str = "local"  # or `ray`
    ray_address: str | None = None  # of a cluster; None: that of RAY_ADDRESS, else one of our own on this machine
    launch: str | None = None  # a command line that starts the processes of a trial, with a place for {command}
    launch_host: str | None = None  # the address of this machine for those processes; None: they run on it

    def __post_init__(self) -> None:
        if self.executor not in EXECUTORS:
            raise SettingsError(f"executor {self.executor!r} is unknown; use one of {', '.join(EXECUTORS)}")
        if self.executor == "ray" and self.launch is not None:
            raise SettingsError("a trial is started either by Ray or by a launcher: give `executor: ray` or `launch`")
        if self.executor != "ray" and self.ray_address is not None:
            raise SettingsError("the address of a Ray cluster goes with the executor `ray`")
        if self.launch is None and self.launch_host is not None:
            raise SettingsError("the launcher's host goes with the launcher's command line, `launch`")

    @property
    def is_here(self) -> bool:
        """Whether trials share the processors of this machine."""
        return self.executor == "local" and self.launch is None

    def threads(self, *, jobs: int, devices: int) -> int:
        """Of torch, per process, where the study file does not say: this machine's cores, shared; elsewhere 1."""
        return max(1, len(os.sched_getaffinity(0)) // (jobs * devices)) if self.is_here else 1


HERE = Placement()


def make_executor(
    placement: Placement,
    config: TrainerConfig,
    *,
    jobs: int,
    resources: Mapping[str, float],
    notice: Callable[[str], None],
) -> Executor:
    """What runs a study's trials; each kind is imported only where it is used. resources: Ray's own, of a trial.

    Raises SpecError for trials over several nodes that nobody would start, and TrainerError.
    """
    if placement.launch is not None:
        from trainers.executors.launched import LOOPBACK, LaunchedExecutor  # noqa: PLC0415

        host = placement.launch_host or LOOPBACK
        return LaunchedExecutor(config, jobs=jobs, command=placement.launch, host=host, notice=notice)
    if config.nodes > 1:
        raise SpecError(
            f"trainer.nodes: a trial over {config.nodes} nodes needs a launcher that starts its processes there, "
            "as in `hpo tune STUDY.yaml --launch 'srun {command}'`"
        )
    if placement.executor == "ray":
        from trainers.executors.ray import RayExecutor  # noqa: PLC0415

        return RayExecutor(config, jobs=jobs, address=placement.ray_address, resources=resources, notice=notice)
    from trainers.executors.local import LocalExecutor  # noqa: PLC0415

    return LocalExecutor(config, jobs=jobs)
