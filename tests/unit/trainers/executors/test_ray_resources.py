"""What does a trial ask of a Ray cluster, and is it said what is missing?"""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

pytest.importorskip("ray", reason="Ray comes with hindsight-hpo[ray]")

from trainers.errors import TrainerError
from trainers.executors.ray import RayExecutor, needed, shortfall
from trainers.job import TrainerConfig

CPU_NODE, GPU_NODE = {"CPU": 8.0}, {"CPU": 4.0, "GPU": 2.0, "A100": 2.0}


def config(**changes: Any) -> TrainerConfig:
    return TrainerConfig(**{"model": "a.B", "max_epochs": 1, **changes})


def test_threads_and_devices_are_asked_for() -> None:
    assert needed(config(threads=2, devices=3), {}, [CPU_NODE]) == {"CPU": 6}
    assert needed(config(), {"A100": 1}, [CPU_NODE]) == {"CPU": 1, "A100": 1}


@pytest.mark.parametrize(
    ("accelerator", "nodes", "gpus"),
    [("cpu", [GPU_NODE], None), ("auto", [CPU_NODE], None), ("auto", [CPU_NODE, GPU_NODE], 2), ("gpu", [CPU_NODE], 2)],
)
def test_gpus_are_asked_for_where_they_are_to_be_used(accelerator: str, nodes: list[Any], gpus: int | None) -> None:
    assert needed(config(accelerator=accelerator, devices=2), {}, nodes).get("GPU") == gpus


def test_trials_that_share_a_gpu_ask_for_a_part_of_it() -> None:
    assert needed(config(accelerator="gpu", trials_per_device=4), {}, [GPU_NODE])["GPU"] == 0.25


def test_what_no_node_has_is_named() -> None:
    assert shortfall({"CPU": 8}, [CPU_NODE, GPU_NODE]) is None
    assert shortfall({"CPU": 16, "A100": 1}, [CPU_NODE, GPU_NODE]) == "CPU 16 (the most is 8)"
    assert shortfall({"H100": 1}, [CPU_NODE]) == "H100 1 (the most is 0)"
    assert shortfall({"CPU": 8, "GPU": 1}, [CPU_NODE, GPU_NODE]) == "no single node has CPU 8, GPU 1"
    assert shortfall({"CPU": 1}, []) == "CPU 1 (the most is 0)"


def test_an_address_where_nobody_listens_is_told_at_once() -> None:
    for address in ("127.0.0.1:1", "ray://127.0.0.1:1"):
        with pytest.raises(TrainerError, match=f"no Ray cluster can be reached at {address}"):
            RayExecutor(config(), jobs=1, address=address).start()


def test_without_ray_the_way_to_install_it_is_told() -> None:
    code = (
        "import sys; sys.modules['ray'] = None\n"
        "from hpo.running.executors import Placement, make_executor\n"
        "from trainers.errors import TrainerError\n"
        "from trainers.job import TrainerConfig\n"
        "try:\n"
        "    config = TrainerConfig(model='a.B')\n"
        "    make_executor(Placement(executor='ray'), config, jobs=1, resources={}, notice=print)\n"
        "except TrainerError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'hindsight-hpo[ray]'" in done.stdout
