"""Is a launcher's command line understood, and what it tells its processes?"""

from __future__ import annotations

import pytest

from trainers.errors import TrainerError
from trainers.executors.launched import fill_in, split_command
from trainers.processes.launch_environment import LaunchedPlace, place_in_launch, without_launcher

RANK = ("/my python/bin/python", "-m", "rank", "host:1")


def filled(command: str, slot: int = 0) -> list[str]:
    return fill_in(split_command(command), RANK, slot=slot)


def test_the_command_takes_its_place() -> None:
    assert filled("srun -N 2 {command}") == ["srun", "-N", "2", *RANK]
    assert filled("{command}") == list(RANK)


def test_within_a_word_it_is_quoted_for_a_shell() -> None:
    assert filled("sh -c 'module load cuda && {command}'") == [
        "sh",
        "-c",
        "module load cuda && '/my python/bin/python' -m rank host:1",
    ]


def test_the_slot_tells_trials_side_by_side_apart() -> None:
    assert filled("env CUDA_VISIBLE_DEVICES={slot} {command}", slot=3)[1] == "CUDA_VISIBLE_DEVICES=3"


@pytest.mark.parametrize("torchrun", ["torchrun", "/venv/bin/torchrun", "python -m torch.distributed.run"])
def test_torchrun_is_told_that_it_runs_no_script(torchrun: str) -> None:
    words = filled(f"{torchrun} --nproc-per-node=2 {{command}}")
    assert words[-6:] == ["--nproc-per-node=2", "--no-python", *RANK]
    assert filled(f"{torchrun} --no-python {{command}}").count("--no-python") == 1


@pytest.mark.parametrize(("command", "reason"), [("srun -N 2", "no place for {command}"), ("srun '{command}", "quot")])
def test_a_command_line_that_cannot_work_is_refused(command: str, reason: str) -> None:
    with pytest.raises(TrainerError, match=reason):
        split_command(command)


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        ({}, (0, 1)),
        ({"RANK": "3", "WORLD_SIZE": "8"}, (3, 8)),
        ({"SLURM_PROCID": "1", "SLURM_NTASKS": "2"}, (1, 2)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "1", "RANK": "1", "WORLD_SIZE": "2"}, (1, 2)),  # torchrun under srun
    ],
)
def test_a_process_knows_its_place(environment: dict[str, str], place: tuple[int, int]) -> None:
    assert place_in_launch(environment) == LaunchedPlace(rank=place[0], world_size=place[1])


def test_a_place_that_is_no_number_is_told() -> None:
    with pytest.raises(TrainerError, match="RANK='one' and WORLD_SIZE='2'"):
        place_in_launch({"RANK": "one", "WORLD_SIZE": "2"})


def test_trials_do_not_inherit_the_place_of_the_study() -> None:
    study = {"SLURM_PROCID": "1", "SLURM_NTASKS": "4", "RANK": "1", "SLURM_JOB_ID": "77", "HOME": "/home/me"}
    assert without_launcher(study) == {"SLURM_JOB_ID": "77", "HOME": "/home/me"}
