"""Is it clear where trials are to run?"""

from __future__ import annotations

import os
from typing import Any

import pytest

from hpo.errors import SettingsError, SpecError
from hpo.running.executors import HERE, Placement, make_executor
from trainers.job import TrainerConfig

CORES = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"executor": "slurm"}, "'slurm' is unknown; use one of local, ray"),
        ({"ray_address": "auto"}, "goes with the executor `ray`"),
        ({"executor": "ray", "launch": "srun {command}"}, "either by Ray or by a launcher"),
        ({"launch_host": "node1"}, "goes with the launcher's command line"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(SettingsError, match=reason):
        Placement(**options)


def test_several_nodes_need_a_launcher() -> None:
    config = TrainerConfig(model="a.B", nodes=2)
    with pytest.raises(SpecError, match="over 2 nodes needs a launcher"):
        make_executor(HERE, config, jobs=1, resources={}, notice=print)


def test_the_cores_of_this_machine_are_shared_only_by_trials_on_it() -> None:
    assert HERE.threads(jobs=1, devices=1) == CORES
    assert HERE.threads(jobs=2 * CORES, devices=3) == 1
    assert Placement(executor="ray").threads(jobs=1, devices=1) == 1
    assert Placement(launch="srun {command}").threads(jobs=1, devices=1) == 1
