"""Are GPUs known by the same names in every process?"""

from __future__ import annotations

import pytest

from trainers.devices.gpus import Gpu, parse_gpus, select_visible

LISTED = "GPU-5e1f0c2a-0001, 81559\nGPU-77aa13bb-0002, 81559\nGPU-77aa99cc-0003, [N/A]\n"
GPUS = parse_gpus(LISTED)


def test_the_drivers_list() -> None:
    assert GPUS[0] == Gpu(name="GPU-5e1f0c2a-0001", memory_bytes=81559 * 2**20)
    assert GPUS[2].memory_bytes is None
    assert parse_gpus("") == []


@pytest.mark.parametrize(
    ("asked", "places"),
    [
        (None, [0, 1, 2]),
        ("", []),
        ("2,0", [2, 0]),
        ("1, GPU-5e1f", [1, 0]),
        ("0,7,1", [0]),  # as CUDA has it, the first that is not there ends the list
        ("GPU-77aa", []),  # two have a name like that
        ("-1", []),
    ],
)
def test_what_a_program_sees(asked: str | None, places: list[int]) -> None:
    environment = {} if asked is None else {"CUDA_VISIBLE_DEVICES": asked}
    assert select_visible(GPUS, environment) == [GPUS[place] for place in places]


def test_a_part_of_a_gpu_is_a_device_of_its_own() -> None:
    assert [gpu.name for gpu in select_visible(GPUS, {"CUDA_VISIBLE_DEVICES": "MIG-1,MIG-2"})] == ["MIG-1", "MIG-2"]
